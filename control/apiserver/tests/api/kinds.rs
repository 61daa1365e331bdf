//! Single kinds, where they do more than be stored.

use hypernetes_testing::{
    requests::{Refused, admin, infrastructure},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn an_ingress_without_a_class_gets_its_tenants_default() {
    let bench = InProcess::with_tenants().await;
    let (acme, globex) = (admin(ACME), admin(GLOBEX));
    let class = |name: &str, default: &str| {
        json!({"metadata": {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": default}},
            "spec": {"controller": "example.com/ingress"}})
    };
    let ingress = |metadata: Value, class: Option<&str>| {
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        json!({"metadata": metadata, "spec": {"defaultBackend": backend, "ingressClassName": class}})
    };
    let class_of = async |who, metadata: Value, class| {
        bench.post(who, INGRESSES, ingress(metadata, class)).await.ok()["spec"]["ingressClassName"].clone()
    };
    bench.post(&acme, CLASSES, class("other", "false")).await.ok();
    assert_eq!(class_of(&acme, json!({"name": "before"}), None).await, Value::Null);
    bench.post(&acme, CLASSES, class("usual", "true")).await.ok();
    assert_eq!(class_of(&acme, json!({"name": "none"}), None).await, "usual");
    assert_eq!(class_of(&acme, json!({"name": "named"}), Some("other")).await, "other");
    let old = json!({"name": "old", "annotations": {"kubernetes.io/ingress.class": "nginx"}});
    assert_eq!(class_of(&acme, old, None).await, Value::Null);
    // What is one tenant's default is nobody else's.
    assert_eq!(class_of(&globex, json!({"name": "none"}), None).await, Value::Null);
}

#[tokio::test]
async fn a_binding_binds_the_pod_that_it_names() {
    let bench = InProcess::with_tenants().await;
    bench.account(ACME).await;
    let (acme, scheduler) = (admin(ACME), infrastructure());
    let bindings = format!("/clusters/{ACME}/api/v1/namespaces/default/bindings");
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    bench.post(&acme, PODS, pod).await.ok();
    let binding = |name: &str| json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
    bench.post(&acme, &bindings, binding("web")).await.refused(403, "Forbidden");
    let without = json!({"target": {"kind": "Node", "name": "n1"}});
    assert_eq!(bench.post(&scheduler, &bindings, without).await.refused(400, "BadRequest"), "Name parameter required.");
    let absent = bench.post(&scheduler, &bindings, binding("other")).await.refused(404, "NotFound");
    assert_eq!(absent, "pods \"other\" not found");
    bench.post(&scheduler, &format!("{bindings}?dryRun=All"), binding("web")).await.ok();
    assert_eq!(bench.get(&acme, &format!("{PODS}/web")).await.ok()["spec"]["nodeName"], Value::Null);
    bench.post(&scheduler, &bindings, binding("web")).await.ok();
    assert_eq!(bench.get(&acme, &format!("{PODS}/web")).await.ok()["spec"]["nodeName"], "n1");
}

#[tokio::test]
async fn components_are_told_as_they_are() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let list = bench.get(&acme, "/api/v1/componentstatuses").await.ok();
    assert_eq!(
        list,
        json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [
            {"metadata": {"name": "etcd-0"}, "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]},
        ]})
    );
    let one = bench.get(&acme, "/api/v1/componentstatuses/etcd-0").await.ok();
    assert_eq!((&one["kind"], &one["conditions"]), (&json!("ComponentStatus"), &list["items"][0]["conditions"]));
    bench.get(&acme, "/api/v1/componentstatuses/other").await.refused(404, "NotFound");
    bench.post(&acme, "/api/v1/componentstatuses", one).await.refused(405, "MethodNotAllowed");
}
