//! Each plugin has an effect, which is gone without it; and no write and no connection goes by them.

use std::sync::Arc;

use axum::body::Body;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request as HttpRequest};
use http_body_util::BodyExt;
use hypernetes_api::{AllTenants, ApiError, auth::UserInfo, names};
use hypernetes_store::{Options, Store};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::{Additions, CHAIN, Plugin, Request, Step, ready};
use crate::{ApiServer, Config, authentication};

tokio::task_local! {
    /// The plugin that is left out.
    static WITHOUT: &'static str;
    /// One more, which refuses everything.
    static CLOSED: ();
    /// What happens once between a write's admission and its commit.
    static MEANWHILE: Mutex<Option<BoxFuture<'static, ()>>>;
}

const PAUSE: Plugin = Plugin { name: "Pause", about: |_| true, step: Step::Validate(pause) };

fn pause<'a>(_: &'a Request<'a>, _: &'a Value, _: &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>> {
    let work = MEANWHILE.try_with(|work| work.lock().take()).ok().flatten();
    Box::pin(async move {
        if let Some(work) = work {
            work.await;
        }
        Ok(())
    })
}

const CLOSER: Plugin = Plugin { name: "Closer", about: |_| true, step: Step::Validate(close) };

fn close<'a>(request: &'a Request<'a>, _: &'a Value, _: &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>> {
    ready(Err(request.forbidden("", "closed")))
}

/// The chain, as a test wants it.
pub(super) fn chain() -> impl Iterator<Item = &'static Plugin> {
    let without = WITHOUT.try_get().unwrap_or_default();
    let closer = CLOSED.try_with(|()| &CLOSER).ok();
    let pause = MEANWHILE.try_with(|_| &PAUSE).ok();
    CHAIN.iter().filter(move |plugin| plugin.name != without).chain(closer).chain(pause)
}

#[test]
fn mutators_come_before_validators_and_each_once() {
    let rest = CHAIN.iter().skip_while(|plugin| matches!(plugin.step, Step::First(_)));
    let validators =
        rest.skip_while(|plugin| matches!(plugin.step, Step::Mutate(_) | Step::MutateByOwn(_) | Step::Both(..)));
    assert!(validators.clone().all(|plugin| matches!(plugin.step, Step::Validate(_))));
    let names: std::collections::BTreeSet<_> = CHAIN.iter().map(|plugin| plugin.name).collect();
    assert_eq!(names.len(), CHAIN.len());
}

/// Of a user called ann, for a key that nobody has.
const SIGNING_REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISU1IQUNBUUF3RGpFTU1Bb0dBMVVFQXd3RFlXNXVNRmt3RXdZSEtvWkl6aj\
    BDQVFZSUtvWkl6ajBEQVFjRApRZ0FFTktFQWVCcUN0TXhoL2FTUUg2ZnNNRWdQU2FrNFVTbWhkeVpVOVZ3K2FFc0l6Qmwza0kwYWg2QThRUmtp\
    CjlXeFc4Q2lFZVRJY2JQTzlGNUlVTEtydzY2QUFNQW9HQ0NxR1NNNDlCQU1DQTBnQU1FVUNJQWlmQmI4THFQSHgKSFJsSkJON0oraCt2SUlKdm\
    VWaEQ4TWptdTUzUUp6b2xBaUVBamEvelNXVWJyQXoxekVheW9tR1d6VlRLUUw5cgo3aTk2NVNGYmVEMFdnM0E9Ci0tLS0tRU5EIENFUlRJRklD\
    QVRFIFJFUVVFU1QtLS0tLQo=";

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules(group: &str) -> Value {
    let rule =
        json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]});
    json!({"resourceRules": [rule]})
}

fn condition(name: &str) -> String {
    format!("object.metadata.name.startsWith('{name}-')")
}

fn named(name: &str) -> Value {
    json!({"metadata": {"generateName": format!("{name}-")}})
}

struct Bench {
    server: ApiServer,
    _directory: TempDir,
}

fn user(name: &str, group: &str, tenant: &str) -> UserInfo {
    let groups = vec![group.to_owned(), names::GROUP_AUTHENTICATED.to_owned()];
    UserInfo {
        name: name.into(),
        uid: String::new(),
        groups,
        extra: Default::default(),
        tenant: tenant.parse().unwrap(),
    }
}

fn acme() -> UserInfo {
    user("admin", names::GROUP_KEYSTONE_ADMIN, "acme")
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { values: crate::VALUES, ..Options::default() };
        let store = Store::open(&directory.path().join("store"), options).unwrap();
        let server = ApiServer::new(Config { store: Arc::new(store), all_tenants: AllTenants::grant() });
        let bench = Self { server, _directory: directory };
        let system = authentication::infrastructure();
        for (cluster, name) in [("acme", "default"), ("system", "kube-node-lease")] {
            let path = format!("/clusters/{cluster}/api/v1/namespaces");
            bench.made(&system, &path, json!({"metadata": {"name": name}})).await;
        }
        let account = json!({"metadata": {"name": "default"}});
        bench.made(&acme(), "/api/v1/namespaces/default/serviceaccounts", account).await;
        bench
    }

    async fn send(&self, user: &UserInfo, method: Method, path: &str, content: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let mut request =
            HttpRequest::builder().method(method).uri(path).header("content-type", content).body(body).unwrap();
        request.extensions_mut().insert(user.clone());
        let answer = self.server.router().oneshot(request).await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn post(&self, user: &UserInfo, path: &str, object: Value) -> (u16, Value) {
        self.send(user, Method::POST, path, "application/json", &object).await
    }

    async fn made(&self, user: &UserInfo, path: &str, object: Value) {
        let (code, answer) = self.post(user, path, object).await;
        assert_eq!(code, 201, "{answer}");
    }

    /// Makes a pod with this of its own in its spec.
    async fn pod(&self, own: Value) -> (u16, Value) {
        let mut pod =
            json!({"metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (field, value) in own.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        self.post(&acme(), "/api/v1/namespaces/default/pods", pod).await
    }

    /// A policy that is bound, about config maps whose names begin so.
    async fn policy(&self, name: &str, sort: &str, mut spec: Value, mut binding: Value) {
        spec["matchConstraints"] = rules("");
        spec["matchConditions"] = json!([{"name": "c", "expression": condition(name)}]);
        binding["policyName"] = name.into();
        let path = format!("{ADMISSION}/{}admissionpolic", sort.to_lowercase());
        for (path, spec) in [(format!("{path}ies"), spec), (format!("{path}ybindings"), binding)] {
            let (code, answer) = self.post(&acme(), &path, json!({"metadata": {"name": name}, "spec": spec})).await;
            assert!([201, 409].contains(&code), "{answer}");
        }
    }

    /// Whether the plugin of this name does what it is there for.
    async fn effect(&self, plugin: &str) -> bool {
        let forbidden = |(code, answer): (u16, Value)| {
            assert!([201, 403].contains(&code), "{plugin}: {answer}");
            code == 403
        };
        let found = |(code, answer): (u16, Value), path: &str| {
            assert_eq!(code, 201, "{plugin}: {answer}");
            answer.pointer(path).is_some()
        };
        let map = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
        match plugin {
            "NamespaceLifecycle" => {
                let (code, _) = self.post(&acme(), &map("none"), json!({"metadata": {"generateName": "m-"}})).await;
                code == 404
            }
            "DefaultTolerationSeconds" => found(self.pod(json!({})).await, "/spec/tolerations/0"),
            "ServiceAccount" => found(self.pod(json!({})).await, "/spec/serviceAccountName"),
            "DefaultStorageClass" => {
                let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
                let class = json!({"metadata": {"name": "c", "annotations": annotations}, "provisioner": "p"});
                self.post(&authentication::infrastructure(), "/apis/storage.k8s.io/v1/storageclasses", class).await;
                let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
                let claim = json!({"metadata": {"generateName": "c-"}, "spec": spec});
                let path = "/api/v1/namespaces/default/persistentvolumeclaims";
                found(self.post(&acme(), path, claim).await, "/spec/storageClassName")
            }
            "DefaultIngressClass" => {
                let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
                let class =
                    json!({"metadata": {"name": "c", "annotations": annotations}, "spec": {"controller": "a.io/b"}});
                self.post(&acme(), "/apis/networking.k8s.io/v1/ingressclasses", class).await;
                let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
                let ingress = json!({"metadata": {"generateName": "i-"}, "spec": {"defaultBackend": backend}});
                let path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
                found(self.post(&acme(), path, ingress).await, "/spec/ingressClassName")
            }
            "PodPlacement" => forbidden(self.pod(json!({"nodeName": "n1"})).await),
            "NodeRestriction" => {
                let node = user("system:node:n1", names::GROUP_NODES, "system");
                let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
                let lease = json!({"metadata": {"name": "n2"}, "spec": {"holderIdentity": "n1"}});
                forbidden(self.post(&node, path, lease).await)
            }
            "RoleEscalation" => {
                let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
                let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": ["*"]});
                let roles = json!({"metadata": {"name": "writer"}, "rules": [
                    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]}]});
                let binding = json!({"metadata": {"name": "writer"}, "subjects": [{"kind": "User", "name": "ann"}],
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "writer"}});
                self.post(&acme(), &format!("{rbac}/roles"), roles).await;
                self.post(&acme(), &format!("{rbac}/rolebindings"), binding).await;
                let more = json!({"metadata": {"name": "more"}, "rules": [rule("", "secrets")]});
                let ann = user("ann", "people", "acme");
                forbidden(self.post(&ann, &format!("{rbac}/roles"), more).await)
            }
            "InfrastructureOwned" => {
                let metadata = json!({"generateName": "m-", "finalizers": ["hypernetes.io/mine"]});
                forbidden(self.post(&acme(), &map("default"), json!({"metadata": metadata})).await)
            }
            "HostIsolation" => {
                let volumes = json!([{"name": "v", "hostPath": {"path": "/etc"}}]);
                forbidden(self.pod(json!({"volumes": volumes})).await)
            }
            "LimitRanger" => {
                let limit = json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}});
                let range = json!({"metadata": {"name": "range"}, "spec": {"limits": [limit]}});
                self.post(&acme(), "/api/v1/namespaces/default/limitranges", range).await;
                let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
                let claim = json!({"metadata": {"generateName": "c-"}, "spec": spec});
                forbidden(self.post(&acme(), "/api/v1/namespaces/default/persistentvolumeclaims", claim).await)
            }
            "PersistentVolumeClaimResize" => {
                let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
                let storage = |size: &str| json!({"resources": {"requests": {"storage": size}}});
                let (mut spec, merge) = (storage("1Mi"), "application/merge-patch+json");
                spec["accessModes"] = json!(["ReadWriteOnce"]);
                let made =
                    self.post(&acme(), claims, json!({"metadata": {"generateName": "c-"}, "spec": spec})).await.1;
                let claim = format!("{claims}/{}", made["metadata"]["name"].as_str().unwrap());
                let (bound, system) = (json!({"status": {"phase": "Bound"}}), authentication::infrastructure());
                self.send(&system, Method::PATCH, &format!("/clusters/acme{claim}/status"), merge, &bound).await;
                let (code, answer) =
                    self.send(&acme(), Method::PATCH, &claim, merge, &json!({"spec": storage("2Mi")})).await;
                assert!([200, 403].contains(&code), "{plugin}: {answer}");
                code == 403
            }
            "PodSecurity" => {
                let labels = json!({"pod-security.kubernetes.io/enforce": "strict"});
                let namespace = json!({"metadata": {"generateName": "n-", "labels": labels}});
                self.post(&acme(), "/api/v1/namespaces", namespace).await.0 == 422
            }
            "ResourceQuota" => {
                let (path, status) = ("/api/v1/namespaces/default/resourcequotas", json!({"secrets": "0"}));
                let mut quota = json!({"metadata": {"name": "none"}, "spec": {"hard": status}});
                self.post(&acme(), path, quota.clone()).await;
                quota["status"] = json!({"hard": status, "used": status});
                self.send(&acme(), Method::PUT, &format!("{path}/none/status"), "application/json", &quota).await;
                let secret = json!({"metadata": {"generateName": "s-"}});
                forbidden(self.post(&acme(), "/api/v1/namespaces/default/secrets", secret).await)
            }
            "NamespaceRules" => {
                self.post(&acme(), "/api/v1/namespaces", json!({"metadata": {"name": "ruled"}})).await;
                let path = "/api/v1/namespaces/ruled/limitranges";
                let range = json!({"metadata": {"generateName": "r-"}, "spec": {"limits": []}});
                let one = async || self.post(&acme(), path, range.clone()).await;
                for _ in 0..32 {
                    one().await;
                }
                forbidden(one().await)
            }
            "Priority" => forbidden(self.pod(json!({"priorityClassName": "none"})).await),
            "Certificates" => {
                let spec = json!({"request": SIGNING_REQUEST, "signerName": "kubernetes.io/kube-apiserver-client",
                    "usages": ["client auth"]});
                let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
                let wanted = json!({"metadata": {"generateName": "r-"}, "spec": spec});
                found(self.post(&acme(), path, wanted).await, "/spec/username")
            }
            "MutatingAdmissionPolicy" => {
                let expression = "Object{metadata: Object.metadata{labels: {'by': 'policy'}}}";
                let mutation =
                    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
                let spec = json!({"mutations": [mutation], "reinvocationPolicy": "Never"});
                self.policy("mutating", "Mutating", spec, json!({})).await;
                found(self.post(&acme(), &map("default"), named("mutating")).await, "/metadata/labels/by")
            }
            "ValidatingAdmissionPolicy" => {
                let spec = json!({"validations": [{"expression": "false", "reason": "Forbidden"}]});
                self.policy("validating", "Validating", spec, json!({"validationActions": ["Deny"]})).await;
                forbidden(self.post(&acme(), &map("default"), named("validating")).await)
            }
            "AdmissionPolicyRules" => {
                let long = format!("'{}' != ''", "x".repeat(99_000));
                let spec = json!({"matchConstraints": rules("none"), "validations": [{"expression": long}]});
                let one = json!({"metadata": {"generateName": "long-"}, "spec": spec});
                let path = format!("{ADMISSION}/validatingadmissionpolicies");
                for _ in 0..5 {
                    self.post(&acme(), &path, one.clone()).await;
                }
                let refused = forbidden(self.post(&acme(), &path, one).await);
                self.send(&acme(), Method::DELETE, &path, "application/json", &Value::Null).await;
                refused
            }
            "MutatingAdmissionWebhook" | "ValidatingAdmissionWebhook" => {
                // Nobody answers, which is a refusal.
                let (sort, name) = (plugin.trim_end_matches("AdmissionWebhook"), plugin.to_lowercase());
                let (condition, path) = (condition(&name), format!("{}webhookconfigurations", sort.to_lowercase()));
                let webhook = json!({"name": "hook.example.org", "sideEffects": "None", "rules": rules("")["resourceRules"],
                    "clientConfig": {"service": {"namespace": "default", "name": "none"}}, "admissionReviewVersions": ["v1"],
                    "matchConditions": [{"name": "c", "expression": condition}]});
                let configuration = json!({"metadata": {"name": "hook"}, "webhooks": [webhook]});
                self.post(&acme(), &format!("{ADMISSION}/{path}"), configuration).await;
                let (code, answer) = self.post(&acme(), &map("default"), named(&name)).await;
                assert!([201, 500].contains(&code), "{plugin}: {answer}");
                code == 500
            }
            "RuntimeClass" => forbidden(self.pod(json!({"runtimeClassName": "none"})).await),
            other => panic!("{other} has no test"),
        }
    }
}

#[tokio::test]
async fn each_plugin_has_an_effect_which_is_gone_without_it() {
    let bench = Bench::new().await;
    for plugin in CHAIN {
        assert!(bench.effect(plugin.name).await, "{} does nothing", plugin.name);
        let without = WITHOUT.scope(plugin.name, bench.effect(plugin.name)).await;
        assert!(!without, "{} is not what does it", plugin.name);
    }
}

/// What is under way when a quota begins to count it is looked at again: nobody would count it otherwise.
#[tokio::test]
async fn what_is_under_way_sees_a_quota_that_comes() {
    let (bench, user) = (Arc::new(Bench::new().await), acme());
    let (path, secrets) = ("/api/v1/namespaces/default/resourcequotas", "/api/v1/namespaces/default/secrets");
    let hard = json!({"secrets": "0"});
    let beside = bench.clone();
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": hard}});
    let comes = async move {
        beside.made(&acme(), path, quota.clone()).await;
        let status = format!("{path}/none/status");
        let (code, answer) = beside.send(&acme(), Method::PUT, &status, "application/json", &quota).await;
        assert_eq!(code, 200, "{answer}");
    };
    let create = bench.post(&user, secrets, json!({"metadata": {"name": "s"}})).boxed();
    let (code, answer) = MEANWHILE.scope(Mutex::new(Some(comes.boxed())), create).await;
    assert_eq!(code, 403, "{answer}");
    let why = "exceeded quota: none, requested: secrets=1, used: secrets=0, limited: secrets=0";
    assert!(answer["message"].as_str().unwrap().ends_with(why), "{answer}");
}

/// A limit range that comes is kept to by what is under way, and so is a level of Pod Security.
#[tokio::test]
async fn what_is_under_way_sees_what_its_namespace_says_now() {
    let (bench, user) = (Arc::new(Bench::new().await), acme());
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
        "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let limits = json!([{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "1"}}]);
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": limits}});
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let beside = bench.clone();
    let comes = async move { beside.made(&acme(), "/api/v1/namespaces/default/limitranges", range).await };
    let create = bench.post(&user, pods, pod.clone()).boxed();
    let (code, answer) = MEANWHILE.scope(Mutex::new(Some(comes.boxed())), create).await;
    assert_eq!((code, &answer["spec"]["containers"][0]["resources"]["limits"]["cpu"]), (201, &json!("1")), "{answer}");
    let beside = bench.clone();
    let comes = async move {
        let (path, merge) = ("/api/v1/namespaces/default", "application/merge-patch+json");
        let (code, answer) = beside.send(&acme(), Method::PATCH, path, merge, &labels).await;
        assert_eq!(code, 200, "{answer}");
    };
    let mut second = pod.clone();
    second["metadata"]["name"] = json!("q");
    let create = bench.post(&user, pods, second).boxed();
    let (code, answer) = MEANWHILE.scope(Mutex::new(Some(comes.boxed())), create).await;
    assert_eq!(code, 403, "{answer}");
}

#[tokio::test]
async fn a_pod_is_as_its_runtime_class_says() {
    let bench = Bench::new().await;
    let class = json!({"metadata": {"name": "heavy"}, "handler": "hypernetes", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"kind": "large"}, "tolerations": [{"key": "large", "operator": "Exists"}]}});
    bench.made(&authentication::infrastructure(), "/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let (code, pod) = bench.pod(json!({"runtimeClassName": "heavy", "nodeSelector": {"disk": "fast"}})).await;
    assert_eq!(code, 201, "{pod}");
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["overhead"], &spec["nodeSelector"]),
        (&json!({"cpu": "250m"}), &json!({"disk": "fast", "kind": "large"}))
    );
    let tolerated = spec["tolerations"].as_array().unwrap().contains(&json!({"key": "large", "operator": "Exists"}));
    assert!(tolerated, "{spec}");
    for (spec, why) in [
        (json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found"),
        (
            json!({"runtimeClassName": "heavy", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "heavy", "nodeSelector": {"kind": "small"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[kind] = large; pod.spec.nodeSelector[kind] = small",
        ),
    ] {
        let (code, answer) = bench.pod(spec).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(code == 403 && message.ends_with(why), "{answer}");
    }
}

#[tokio::test]
async fn no_write_and_no_connection_goes_by_the_chain() {
    let bench = Bench::new().await;
    let (acme, system) = (acme(), authentication::infrastructure());
    let (pods, deployments) = ("/api/v1/namespaces/default/pods", "/apis/apps/v1/namespaces/default/deployments");
    let mut pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    bench.made(&acme, pods, pod.clone()).await;
    pod["metadata"]["labels"] = json!({"app": "web"});
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": pod["spec"]});
    let spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template});
    bench.made(&acme, deployments, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let (web, of_acme) = (format!("{pods}/web"), format!("/clusters/acme{pods}/web"));
    let (json, merge, apply) = ("application/json", "application/merge-patch+json", "application/apply-patch+yaml");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}});
    let scale = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let label = json!({"metadata": {"labels": {"app": "x"}}});
    let binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let namespace = json!({"metadata": {"name": "default"}, "spec": {}});
    let nothing = Value::Null;
    for (user, method, path, content, body) in [
        (&acme, Method::POST, maps.to_owned(), json, &map),
        (&acme, Method::PATCH, format!("{maps}/new?fieldManager=me"), apply, &map),
        (&acme, Method::PATCH, web.clone(), merge, &label),
        (&acme, Method::PUT, format!("{deployments}/web/scale"), json, &scale),
        (&acme, Method::PATCH, format!("{deployments}/web/scale"), merge, &json!({"spec": {"replicas": 2}})),
        (&acme, Method::PATCH, format!("{deployments}/web/status"), merge, &json!({"status": {"replicas": 2}})),
        (&acme, Method::PUT, "/api/v1/namespaces/default/finalize".into(), json, &namespace),
        (&system, Method::POST, format!("{of_acme}/binding"), json, &binding),
        (&acme, Method::POST, format!("{web}/eviction"), json, &eviction),
        (&acme, Method::DELETE, web.clone(), json, &nothing),
        (&acme, Method::DELETE, pods.to_owned(), json, &nothing),
        (&acme, Method::POST, format!("{accounts}/default/token"), json, &json!({"spec": {}})),
    ] {
        let sent = CLOSED.scope((), bench.send(user, method.clone(), &path, content, body));
        let (code, answer) = sent.await;
        assert_eq!(code, 403, "{method} {path}: {answer}");
        assert!(answer["message"].as_str().unwrap().ends_with("closed"), "{method} {path}: {answer}");
    }
    // A connection is made where the pod is.
    let (code, answer) = bench.post(&system, &format!("{of_acme}/binding"), binding).await;
    assert_eq!(code, 201, "{answer}");
    for subresource in ["exec?command=sh", "attach", "portforward"] {
        let request = HttpRequest::builder().uri(format!("{web}/{subresource}"));
        let request = request.header("connection", "upgrade").header("upgrade", "websocket");
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(acme.clone());
        let answer = CLOSED.scope((), bench.server.router().oneshot(request)).await.unwrap();
        assert_eq!(answer.status(), 403, "{subresource}");
    }
}
