//! What is made and changed on its way into the store, so that its owner does not find it again, as an admission webhook can.

use http::{Method, Request};
use hypernetes_client::{Clients, Transport};
use hypernetes_controllers::Limits;
use hypernetes_testing::{server::make, wait::until};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
    client::Body,
};
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::common::{Bench, bench_through, merge, until_said};

/// Pods that are made for `astray` lose their labels, those for `taken` their owner, too.
fn changed(pod: &mut Value) {
    let name = pod["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    let metadata = pod["metadata"].as_object_mut().unwrap();
    if name.starts_with("astray-") || name.starts_with("taken-") {
        metadata.remove("labels");
    }
    if name.starts_with("taken-") {
        metadata.remove("ownerReferences");
    }
}

fn through(inner: Transport) -> Transport {
    BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        async move {
            let (parts, mut body) = request.into_parts();
            if parts.method == Method::POST && parts.uri.path().ends_with("/pods") {
                let mut pod: Value = serde_json::from_slice(&body.collect_bytes().await?)?;
                changed(&mut pod);
                body = Body::from(serde_json::to_vec(&pod)?);
            }
            inner.oneshot(Request::from_parts(parts, body)).await
        }
    }))
}

async fn bench() -> Bench {
    bench_through(Limits::default(), |clients: &Clients| clients.layered(through)).await
}

fn set(name: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

async fn pods_of(pods: &Api<Pod>, name: &str) -> Vec<Pod> {
    let all = pods.list(&ListParams::default()).await.unwrap().items;
    all.into_iter().filter(|pod| pod.name_any().starts_with(name)).collect()
}

/// Has it looked at so many times.
async fn look_again(sets: &Api<ReplicaSet>, name: &str, times: i32) {
    for seconds in 1..=times {
        let generation = merge(sets, name, json!({"spec": {"minReadySeconds": seconds}})).await.metadata.generation;
        let looked =
            |set: &ReplicaSet| set.status.as_ref().is_some_and(|status| status.observed_generation == generation);
        until(sets, name, "looked at", looked).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_gone_astray_counts() {
    let bench = bench().await;
    let sets: Api<ReplicaSet> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    make(&sets, set("astray", 2)).await;
    let why = until_said(&bench.acme, "astray", "FailedCreate").await;
    assert!(why.ends_with("was made, and is not selected by whom it was made for"), "{why}");
    look_again(&sets, "astray", 6).await;
    let there = pods_of(&pods, "astray").await;
    assert_eq!(there.len(), 2, "{there:?}");
    assert!(there.iter().all(|pod| pod.owner_references()[0].name == "astray"), "{there:?}");
    let status = sets.get("astray").await.unwrap().status.unwrap();
    let failed = status.conditions.unwrap();
    assert_eq!((status.replicas, failed[0].type_.as_str()), (0, "ReplicaFailure"));

    // One that is found counts then, and one that is deleted is made again.
    let found = there[0].name_any();
    merge(&pods, &found, json!({"metadata": {"labels": {"app": "astray"}}})).await;
    until(&sets, "astray", "found", |set| set.status.as_ref().is_some_and(|status| status.replicas == 1)).await;
    pods.delete(&there[1].name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    look_again(&sets, "astray", 3).await;
    assert!(pods_of(&pods, "astray").await.len() <= 2);
    // They go before what is of use.
    merge(&sets, "astray", json!({"spec": {"replicas": 1}})).await;
    let left = || async { pods_of(&pods, "astray").await.iter().map(ResourceExt::name_any).collect::<Vec<_>>() };
    hypernetes_testing::wait::eventually(|| async { (left().await == [found.clone()]).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_owns_is_taken_back() {
    let bench = bench().await;
    let sets: Api<ReplicaSet> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    make(&sets, set("taken", 2)).await;
    let why = until_said(&bench.acme, "taken", "FailedCreate").await;
    assert!(why.ends_with("was made, and is not owned by whom it was made for"), "{why}");
    look_again(&sets, "taken", 4).await;
    // One may be made just now.
    let there = pods_of(&pods, "taken").await;
    assert!(there.len() <= 1, "{there:?}");
}
