//! What a write costs in processor time with the controllers beside it:
//! `cargo test --release -p hypernetes-controllers --test controllers cost -- --ignored --nocapture`.

use std::time::Duration;

use hypernetes_api::AllTenants;
use hypernetes_client::{Clients, shared::Wanted};
use hypernetes_controllers::{ControllersConfig, Limits, runtime::Informers};
use hypernetes_testing::{
    requests::infrastructure,
    server::{ACME, InProcess},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Processor time that this process's threads have taken.
fn taken() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

const WRITES: u32 = 1000;

async fn each(what: &str, controllers: Option<bool>) {
    let api = InProcess::with_tenants().await;
    let stop = CancellationToken::new();
    if let Some(shared) = controllers {
        // As a server that has no objects to hand over answers.
        let text = api.server.loopback().map_request(move |mut request: http::Request<kube::client::Body>| {
            if !shared {
                request.extensions_mut().remove::<Wanted>();
            }
            request
        });
        let informers = Informers::new(Clients::in_process(text), AllTenants::grant(), stop.clone());
        let authorities = std::sync::Arc::new(api.server.authorities());
        let config = ControllersConfig {
            informers: informers.clone(),
            cluster_ca_pem: "PEM".into(),
            api_server: ([192, 0, 2, 1], 6443).into(),
            authorities,
        };
        tokio::spawn(hypernetes_controllers::run_with(config, Limits::default(), stop.clone()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        informers.synced().await;
    }
    // The controllers make one.
    if controllers.is_none() {
        api.account(ACME).await;
    }
    let pods = format!("/clusters/{ACME}/api/v1/namespaces/default/pods");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "a"}}, "spec": {
        "nodeName": "n", "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "x".repeat(300)}]}]}});
    api.post(&infrastructure(), &pods, pod).await.ok();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = taken();
    for i in 0..WRITES {
        let status = json!({"status": {"phase": "Running", "podIP": format!("10.0.{}.{}", i / 250, i % 250 + 1)}});
        api.merge(&infrastructure(), &format!("{pods}/p/status"), status).await.ok();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("{what:<48} {:>8.1} us a write", ((taken() - before) / WRITES).as_nanos() as f64 / 1000.0);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints what things cost, and asserts nothing"]
async fn cost() {
    each("a pod's status, nobody beside", None).await;
    each("with the controllers, told in JSON", Some(false)).await;
    each("with the controllers, handed the objects", Some(true)).await;
}

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What a tenant takes in memory with what it has from the start, in the store and in the controllers' caches, the past of its making
/// included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints what things cost, and asserts nothing"]
async fn tenants() {
    const TENANTS: usize = 1000;
    let bench = crate::common::bench().await;
    let count = async |plural: &str, group: &str| {
        let resource = hypernetes_store::ResourceId::new(group, plural);
        let prefix = hypernetes_store::Prefix::all_tenants(&resource, &AllTenants::grant());
        bench.store.range(&prefix, Default::default()).await.unwrap().entries.len()
    };
    // Two tenants and the operator have them already.
    let all = TENANTS + 3;
    let before = resident();
    for i in 0..TENANTS {
        bench.project(&format!("{i:032x}"), &format!("t{i}")).await;
    }
    for (plural, group, each) in
        [("configmaps", "", 4), ("serviceaccounts", "", 4), ("endpointslices", "discovery.k8s.io", 1)]
    {
        while count(plural, group).await < all * each {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{TENANTS} tenants: {:.1} KiB each", (resident() - before) as f64 / TENANTS as f64 / 1024.0);
}
