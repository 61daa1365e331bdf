//! Pods that nobody else ends.

use std::time::Duration;

use hypernetes_controllers::Limits;
use hypernetes_testing::{
    server::make,
    wait::{until, until_gone},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::common::{bench_with, kubelet};

async fn pod(client: &Client, name: &str, node: &str, image: &str) -> Api<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": image}]});
    make(&pods, json!({"metadata": {"name": name}, "spec": spec})).await;
    pods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_is_gone_go_of_all_tenants() {
    let bench = bench_with(Limits { nodeless_grace: Duration::from_millis(500), ..Limits::default() }).await;
    let nodes: Api<Node> = Api::all(bench.system.clone());
    make(&nodes, json!({"metadata": {"name": "n1"}})).await;
    make(&nodes, json!({"metadata": {"name": "n2"}})).await;
    let ours = pod(&bench.acme, "p", "n1", "i").await;
    let theirs = pod(&bench.globex, "p", "n1", "i").await;
    pod(&bench.globex, "other", "n2", "i").await;
    pod(&bench.acme, "nowhere", "never", "i").await;
    until_gone(&ours, "nowhere").await;
    assert!(ours.get("p").await.is_ok() && theirs.get("p").await.is_ok());
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    until_gone(&ours, "p").await;
    until_gone(&theirs, "p").await;
    assert!(theirs.get("other").await.unwrap().metadata.deletion_timestamp.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_of_too_many_ended_pods_go_of_that_tenant_alone() {
    let bench = bench_with(Limits { terminated_pods: 2, ..Limits::default() }).await;
    let nodes: Api<Node> = Api::all(bench.system.clone());
    make(&nodes, json!({"metadata": {"name": "n1"}})).await;
    let _kubelets = (kubelet(bench.acme.clone()), kubelet(bench.globex.clone()));
    let ended = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
    for name in ["a", "b"] {
        let pods = pod(&bench.globex, name, "n1", "done").await;
        until(&pods, name, "ended", ended).await;
    }
    let pods = pod(&bench.acme, "runs", "n1", "i").await;
    pod(&bench.acme, "b", "n1", "done").await;
    // Creation times are in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    pod(&bench.acme, "c", "n1", "done").await;
    for name in ["b", "c"] {
        until(&pods, name, "ended", ended).await;
    }
    pod(&bench.acme, "a", "n1", "failing").await;
    until_gone(&pods, "b").await;
    let names = |list: kube::core::ObjectList<Pod>| list.iter().map(Pod::name_any).collect::<Vec<_>>();
    assert_eq!(names(pods.list(&ListParams::default()).await.unwrap()), ["a", "c", "runs"]);
    let theirs: Api<Pod> = Api::namespaced(bench.globex.clone(), "default");
    assert_eq!(names(theirs.list(&ListParams::default()).await.unwrap()), ["a", "b"]);
}
