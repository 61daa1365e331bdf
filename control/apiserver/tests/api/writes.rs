//! The one way of a write: what is refused, what is only tried, and what nobody may get around.

use axum::body::Body;
use futures::future::join_all;
use http::Request;
use hypernetes_api::auth::UserInfo;
use hypernetes_testing::{
    http::Answer,
    requests::{Refused, admin, by, infrastructure, user},
    server::{ACME, InProcess},
};
use serde_json::{Value, json};

use crate::bench::{MAPS, map};

const PODS: &str = "/api/v1/namespaces/default/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const VOLUMES: &str = "/apis/volume.hypernetes.io/v1alpha1/volumes";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "registry.example/c:1"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": "registry.example/c:1"}]}}}})
}

/// A path in the tenant's cluster, for those whose own is another.
pub fn acmes(path: &str) -> String {
    format!("/clusters/{ACME}{path}")
}

/// A pod, a deployment, a config map and a service account, all called `x`, and what pods need.
pub async fn furnished() -> (InProcess, UserInfo) {
    furnished_for(admin(ACME)).await
}

async fn furnished_for(who: UserInfo) -> (InProcess, UserInfo) {
    let bench = InProcess::with_tenants().await;
    for (path, object) in [
        (ACCOUNTS, json!({"metadata": {"name": "default"}})),
        (ACCOUNTS, json!({"metadata": {"name": "x"}})),
        (MAPS, map("x", "1")),
        (PODS, pod("x")),
        (DEPLOYMENTS, deployment("x")),
    ] {
        bench.post(&who, path, object).await.ok();
    }
    (bench, who)
}

async fn patch(bench: &InProcess, who: &UserInfo, path: &str, language: &str, body: Value) -> Answer {
    bench.send(who, "PATCH", path, language, &body.to_string()).await
}

/// The newest version of anything: it stays when nothing is written.
pub async fn version(bench: &InProcess) -> String {
    let list = bench.get(&admin("system"), "/api/v1/nodes").await.ok();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_subresource_has_its_own_verbs_and_no_others() {
    // Who may do everything, so that nothing else refuses.
    let (bench, operator) = furnished_for(admin("system")).await;
    let before = version(&bench).await;
    for (method, path) in [
        ("DELETE", format!("{PODS}/x/status")),
        ("DELETE", format!("{DEPLOYMENTS}/x/scale")),
        ("DELETE", format!("{PODS}/x/log")),
        ("DELETE", format!("{PODS}/x/eviction")),
        ("PUT", format!("{PODS}/x/eviction")),
        ("PATCH", format!("{PODS}/x/binding")),
        ("PUT", format!("{ACCOUNTS}/x/token")),
        ("POST", format!("{PODS}/x/status")),
        ("POST", format!("{PODS}/x")),
        ("GET", format!("{PODS}/x/binding")),
        ("DELETE", "/api/v1/namespaces/default/status".into()),
        ("DELETE", "/api/v1/namespaces/default/finalize".into()),
        ("PATCH", "/api/v1/namespaces/default/finalize".into()),
        ("DELETE", "/api/v1/namespaces".into()),
        ("DELETE", "/api/v1/pods".into()),
        ("PUT", PODS.into()),
        ("PATCH", PODS.into()),
    ] {
        bench.send(&operator, method, &path, JSON, "{}").await.refused(405, "MethodNotAllowed");
    }
    for path in [format!("{PODS}/x/scale"), format!("{MAPS}/x/status"), format!("{PODS}/x/nonsense")] {
        bench.get(&operator, &path).await.refused(404, "NotFound");
    }
    assert_eq!(version(&bench).await, before, "nothing was written");
}

/// Every way to write, with a dry run in the query, and in the body where there is room for it.
pub fn writes() -> Vec<(&'static str, String, &'static str, Value)> {
    let applied =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": "2"}});
    let scale = json!({"metadata": {"name": "x"}, "spec": {"replicas": 7}});
    let eviction = json!({"metadata": {"name": "x"}});
    let binding = json!({"metadata": {"name": "x"}, "target": {"name": "n1"}});
    vec![
        ("POST", format!("{MAPS}?"), JSON, map("new", "1")),
        ("PUT", format!("{MAPS}/x?"), JSON, map("x", "2")),
        ("PATCH", format!("{MAPS}/x?"), MERGE, json!({"data": {"k": "2"}})),
        ("PATCH", format!("{MAPS}/x?"), STRATEGIC, json!({"data": {"k": "2"}})),
        ("PATCH", format!("{MAPS}/x?"), JSON_PATCH, json!([{"op": "add", "path": "/data/n", "value": "2"}])),
        ("PATCH", format!("{MAPS}/x?fieldManager=t&"), APPLY, applied("x")),
        ("PATCH", format!("{MAPS}/new?fieldManager=t&"), APPLY, applied("new")),
        ("PATCH", format!("{PODS}/x/status?"), MERGE, json!({"status": {"message": "2"}})),
        ("DELETE", format!("{MAPS}/x?"), JSON, Value::Null),
        ("DELETE", format!("{PODS}/x?"), JSON, Value::Null),
        ("DELETE", format!("{MAPS}?"), JSON, Value::Null),
        ("PUT", format!("{DEPLOYMENTS}/x/scale?"), JSON, scale.clone()),
        ("PATCH", format!("{DEPLOYMENTS}/x/scale?"), MERGE, json!({"spec": {"replicas": 7}})),
        ("PATCH", format!("{DEPLOYMENTS}/x/scale?fieldManager=t&force=true&"), APPLY, scale),
        ("POST", format!("{PODS}/x/binding?"), JSON, binding),
        ("POST", format!("{PODS}/x/eviction?"), JSON, eviction),
    ]
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let (bench, acme) = furnished().await;
    // Bindings and a pod's status are not a tenant's to write.
    let operator = admin("system");
    let before = version(&bench).await;
    for (method, path, content, body) in writes() {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        bench.send(&operator, method, &acmes(&format!("{path}dryRun=All")), content, &text).await.ok();
        assert_eq!(version(&bench).await, before, "{method} {path}");
        for wrong in ["dryRun=Some", "dryRun=", "dryRun=all", "dryRun=All&dryRun=None"] {
            let refused = bench.send(&operator, method, &acmes(&format!("{path}{wrong}")), content, &text).await;
            let message = refused.refused(422, "Invalid");
            assert!(message.contains("dryRun: Unsupported value: ["), "{message}");
        }
    }
    // As kubectl says it of a deletion: in the body.
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "dryRun": ["All"]});
    let wrong = json!({"apiVersion": "v1", "kind": "DeleteOptions", "dryRun": ["Some"]});
    for path in [format!("{MAPS}/x"), format!("{PODS}/x"), MAPS.to_owned(), format!("{DEPLOYMENTS}/x")] {
        bench.send(&acme, "DELETE", &path, JSON, &options.to_string()).await.ok();
        bench.send(&acme, "DELETE", &path, JSON, &wrong.to_string()).await.refused(422, "Invalid");
    }
    let eviction = json!({"metadata": {"name": "x"}, "deleteOptions": options});
    bench.post(&acme, &format!("{PODS}/x/eviction"), eviction).await.ok();
    let eviction = json!({"metadata": {"name": "x"}, "deleteOptions": wrong});
    bench.post(&acme, &format!("{PODS}/x/eviction"), eviction).await.refused(422, "Invalid");
    assert_eq!(version(&bench).await, before);
    // A token that is only tried is none.
    let token = format!("{ACCOUNTS}/x/token");
    let tried = bench.post(&acme, &format!("{token}?dryRun=All"), json!({"spec": {}})).await.ok();
    assert_eq!(tried["status"]["token"], "");
    bench.post(&acme, &format!("{token}?dryRun=Some"), json!({"spec": {}})).await.refused(422, "Invalid");
    // Without the dry run each of them does write.
    for (method, path, content, body) in writes() {
        let (bench, _) = furnished().await;
        let before = version(&bench).await;
        let text = if body.is_null() { String::new() } else { body.to_string() };
        bench.send(&operator, method, &acmes(path.trim_end_matches(['?', '&'])), content, &text).await.ok();
        assert_ne!(version(&bench).await, before, "{method} {path}");
    }
}

#[tokio::test]
async fn what_an_apply_makes_it_must_be_allowed_to_make() {
    let (bench, acme) = furnished().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "p"}, "rules": [{"verbs": ["patch"], "apiGroups": [""], "resources": ["configmaps"]}]});
    bench.post(&acme, &format!("{rbac}/roles"), role).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "subjects": [{"kind": "User", "name": "robot", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "p", "apiGroup": "rbac.authorization.k8s.io"}});
    bench.post(&acme, &format!("{rbac}/rolebindings"), binding).await.ok();
    let robot = user("robot", &[], ACME);
    let apply = |name: &str, body: &str| {
        (
            format!("{MAPS}/{name}?fieldManager=t"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": body}, "data": {"n": "2"}}),
        )
    };
    let (path, body) = apply("x", "x");
    patch(&bench, &robot, &path, APPLY, body).await.ok();
    let (path, body) = apply("new", "new");
    let message = patch(&bench, &robot, &path, APPLY, body.clone()).await.refused(403, "Forbidden");
    assert!(message.contains("cannot create resource \"configmaps\""), "{message}");
    bench.get(&acme, &format!("{MAPS}/new")).await.refused(404, "NotFound");
    patch(&bench, &acme, &path, APPLY, body).await.ok();
    // The name is the URL's, whoever asks.
    for (url, name) in [("other", "new"), ("x", "y"), ("absent", "")] {
        let (path, body) = apply(url, name);
        patch(&bench, &acme, &path, APPLY, body).await.refused(400, "BadRequest");
    }
    let (path, mut body) = apply("absent", "absent");
    body["metadata"]["uid"] = "8f2b".into();
    patch(&bench, &acme, &path, APPLY, body).await.refused(409, "Conflict");
    bench
        .send(&acme, "PUT", &format!("{MAPS}/absent"), JSON, &map("absent", "1").to_string())
        .await
        .refused(404, "NotFound");
    for language in [MERGE, STRATEGIC] {
        let path = format!("{MAPS}/absent");
        patch(&bench, &acme, &path, language, map("absent", "1")).await.refused(404, "NotFound");
    }
    bench.get(&acme, &format!("{MAPS}/absent")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn no_write_puts_a_pod_on_the_host() {
    let (bench, acme) = furnished().await;
    let path = format!("{PODS}/x");
    let host = json!({"spec": {"hostNetwork": true}});
    let volume = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}});
    let mut whole = bench.get(&acme, &path).await.ok();
    whole["spec"]["hostPID"] = true.into();
    let mut applied = pod("x");
    applied["spec"]["hostIPC"] = true.into();
    let operations = json!([{"op": "add", "path": "/spec/hostNetwork", "value": true}]);
    for (method, path, content, body) in [
        ("PUT", path.clone(), JSON, whole),
        ("PATCH", path.clone(), MERGE, host.clone()),
        ("PATCH", path.clone(), STRATEGIC, host.clone()),
        ("PATCH", path.clone(), STRATEGIC, volume),
        ("PATCH", path.clone(), JSON_PATCH, operations),
        ("PATCH", format!("{path}?fieldManager=t&force=true"), APPLY, applied),
    ] {
        let answer = bench.send(&acme, method, &path, content, &body.to_string()).await;
        assert!(matches!(answer.status.as_u16(), 403 | 422), "{method} {content}: {} {}", answer.status, answer.body);
    }
    // What is not the subresource's is left out.
    patch(&bench, &infrastructure(), &acmes(&format!("{path}/status")), MERGE, host).await.ok();
    let spec = &bench.get(&acme, &path).await.ok()["spec"];
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert_ne!(spec[field], true, "{spec}");
    }
    assert!(!spec["volumes"].to_string().contains("hostPath"), "{spec}");
}

#[tokio::test]
async fn grace_periods_are_bounded() {
    let (bench, acme) = furnished().await;
    let mut patient = pod("patient");
    patient["spec"]["terminationGracePeriodSeconds"] = 1_000_000_000_000_000_000_i64.into();
    let answer = bench.post(&acme, PODS, patient).await;
    assert!(matches!(answer.status.as_u16(), 403 | 422), "{} {}", answer.status, answer.body);
    let binding = json!({"metadata": {"name": "x"}, "target": {"name": "n1"}});
    bench.post(&admin("system"), &acmes(&format!("{PODS}/x/binding")), binding).await.ok();
    let path = format!("{PODS}/x");
    for seconds in ["1000000000000000000", "9223372036854775807", "2147483648"] {
        bench
            .send(&acme, "DELETE", &format!("{path}?gracePeriodSeconds={seconds}"), JSON, "")
            .await
            .refused(422, "Invalid");
        let body = format!("{{\"gracePeriodSeconds\": {seconds}}}");
        bench.send(&acme, "DELETE", &path, JSON, &body).await.refused(422, "Invalid");
    }
    for seconds in ["9223372036854775808", "abc", "", "1.5"] {
        bench
            .send(&acme, "DELETE", &format!("{path}?gracePeriodSeconds={seconds}"), JSON, "")
            .await
            .refused(400, "BadRequest");
    }
    let deleted = bench.send(&acme, "DELETE", &format!("{path}?gracePeriodSeconds=-5"), JSON, "").await.ok();
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 1);
}

#[tokio::test]
async fn what_is_infrastructures_of_a_tenants_objects_stays_so() {
    let (bench, acme) = furnished().await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {"sizeBytes": 1_073_741_824}});
    let path = format!("{VOLUMES}/v");
    let of_infrastructure = acmes(&path);
    bench.post(&acme, VOLUMES, volume).await.ok();
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    let own = "volume.hypernetes.io/backend";
    patch(&bench, &acme, &path, MERGE, finalizers(json!([own]))).await.refused(403, "Forbidden");
    patch(&bench, &infrastructure(), &of_infrastructure, MERGE, finalizers(json!([own]))).await.ok();
    for list in [json!([]), json!(["example.com/mine"]), Value::Null] {
        patch(&bench, &acme, &path, MERGE, finalizers(list)).await.refused(403, "Forbidden");
    }
    patch(&bench, &acme, &path, MERGE, finalizers(json!([own, "example.com/mine"]))).await.ok();
    patch(&bench, &acme, &path, MERGE, finalizers(json!(["example.com/mine", own]))).await.ok();
    patch(&bench, &acme, &path, MERGE, finalizers(json!([own]))).await.ok();
    let status = json!({"status": {"phase": "Available"}});
    patch(&bench, &acme, &format!("{path}/status"), MERGE, status.clone()).await.refused(403, "Forbidden");
    patch(&bench, &infrastructure(), &format!("{of_infrastructure}/status"), MERGE, status).await.ok();
    // It goes when infrastructure is done with it, not before.
    bench.send(&acme, "DELETE", &path, JSON, "").await.ok();
    assert!(bench.get(&acme, &path).await.ok()["metadata"]["deletionTimestamp"].is_string());
    patch(&bench, &acme, &path, MERGE, finalizers(json!([]))).await.refused(403, "Forbidden");
    patch(&bench, &infrastructure(), &of_infrastructure, MERGE, finalizers(json!([]))).await.ok();
    bench.get(&acme, &path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn a_namespaces_finalizers_are_changed_by_finalize_alone() {
    let (bench, acme) = furnished().await;
    let namespaces = "/api/v1/namespaces";
    let made = bench.post(&acme, namespaces, json!({"metadata": {"name": "n"}})).await.ok();
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let path = format!("{namespaces}/n");
    let mut changed = made.clone();
    changed["spec"] = json!({});
    let updated = bench.send(&acme, "PUT", &path, JSON, &changed.to_string()).await.ok();
    assert_eq!(updated["spec"]["finalizers"], json!(["kubernetes"]));
    let none = json!({"spec": {"finalizers": []}, "status": {"phase": "Active"}});
    for path in [path.clone(), format!("{path}/status")] {
        let patched = patch(&bench, &acme, &path, MERGE, none.clone()).await.ok();
        assert_eq!(patched["spec"]["finalizers"], json!(["kubernetes"]), "{path}");
    }
    bench.send(&acme, "DELETE", &path, JSON, "").await.ok();
    let mut terminating = bench.get(&acme, &path).await.ok();
    assert_eq!(terminating["status"]["phase"], "Terminating");
    let inside = format!("{namespaces}/n/configmaps");
    let message = bench.post(&acme, &inside, map("late", "1")).await.refused(403, "Forbidden");
    assert!(message.contains("it is being terminated"), "{message}");
    terminating["spec"] = json!({"finalizers": []});
    bench.send(&acme, "PUT", &format!("{path}/finalize"), JSON, &terminating.to_string()).await.ok();
    bench.get(&acme, &path).await.refused(404, "NotFound");
    // Every logical cluster keeps its default.
    bench.send(&acme, "DELETE", &format!("{namespaces}/default"), JSON, "").await.refused(403, "Forbidden");
}

#[tokio::test]
async fn a_namespace_that_changes_holds_nobody_up() {
    let (bench, acme) = furnished().await;
    let done = std::sync::atomic::AtomicBool::new(false);
    let change = async {
        let mut changes = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            changes += 1;
            let labels = json!({"metadata": {"labels": {"n": changes.to_string()}}});
            patch(&bench, &acme, "/api/v1/namespaces/default", MERGE, labels).await.ok();
        }
    };
    let create = async {
        for i in 0..25 {
            bench.post(&acme, MAPS, map(&format!("beside-{i}"), "1")).await.ok();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(change, create);
}

#[tokio::test]
async fn updates_of_whatever_version_there_is_are_in_nobodys_way() {
    let (bench, acme) = furnished().await;
    bench.post(&acme, MAPS, map("shared", "0")).await.ok();
    let put = async |i: usize| {
        bench.put(&acme, &format!("{MAPS}/shared"), &map("shared", &i.to_string())).await.ok();
    };
    futures::future::join_all((0..24).map(put)).await;
}

#[tokio::test]
async fn a_scale_is_a_write_like_others() {
    let (bench, acme) = furnished().await;
    let path = format!("{DEPLOYMENTS}/x/scale");
    let scale = bench.get(&acme, &path).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    let mut more = scale.clone();
    more["spec"]["replicas"] = 3.into();
    let put = |body: Value| {
        let (bench, acme, path) = (&bench, &acme, format!("{path}?fieldManager=scaler"));
        async move { bench.send(acme, "PUT", &path, JSON, &body.to_string()).await }
    };
    assert_eq!(put(more.clone()).await.ok()["spec"]["replicas"], 3);
    let parent = bench.get(&acme, &format!("{DEPLOYMENTS}/x")).await.ok();
    assert_eq!((&parent["spec"]["replicas"], &parent["metadata"]["generation"]), (&json!(3), &json!(2)));
    let managers = parent["metadata"]["managedFields"].as_array().unwrap();
    let scaler = managers.iter().find(|entry| entry["manager"] == "scaler").unwrap();
    assert_eq!((&scaler["subresource"], &scaler["operation"]), (&json!("scale"), &json!("Update")));
    assert_eq!(scaler["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    // The version is not the current one any more.
    put(more.clone()).await.refused(409, "Conflict");
    let with = |field: &str, value: Value| {
        let mut scale = scale.clone();
        scale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        *scale.pointer_mut(field).unwrap() = value;
        scale
    };
    put(with("/metadata/uid", json!("other"))).await.refused(409, "Conflict");
    put(with("/metadata/name", json!("other"))).await.refused(400, "BadRequest");
    let message = put(with("/spec/replicas", json!(-1))).await.refused(422, "Invalid");
    assert!(message.contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0"), "{message}");
    put(with("/spec/replicas", json!(1_i64 << 40))).await.refused(400, "BadRequest");
    put(with("/spec/replicas", json!("3"))).await.refused(400, "BadRequest");
    // Fields have owners here, too.
    let applied =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "x"}, "spec": {"replicas": 5}});
    let apply = |force: &str| format!("{path}?fieldManager=hpa{force}");
    patch(&bench, &acme, &apply(""), APPLY, applied.clone()).await.refused(409, "Conflict");
    let forced = patch(&bench, &acme, &apply("&force=true"), APPLY, applied).await.ok();
    assert_eq!(forced["spec"]["replicas"], 5);
    patch(&bench, &acme, &path, "text/plain", json!({})).await.refused(415, "UnsupportedMediaType");
    patch(&bench, &acme, &path, JSON_PATCH, json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]))
        .await
        .ok();
    bench
        .send(
            &acme,
            "PUT",
            &format!("{DEPLOYMENTS}/none/scale"),
            JSON,
            &with("/metadata/name", json!("none")).to_string(),
        )
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn a_binding_is_for_the_pod_that_it_names() {
    let (bench, acme) = furnished().await;
    let (path, operator) = (acmes(&format!("{PODS}/x/binding")), admin("system"));
    let binding = |metadata: Value, target: Value| json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target});
    let node = json!({"kind": "Node", "name": "n1"});
    for (metadata, target, code, reason) in [
        (json!({"name": "y"}), node.clone(), 400, "BadRequest"),
        (json!({"name": "x"}), json!({}), 422, "Invalid"),
        (json!({"name": "x"}), json!({"kind": "Pod", "name": "n1"}), 422, "Invalid"),
        (json!({"name": "x"}), json!({"name": "a/b"}), 422, "Invalid"),
        (json!({"name": "x"}), json!({"name": "../n1"}), 422, "Invalid"),
        (json!({"name": "x", "uid": "other"}), node.clone(), 409, "Conflict"),
        (json!({"name": "x", "resourceVersion": "1"}), node.clone(), 409, "Conflict"),
    ] {
        bench.post(&operator, &path, binding(metadata, target)).await.refused(code, reason);
    }
    let pod = bench.get(&acme, &format!("{PODS}/x")).await.ok();
    assert!(pod["spec"]["nodeName"].is_null(), "{pod}");
    let named =
        json!({"name": "x", "uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]});
    bench.post(&operator, &path, binding(named, node.clone())).await.ok();
    let pod = bench.get(&acme, &format!("{PODS}/x")).await.ok();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert!(pod["status"]["conditions"].to_string().contains("PodScheduled"), "{pod}");
    let message = bench.post(&operator, &path, binding(json!({"name": "x"}), node)).await.refused(409, "Conflict");
    assert!(message.contains("already assigned to node \"n1\""), "{message}");
    // An eviction is for the pod that it names, too.
    let eviction = |uid: &Value| json!({"metadata": {"name": "x"}, "deleteOptions": {"preconditions": {"uid": uid}}});
    bench.post(&acme, &format!("{PODS}/x/eviction"), eviction(&json!("other"))).await.refused(409, "Conflict");
    bench.post(&acme, &format!("{PODS}/x/eviction"), eviction(&pod["metadata"]["uid"])).await.ok();
    assert!(bench.get(&acme, &format!("{PODS}/x")).await.ok()["metadata"]["deletionTimestamp"].is_string());
}

/// Bodies that are none, at every place where one is read: an answer, and never a panic.
#[tokio::test]
async fn every_body_is_answered() {
    // The operator's own cluster has every resource.
    let (bench, operator) = furnished_for(admin("system")).await;
    let request = |path: &str| {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        Request::builder().uri(path).header("accept", accept).body(Body::empty()).unwrap()
    };
    let mut paths = Vec::new();
    for root in ["/api", "/apis"] {
        let list = bench.answer(by(&operator, request(root))).await.ok();
        for group in list["items"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                for resource in version["resources"].as_array().unwrap() {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let name = text(&group["metadata"]["name"]);
                    let root = if name.is_empty() { "/api".to_owned() } else { format!("/apis/{name}") };
                    let namespace = if resource["scope"] == "Namespaced" { "/namespaces/default" } else { "" };
                    let base =
                        format!("{root}/{}{namespace}/{}", text(&version["version"]), text(&resource["resource"]));
                    for one in resource["subresources"].as_array().into_iter().flatten() {
                        paths.push(format!("{base}/x/{}", text(&one["subresource"])));
                    }
                    paths.push(format!("{base}/x"));
                    paths.push(base);
                }
            }
        }
    }
    let deep = "[".repeat(10_000);
    let bodies = [
        "",
        "[]",
        "null",
        "\"x\"",
        "5",
        "{",
        "{}",
        "[{}]",
        "[[]]",
        &deep,
        r#"{"a":1,"a":2}"#,
        r#"{"metadata":{"name":"x"},"metadata":{"name":"y"}}"#,
        r#"{"metadata":[]}"#,
        r#"{"metadata":null}"#,
        r#"{"metadata":"x"}"#,
        r#"{"metadata":{"name":["x"]}}"#,
        r#"{"metadata":{"name":"x","annotations":[]}}"#,
        r#"{"metadata":{"name":"x","labels":"a"}}"#,
        r#"{"metadata":{"name":"x","finalizers":{}}}"#,
        r#"{"metadata":{"name":"x","ownerReferences":[null]}}"#,
        r#"{"metadata":{"name":"x"},"spec":[]}"#,
        r#"{"metadata":{"name":"x"},"spec":"x"}"#,
        r#"{"metadata":{"name":"x"},"spec":null,"status":null}"#,
        r#"{"metadata":{"name":"x"},"status":[]}"#,
        r#"{"metadata":{"name":"x"},"target":[]}"#,
        r#"{"metadata":{"name":"x"},"deleteOptions":[]}"#,
        r#"{"metadata":{"name":"x"},"spec":{"containers":{}}}"#,
        r#"{"metadata":{"name":"x"},"spec":{"volumes":[5]}}"#,
        r#"{"spec":{"boundObjectRef":[],"audiences":{}}}"#,
        r#"{"spec":{"boundObjectRef":{"kind":"Pod","name":"a/b"}}}"#,
        r#"{"spec":{"resourceAttributes":[],"nonResourceAttributes":5}}"#,
        r#"{"dryRun":"All"}"#,
        r#"{"preconditions":[]}"#,
        r#"[{"op":"replace","path":"","value":[]}]"#,
        r#"[{"op":"remove","path":"/metadata"}]"#,
        r#"[{"op":"add","path":"/metadata","value":"x"}]"#,
        r#"[{"op":"replace","path":"/spec","value":null}]"#,
    ];
    for path in &paths {
        for (method, content) in [
            ("POST", JSON),
            ("PUT", JSON),
            ("DELETE", JSON),
            ("PATCH", MERGE),
            ("PATCH", STRATEGIC),
            ("PATCH", JSON_PATCH),
            ("PATCH", APPLY),
            ("POST", "application/yaml"),
        ] {
            let url = format!("{path}?dryRun=All{}", if content == APPLY { "&fieldManager=t" } else { "" });
            // All at once: a hundred thousand, each of which waits for an etcd where there is one.
            let answers = bodies.map(|body| bench.send(&operator, method, &url, content, body));
            for (body, answer) in bodies.iter().zip(join_all(answers).await) {
                let code = answer.status.as_u16();
                assert!(code < 500 && code != 429, "{method} {url} {content} {body}: {code} {}", answer.body);
            }
        }
    }
}
