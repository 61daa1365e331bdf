//! What goes, and what goes with it.

use crate::common::{bench, kubelet, make, merge, until, until_gone};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::{Api, api::DeleteParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let bench = bench().await;
    let namespaces: Api<Namespace> = Api::all(bench.acme.clone());
    make(&namespaces, json!({"metadata": {"name": "shop"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(bench.acme.clone(), "shop");
    until(&accounts, "default", "made", |_| true).await;
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "shop");
    make(&maps, json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})).await;
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "shop");
    make(
        &pods,
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    let remaining = |namespace: &Namespace| {
        let conditions = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|c| {
            c.type_ == "NamespaceFinalizersRemaining"
                && c.status == "True"
                && c.message.as_deref().is_some_and(|message| message.contains("example.com/hold in 1"))
        })
    };
    until(&namespaces, "shop", "waiting", remaining).await;
    assert!(pods.get("p").await.is_ok(), "the pod ends gracefully");
    let _kubelet = kubelet(bench.acme.clone());
    until_gone(&pods, "p").await;
    merge(&maps, "held", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&namespaces, "shop").await;
    until_gone(&maps, "held").await;
}
