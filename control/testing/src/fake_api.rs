//! A small API server in memory: objects of any kind by path, with versions, conflicts, lists, watches, finalizers and the
//! status subresource. It validates nothing and defaults nothing.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use http::{Method, StatusCode};
use hypernetes_api::{ApiError, Reason, names::TENANT_ANNOTATION};
use hypernetes_client::Clients;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

/// Its objects; copies of it have the same ones.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<Objects>>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct Objects {
    revision: u64,
    /// What was read: paths with their queries.
    asked: Vec<String>,
    /// By cluster, collection's path and name.
    objects: BTreeMap<(String, String, String), Value>,
    log: Vec<Event>,
}

#[derive(Clone)]
struct Event {
    revision: u64,
    kind: &'static str,
    cluster: String,
    collection: String,
    before: Option<Value>,
    object: Value,
}

/// A request's path taken apart.
struct Target {
    cluster: String,
    collection: String,
    name: Option<String>,
    status: bool,
    /// What is asked for of the collection: fields, and what they have to be.
    fields: Vec<(String, String)>,
}

impl Target {
    fn selects(&self, object: &Value) -> bool {
        let is = |path: &str, value: &str| {
            let found = path.split('.').try_fold(object, |object, field| object.get(field));
            found.and_then(Value::as_str).unwrap_or_default() == value
        };
        self.fields.iter().all(|(path, value)| is(path, value))
    }
}

fn target(path: &str) -> Option<Target> {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if parts.len() < 4 || parts[0] != "clusters" {
        return None;
    }
    let cluster = parts[1].to_owned();
    parts.drain(..2);
    let version = if parts[0] == "api" { 2 } else { 3 };
    let namespaced = parts.get(version) == Some(&"namespaces") && parts.len() > version + 2;
    let plural = if namespaced { version + 2 } else { version };
    let collection = parts.get(..=plural)?.join("/");
    let name = parts.get(plural + 1).map(|name| (*name).to_owned());
    Some(Target { cluster, collection, name, status: parts.get(plural + 2) == Some(&"status"), fields: Vec::new() })
}

impl FakeApi {
    pub fn new() -> Self {
        Self::default()
    }

    /// Clients that it answers.
    pub fn clients(&self) -> Clients {
        let router: Router = Router::new().fallback(answer).with_state(self.clone());
        Clients::in_process(router.into_service::<kube::client::Body>().map_err(|never: Infallible| match never {}))
    }

    /// What has been read of it, in this order: paths with their queries.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    fn change(
        &self,
        objects: &mut Objects,
        kind: &'static str,
        target: &Target,
        name: &str,
        mut object: Value,
    ) -> Value {
        objects.revision += 1;
        object["metadata"]["resourceVersion"] = json!(objects.revision.to_string());
        let key = (target.cluster.clone(), target.collection.clone(), name.to_owned());
        let before =
            if kind == "DELETED" { objects.objects.remove(&key) } else { objects.objects.insert(key, object.clone()) };
        objects.log.push(Event {
            revision: objects.revision,
            kind,
            cluster: target.cluster.clone(),
            collection: target.collection.clone(),
            before,
            object: object.clone(),
        });
        self.revision.send_replace(objects.revision);
        object
    }

    fn write(&self, method: &Method, target: &Target, body: &Value) -> Result<Value, ApiError> {
        let mut objects = self.state.lock().unwrap();
        let resource = target.collection.rsplit('/').next().unwrap_or_default().to_owned();
        let Some(name) = target.name.as_deref().or(body["metadata"]["name"].as_str()).map(str::to_owned) else {
            return Err(ApiError::bad_request("name or generateName is required"));
        };
        let key = (target.cluster.clone(), target.collection.clone(), name.clone());
        let known = objects.objects.get(&key).cloned();
        if *method == Method::POST {
            if known.is_some() {
                return Err(ApiError::already_exists("", &resource, &name));
            }
            let mut object = body.clone();
            object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
            object["metadata"]["creationTimestamp"] =
                json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            object.as_object_mut().ok_or_else(|| ApiError::bad_request("no object"))?.remove("status");
            return Ok(self.change(&mut objects, "ADDED", target, &name, object));
        }
        let known = known.ok_or_else(|| ApiError::not_found("", &resource, &name))?;
        let finalized = |object: &Value| object["metadata"]["finalizers"].as_array().is_none_or(|list| list.is_empty());
        let precondition = [&body["metadata"], &body["preconditions"]]
            .iter()
            .find_map(|from| from["resourceVersion"].as_str().map(str::to_owned));
        if precondition.is_some_and(|wanted| known["metadata"]["resourceVersion"] != wanted) {
            return Err(ApiError::conflict("", &resource, &name, "the object has been modified"));
        }
        if *method == Method::DELETE {
            if finalized(&known) {
                return Ok(self.change(&mut objects, "DELETED", target, &name, known));
            }
            let mut object = known;
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = object["metadata"]["creationTimestamp"].clone();
                object = self.change(&mut objects, "MODIFIED", target, &name, object);
            }
            return Ok(object);
        }
        let mut object = known.clone();
        let mut wanted = body.clone();
        if *method == Method::PATCH {
            let mut patched = known.clone();
            merge(&mut patched, body);
            wanted = patched;
        }
        if target.status {
            object["status"] = wanted["status"].clone();
        } else {
            for field in ["uid", "creationTimestamp", "deletionTimestamp"] {
                wanted["metadata"][field] = known["metadata"][field].clone();
            }
            wanted["status"] = known["status"].clone();
            object = wanted;
        }
        if !object["metadata"]["deletionTimestamp"].is_null() && finalized(&object) {
            return Ok(self.change(&mut objects, "DELETED", target, &name, object));
        }
        Ok(self.change(&mut objects, "MODIFIED", target, &name, object))
    }

    fn read(&self, target: &Target) -> Result<Value, ApiError> {
        let objects = self.state.lock().unwrap();
        let Some(name) = &target.name else {
            let items: Vec<Value> = objects
                .objects
                .iter()
                .filter(|((cluster, collection, _), _)| {
                    (target.cluster == "*" || target.cluster == *cluster) && *collection == target.collection
                })
                .filter(|(_, object)| target.selects(object))
                .map(|((cluster, ..), object)| with_tenant(object, cluster, target))
                .collect();
            return Ok(json!({
                "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": objects.revision.to_string()},
                "items": items,
            }));
        };
        let key = (target.cluster.clone(), target.collection.clone(), name.clone());
        let resource = target.collection.rsplit('/').next().unwrap_or_default();
        objects.objects.get(&key).cloned().ok_or_else(|| ApiError::not_found("", resource, name))
    }

    fn watch(&self, target: Target, from: u64) -> Body {
        let (state, revision) = (Arc::clone(&self.state), self.revision.subscribe());
        Body::from_stream(stream::unfold((from, revision, target), move |(seen, mut revision, target)| {
            let state = Arc::clone(&state);
            async move {
                loop {
                    let (lines, newest) = {
                        let objects = state.lock().unwrap();
                        let events = objects.log.iter().filter(|event| {
                            event.revision > seen
                                && (target.cluster == "*" || target.cluster == event.cluster)
                                && event.collection == target.collection
                        });
                        let line = |event: &Event| {
                            let before = event.before.as_ref().is_some_and(|before| target.selects(before));
                            let kind = match (before, target.selects(&event.object)) {
                                (false, false) => return String::new(),
                                (true, false) => "DELETED",
                                (false, true) if event.kind == "MODIFIED" => "ADDED",
                                _ => event.kind,
                            };
                            let object = with_tenant(&event.object, &event.cluster, &target);
                            // The type first, as API servers have it: the object can be read as it comes then.
                            format!("{{\"type\":{},\"object\":{object}}}\n", json!(kind))
                        };
                        (events.map(line).collect::<String>(), objects.revision)
                    };
                    if !lines.is_empty() {
                        return Some((Ok::<_, Infallible>(Bytes::from(lines)), (newest, revision, target)));
                    }
                    revision.wait_for(|now| *now > newest).await.ok()?;
                }
            }
        }))
    }
}

fn with_tenant(object: &Value, cluster: &str, target: &Target) -> Value {
    let mut object = object.clone();
    if target.cluster == "*" {
        object["metadata"]["annotations"][TENANT_ANNOTATION] = json!(cluster);
    }
    object
}

/// RFC 7396
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    into.remove(name);
                } else {
                    merge(into.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (into, Value::Object(_)) => {
            *into = json!({});
            merge(into, patch);
        }
        (into, patch) => *into = patch.clone(),
    }
}

async fn answer(State(api): State<FakeApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let parameter = |name: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
    };
    let Some(mut target) = target(parts.uri.path()) else {
        return render(Err(ApiError::new(Reason::NotFound, "no such path")));
    };
    let selector = parameter("fieldSelector").unwrap_or_default().replace("%3D", "=").replace("%2C", ",");
    target.fields =
        selector.split(',').filter_map(|term| term.split_once('=')).map(|(f, v)| (f.into(), v.into())).collect();
    if parts.method == Method::GET {
        api.state.lock().unwrap().asked.push(parts.uri.to_string());
    }
    if parts.method == Method::GET && matches!(parameter("watch").as_deref(), Some("true" | "1")) {
        let from = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        return Response::new(api.watch(target, from));
    }
    if parts.method == Method::GET {
        return render(api.read(&target));
    }
    let bytes = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    render(api.write(&parts.method, &target, &body))
}

fn render(result: Result<Value, ApiError>) -> Response {
    let (code, value) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => (error.code(), error.to_status()),
    };
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
