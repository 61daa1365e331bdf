//! Events and their age.

use std::time::Duration;

use hypernetes_controllers::Limits;
use hypernetes_testing::{server::make, wait::until_gone};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, Client};
use serde_json::json;

use crate::common::{bench_with, merge};

async fn happen(client: &Client, name: &str) -> Api<Event> {
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let about = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    make(&events, json!({"metadata": {"name": name}, "involvedObject": about, "reason": "R", "count": 1})).await;
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_when_they_have_not_happened_again() {
    let bench = bench_with(Limits { event_ttl: Duration::from_secs(5), ..Limits::default() }).await;
    let ours = happen(&bench.acme, "once").await;
    let theirs = happen(&bench.globex, "once").await;
    happen(&bench.acme, "again").await;
    let mut count = 1;
    while ours.get_opt("once").await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        count += 1;
        merge(&ours, "again", json!({"count": count})).await;
    }
    assert!(ours.get_opt("again").await.unwrap().is_some());
    until_gone(&theirs, "once").await;
    until_gone(&ours, "again").await;
}
