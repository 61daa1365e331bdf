//! Nodes that fall silent.

use std::time::Duration;

use hypernetes_controllers::Limits;
use hypernetes_testing::{server::make, wait::until};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Node},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::common::{Bench, bench_with, merge, until_said};

async fn ready(nodes: &Api<Node>, name: &str, status: &str) {
    let now = Timestamp::now();
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"status": {"conditions": [condition("Ready", status), condition("DiskPressure", "False")]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

fn is(node: &Node, kind: &str, status: &str) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind && condition.status == status)
}

fn taints(node: &Node) -> Vec<(&str, &str)> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
}

async fn silent_soon() -> Bench {
    bench_with(Limits { node_grace: Duration::from_secs(5), ..Limits::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_unreachable_until_it_speaks() {
    let bench = silent_soon().await;
    let nodes: Api<Node> = Api::all(bench.system.clone());
    let own = json!({"key": "gpu", "effect": "NoSchedule"});
    make(&nodes, json!({"metadata": {"name": "n1"}, "spec": {"taints": [own]}})).await;
    ready(&nodes, "n1", "True").await;
    const KEY: &str = "node.kubernetes.io/unreachable";
    let both = [("gpu", "NoSchedule"), (KEY, "NoSchedule"), (KEY, "NoExecute")];
    let lost = until(&nodes, "n1", "unreachable", |node| taints(node) == both).await;
    assert!(is(&lost, "Ready", "Unknown") && is(&lost, "DiskPressure", "Unknown"));
    until_said(&bench.system, "n1", "NodeNotReady").await;
    ready(&nodes, "n1", "False").await;
    const NOT: &str = "node.kubernetes.io/not-ready";
    let both = [("gpu", "NoSchedule"), (NOT, "NoSchedule"), (NOT, "NoExecute")];
    until(&nodes, "n1", "not ready", |node| taints(node) == both).await;
    ready(&nodes, "n1", "True").await;
    until(&nodes, "n1", "back", |node| taints(node) == [("gpu", "NoSchedule")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_lease_is_a_sign_of_life() {
    let bench = silent_soon().await;
    let namespaces: Api<Namespace> = Api::all(bench.system.clone());
    until(&namespaces, "kube-node-lease", "made", |_| true).await;
    let leases: Api<Lease> = Api::namespaced(bench.system.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(bench.system.clone());
    make(&nodes, json!({"metadata": {"name": "n1"}})).await;
    make(&leases, json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}})).await;
    ready(&nodes, "n1", "True").await;
    for _ in 0..10 {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now());
        merge(&leases, "n1", json!({"spec": {"renewTime": now}})).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let node = nodes.get("n1").await.unwrap();
        assert!(is(&node, "Ready", "True") && taints(&node).is_empty());
    }
    until(&nodes, "n1", "silent", |node| is(node, "Ready", "Unknown")).await;
}
