//! Where a pod runs and what became of it is not its owner's to say.

use hypernetes_testing::{
    requests::{Refused, infrastructure},
    server::ACME,
};
use serde_json::json;

use crate::bench::{admin, furnished, member, node, operator};

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn the_scheduler_and_the_operator_place_pods_and_nobody_else() {
    let bench = furnished().await;
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let mut placed = pod("placed");
    placed["spec"]["nodeName"] = "one".into();
    let path = format!("/clusters/{ACME}{PODS}");
    for (index, user) in [member(ACME), admin(ACME)].iter().enumerate() {
        let message = bench.post(user, PODS, placed.clone()).await.forbidden();
        assert_eq!(
            message,
            "pods \"placed\" is forbidden: spec.nodeName: the node of a pod is chosen by the scheduler"
        );
        let name = format!("p{index}");
        let made = bench.post(user, PODS, pod(&name)).await.ok();
        let own = format!("{PODS}/{name}");
        // No update places a pod, whoever asks: validation says so before anybody's rights count.
        let merged = bench.merge(user, &own, json!({"spec": {"nodeName": "one"}})).await.refused(422, "Invalid");
        assert!(merged.contains("spec.nodeName"), "{merged}");
        let mut replaced = made;
        replaced["spec"]["nodeName"] = "one".into();
        let put = bench.put(user, &own, &replaced).await.refused(422, "Invalid");
        assert!(put.contains("spec.nodeName"), "{put}");
        let apply = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "applied"},
            "spec": {"nodeName": "one", "containers": [{"name": "a", "image": "b"}]}});
        let path = format!("{PODS}/applied?fieldManager=me");
        bench.send(user, "PATCH", &path, "application/apply-patch+yaml", &apply.to_string()).await.forbidden();
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "one"}});
        bench.post(user, &format!("{own}/binding"), binding).await.forbidden();
        bench.merge(user, &format!("{own}/status"), json!({"status": {"phase": "Succeeded"}})).await.forbidden();
        bench.get(user, &format!("{own}/status")).await.ok();
        bench.merge(user, &own, json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
        let attachments = "/apis/volume.hypernetes.io/v1alpha1/attachments";
        let attachment = json!({"metadata": {"name": "v"}, "spec": {"volume": "v", "node": "one"}});
        bench.post(user, attachments, attachment).await.forbidden();
        bench.delete(user, &format!("{attachments}/v")).await.forbidden();
        bench.get(user, attachments).await.ok();
    }
    bench.post(&operator(), &path, placed.clone()).await.ok();
    // What it says already may be said again.
    let kept = bench.merge(&admin(ACME), &format!("{PODS}/placed"), json!({"spec": {"nodeName": "one"}})).await;
    assert_eq!(kept.ok()["spec"]["nodeName"], "one");
    bench.merge(&node("one"), &format!("{path}/placed/status"), json!({"status": {"phase": "Running"}})).await.ok();
    let binding = json!({"metadata": {"name": "p0"}, "target": {"kind": "Node", "name": "one"}});
    bench.post(&infrastructure(), &format!("{path}/p0/binding"), binding).await.ok();
}
