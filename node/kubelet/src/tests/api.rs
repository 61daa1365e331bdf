//! An API server that checks nothing: whatever was put into it is what the kubelet reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hypernetes_api::names;
use hypernetes_client::Clients;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Value>,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
    events: Vec<Value>,
    version: u64,
    tokens: u64,
    /// Ids of tenants.
    deleted: BTreeSet<String>,
    /// Every tenant's.
    limits: Value,
    /// That nobody is told.
    unsaid: bool,
}

#[derive(Clone)]
pub struct HostileApi {
    state: Arc<Mutex<State>>,
    /// Moves with each change.
    changed: watch::Sender<u64>,
    /// Contents of every config map and secret.
    data: Arc<BTreeMap<String, String>>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn answer(code: StatusCode, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn missing() -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
        "message": "not found", "code": 404});
    answer(StatusCode::NOT_FOUND, &status)
}

impl HostileApi {
    pub fn new(data: &[(&str, &str)]) -> Self {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { state: Arc::default(), changed: watch::Sender::new(0), data: Arc::new(data) }
    }

    pub fn clients(&self) -> Clients {
        let api = self.clone();
        Clients::in_process(tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        }))
    }

    /// Puts a pod there, of the tenant and bound to the node, as it is.
    pub fn put(&self, tenant: &str, uid: &str, mut pod: Value) {
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["uid"] = uid.into();
        pod["metadata"]["annotations"][names::TENANT_ANNOTATION] = tenant.into();
        for (field, value) in [("name", uid), ("namespace", "default")] {
            if pod["metadata"][field].is_null() {
                pod["metadata"][field] = value.into();
            }
        }
        self.change(|state| {
            state.pods.insert(uid.to_owned(), pod.clone());
            state.tell("ADDED", &pod);
        });
    }

    /// `kubectl delete`, with a grace of so many seconds.
    pub fn delete(&self, uid: &str, grace: i64) {
        self.change(|state| {
            let Some(pod) = state.pods.get_mut(uid) else { return };
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            let pod = pod.clone();
            state.tell("MODIFIED", &pod);
        });
    }

    /// What the operator lets each tenant have.
    pub fn limit(&self, limits: Value) {
        self.change(|state| state.limits = limits);
    }

    /// Whether it fails to say that.
    pub fn fails_to_say_limits(&self, unsaid: bool) {
        self.change(|state| state.unsaid = unsaid);
    }

    /// Deletes a tenant, but none of its pods.
    pub fn delete_tenant(&self, tenant: &str) {
        self.change(|state| state.deleted.insert(tenant.to_owned()));
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let done = act(&mut self.state.lock());
        self.changed.send_modify(|number| *number += 1);
        done
    }

    pub fn pod(&self, uid: &str) -> Option<Value> {
        self.state.lock().pods.get(uid).cloned()
    }

    pub fn events(&self) -> Vec<Value> {
        self.state.lock().events.clone()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        let query = parts.uri.query().unwrap_or_default();
        match (&parts.method, path.as_slice()) {
            (&Method::GET, ["clusters", _, "api", "v1", "pods"]) if query.contains("watch=") => self.watch(),
            (&Method::GET, ["clusters", _, "api", "v1", "pods"]) => {
                let state = self.state.lock();
                let items: Vec<_> = state.pods.values().cloned().collect();
                let list = json!({"kind": "PodList", "apiVersion": "v1", "items": items,
                    "metadata": {"resourceVersion": state.version.to_string()}});
                answer(StatusCode::OK, &list)
            }
            (_, ["clusters", _, "api", "v1", "namespaces", _, "pods", name, rest @ ..]) => {
                self.pod_request(&parts.method, name, rest, &sent)
            }
            (&Method::POST, ["clusters", _, "api", "v1", "namespaces", _, "events"]) => {
                self.change(|state| state.events.push(sent.clone()));
                answer(StatusCode::CREATED, &sent)
            }
            (&Method::GET, ["clusters", _, "api", "v1", "namespaces", _, "configmaps", name]) => {
                answer(StatusCode::OK, &json!({"metadata": {"name": name}, "data": *self.data}))
            }
            (&Method::GET, ["clusters", _, "api", "v1", "namespaces", _, "secrets", name]) => {
                let encoded = self.data.iter().map(|(key, value)| {
                    use base64::Engine as _;
                    (key.clone(), Value::from(base64::engine::general_purpose::STANDARD.encode(value)))
                });
                let data: serde_json::Map<_, _> = encoded.collect();
                answer(StatusCode::OK, &json!({"metadata": {"name": name}, "data": data}))
            }
            (&Method::POST, ["clusters", _, "api", "v1", "namespaces", _, "serviceaccounts", _, "token"]) => {
                let number = self.change(|state| {
                    state.tokens += 1;
                    state.tokens
                });
                let status = json!({"token": format!("token-{number}"), "expirationTimestamp": "2099-01-01T00:00:00Z"});
                answer(StatusCode::CREATED, &json!({"metadata": {}, "spec": {"audiences": []}, "status": status}))
            }
            (&Method::GET, ["clusters", "system", "apis", "identity.hypernetes.io", _, "projects", name]) => {
                self.project(name)
            }
            (&Method::GET, ["clusters", _, "api", "v1", "nodes", name]) => {
                answer(StatusCode::OK, &json!({"metadata": {"name": name}, "spec": {}}))
            }
            (&Method::PATCH, ["clusters", _, .., "nodes" | "leases", name]) => {
                answer(StatusCode::OK, &json!({"metadata": {"name": name}}))
            }
            (&Method::PATCH, ["clusters", _, .., "nodes", name, "status"]) => {
                answer(StatusCode::OK, &json!({"metadata": {"name": name}}))
            }
            _ => missing(),
        }
    }

    /// As a node is told of it: nothing but that it is there, where none of its pods is the node's.
    fn project(&self, name: &str) -> Answer {
        let state = self.state.lock();
        let known = state.pods.values().any(|pod| pod["metadata"]["annotations"][names::TENANT_ANNOTATION] == name);
        let refused = |code: StatusCode, reason: &str| {
            let details = json!({"name": name, "group": "identity.hypernetes.io", "kind": "projects"});
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": reason, "message": reason, "details": details, "code": code.as_u16()});
            answer(code, &status)
        };
        match () {
            () if state.unsaid => refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            () if state.deleted.contains(name) => refused(StatusCode::NOT_FOUND, "NotFound"),
            () if known => {
                let spec = if state.limits.is_null() { json!({}) } else { json!({"limits": state.limits}) };
                answer(StatusCode::OK, &json!({"metadata": {"name": name}, "spec": spec}))
            }
            () => refused(StatusCode::FORBIDDEN, "Forbidden"),
        }
    }

    fn pod_request(&self, method: &Method, name: &str, rest: &[&str], sent: &Value) -> Answer {
        let uid = match method {
            &Method::DELETE => sent["preconditions"]["uid"].as_str(),
            _ => sent["metadata"]["uid"].as_str(),
        };
        let uid = uid.unwrap_or(name).to_owned();
        self.change(|state| match (method, rest) {
            (&Method::PATCH, ["status"]) => {
                let Some(pod) = state.pods.get_mut(&uid) else { return missing() };
                for (field, value) in sent["status"].as_object().into_iter().flatten() {
                    pod["status"][field] = value.clone();
                }
                let pod = pod.clone();
                state.tell("MODIFIED", &pod);
                // What was put in need not be a pod: this is.
                answer(StatusCode::OK, &json!({"metadata": {"name": name}}))
            }
            (&Method::DELETE, []) => {
                let Some(pod) = state.pods.remove(&uid) else { return missing() };
                state.tell("DELETED", &pod);
                answer(StatusCode::OK, &json!({"metadata": {"name": name}}))
            }
            _ => missing(),
        })
    }

    fn watch(&self) -> Answer {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        // A watch begins with all that there is: the test puts pods in before and after.
        for pod in state.pods.values() {
            let _ = sender.send(line("ADDED", pod));
        }
        state.watchers.push(sender);
        let frames = futures::StreamExt::map(UnboundedReceiverStream::new(receiver), |line| Ok(Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    // In the order that servers have: the type says how the object is read.
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}

impl State {
    fn tell(&mut self, kind: &str, pod: &Value) {
        self.version += 1;
        let mut pod = pod.clone();
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.watchers.retain(|watcher| watcher.send(line(kind, &pod)).is_ok());
    }
}
