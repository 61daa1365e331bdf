//! What is made and changed on its way into the store, so that its owner would not find it again, as an admission webhook can.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{Method, Request};
use hypernetes_client::{Clients, Transport};
use hypernetes_controllers::Limits;
use hypernetes_testing::{
    server::make,
    wait::{eventually, until},
};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams, client::Body};
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::common::{Bench, bench_through, merge, until_said};

/// Pods that are made for `astray` or `cut` lose their labels, those for `taken` their owner, too, those for `orphaned` their owner
/// alone. Who makes one for `cut` is not told what came of it, as if it had ended then.
fn through(inner: Transport, changes: Arc<AtomicBool>) -> Transport {
    BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
        let (inner, changes) = (inner.clone(), changes.load(Ordering::Relaxed));
        async move {
            let (parts, mut body) = request.into_parts();
            if !changes || parts.method != Method::POST || !parts.uri.path().ends_with("/pods") {
                return inner.oneshot(Request::from_parts(parts, body)).await;
            }
            let mut pod: Value = serde_json::from_slice(&body.collect_bytes().await?)?;
            let name = pod["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
            let metadata = pod["metadata"].as_object_mut().unwrap();
            let (lost, of): (&[&str], _) = match name.trim_end_matches('-') {
                of @ ("astray" | "cut") => (&["labels"], of),
                of @ "taken" => (&["labels", "ownerReferences"], of),
                of @ "orphaned" => (&["ownerReferences"], of),
                of => (&[], of),
            };
            lost.iter().for_each(|field| drop(metadata.remove(*field)));
            body = Body::from(serde_json::to_vec(&pod)?);
            let answer = inner.oneshot(Request::from_parts(parts, body)).await;
            if of == "cut" { Err("the connection was cut".into()) } else { answer }
        }
    }))
}

/// With what ends the changes.
async fn bench() -> (Bench, Arc<AtomicBool>) {
    let changes = Arc::new(AtomicBool::new(true));
    let on_the_way = changes.clone();
    let way = move |clients: &Clients| clients.layered(move |inner| through(inner, on_the_way.clone()));
    (bench_through(Limits::default(), way).await, changes)
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
async fn what_its_owner_would_not_find_is_not_made() {
    let (bench, changes) = bench().await;
    let sets: Api<ReplicaSet> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    for (name, why) in [("astray", "selected"), ("taken", "selected"), ("cut", "the connection was cut")] {
        make(&sets, set(name, 2)).await;
        let said = until_said(&bench.acme, name, "FailedCreate").await;
        assert!(said.contains(why), "{said}");
        look_again(&sets, name, 4).await;
        let there = pods_of(&pods, name).await;
        assert!(there.is_empty(), "{there:?}");
        let status = sets.get(name).await.unwrap().status.unwrap();
        assert_eq!((status.replicas, status.conditions.unwrap()[0].type_.as_str()), (0, "ReplicaFailure"));
    }
    // Nothing else is the matter with them.
    changes.store(false, Ordering::Relaxed);
    for name in ["astray", "taken", "cut"] {
        merge(&sets, name, json!({"spec": {"minReadySeconds": 9}})).await;
        until(&sets, name, "made", |set| set.status.as_ref().is_some_and(|status| status.replicas == 2)).await;
        assert_eq!(pods_of(&pods, name).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_without_its_owner_is_taken_in() {
    let (bench, _) = bench().await;
    let sets: Api<ReplicaSet> = Api::namespaced(bench.acme.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    make(&sets, set("orphaned", 2)).await;
    eventually(|| async {
        let there = pods_of(&pods, "orphaned").await;
        assert!(there.len() <= 2, "{there:?}");
        let owned = there.iter().filter(|pod| pod.owner_references().len() == 1).count();
        (owned == 2).then_some(())
    })
    .await;
}
