//! What requests cost in processor time, in process: `cargo test --release -p hypernetes-apiserver --test cost -- --ignored --nocapture`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use hypernetes_testing::{
    requests::{admin, by, infrastructure},
    server::{ACME, InProcess},
};
use serde_json::json;

const OBJECTS: usize = 10_000;

/// Processor time that this process's threads have taken.
fn taken() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

struct Costs(InProcess);

impl Costs {
    /// The bytes of an answer, which are not kept.
    async fn read(&self, path: &str) -> usize {
        let request = by(&infrastructure(), Request::get(path).body(Body::empty()).unwrap());
        let response = self.0.response(request).await;
        assert!(response.status().is_success(), "{path}");
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        bytes
    }

    async fn report(&self, what: &str, times: usize, path: &str) {
        let bytes = self.read(path).await;
        let before = taken();
        for _ in 0..times {
            self.read(path).await;
        }
        let each = (taken() - before) / u32::try_from(times).unwrap();
        println!("{what:<44} {:>10.1} us  {bytes} bytes", each.as_nanos() as f64 / 1000.0);
    }

    async fn write(&self, name: &str, value: usize) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "x".repeat(700), "n": value.to_string()},
            "metadata": {"name": name, "labels": {"app": "t"}}});
        let path = format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps");
        self.0.post(&infrastructure(), &path, map).await.ok();
    }

    /// [`Self::report`], as kubectl asks.
    async fn report_table(&self, what: &str, times: usize, path: &str) {
        let read = async || {
            let request = Request::get(path).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
            let request = by(&infrastructure(), request.body(Body::empty()).unwrap());
            let mut body = self.0.response(request).await.into_body();
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.unwrap().into_data().map_or(0, |data| data.len());
            }
            bytes
        };
        let before = taken();
        let bytes = read().await;
        println!("{what:<44} {:>10.1} us  {bytes} bytes, the first", (taken() - before).as_nanos() as f64 / 1000.0);
        let before = taken();
        for _ in 0..times {
            read().await;
        }
        let each = (taken() - before) / u32::try_from(times).unwrap();
        println!("{what:<44} {:>10.1} us  {bytes} bytes", each.as_nanos() as f64 / 1000.0);
    }

    /// What `times` writes of each sort cost, the store's part and the disk's included.
    async fn writes(&self, times: usize, path: &str) {
        let user = admin(ACME);
        let map = |i: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "x".repeat(1000)}, "metadata": {"name": format!("w{i}")}});
        let report = |what: &str, before: Duration| {
            let each = (taken() - before) / u32::try_from(times).unwrap();
            println!("{what:<44} {:>10.1} us", each.as_nanos() as f64 / 1000.0);
        };
        let before = taken();
        for i in 0..times {
            assert_eq!(self.0.post(&user, &format!("{path}?dryRun=All"), map(i)).await.status, 201);
        }
        report("create, dry run", before);
        let before = taken();
        for i in 0..times {
            assert_eq!(self.0.post(&user, path, map(i)).await.status, 201);
        }
        report("create", before);
        let before = taken();
        for i in 0..times {
            let patch = json!({"data": {"k": format!("{i}{}", "y".repeat(1000))}});
            assert_eq!(self.0.merge(&user, &format!("{path}/w{i}"), patch).await.status, 200);
        }
        report("patch", before);
        let before = taken();
        for i in 0..times {
            assert_eq!(self.0.put(&user, &format!("{path}/w{i}"), &map(i)).await.status, 200);
        }
        report("update", before);
    }

    /// What a delivery costs, without what the writes cost with nobody watching.
    async fn delivery(&self, what: &str, watchers: usize, path: &str, round: &str) {
        const WRITES: usize = 40;
        let before = taken();
        for i in 0..WRITES {
            self.write(&format!("quiet-{round}-{i}"), i).await;
        }
        let quiet = taken() - before;
        let newest = self.0.store.revision().await.unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for _ in 0..watchers {
            let uri =
                format!("{path}{}watch=true&resourceVersion={newest}", if path.contains('?') { '&' } else { '?' });
            let response = self.0.response(by(&infrastructure(), Request::get(uri).body(Body::empty()).unwrap())).await;
            let (mut body, seen) = (response.into_body(), seen.clone());
            tasks.push(tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let data = frame.into_data().unwrap();
                    seen.fetch_add(data.iter().filter(|byte| **byte == b'\n').count(), Ordering::Relaxed);
                }
            }));
        }
        let before = taken();
        for i in 0..WRITES {
            self.write(&format!("told-{round}-{i}"), i).await;
        }
        while seen.load(Ordering::Relaxed) < WRITES * watchers {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let told = (taken() - before).saturating_sub(quiet) / u32::try_from(WRITES * watchers).unwrap();
        println!("{what:<38} {watchers:>5} {:>10.2} us each", told.as_nanos() as f64 / 1000.0);
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
#[ignore = "prints what things cost, and asserts nothing"]
async fn costs() {
    let costs = Costs(InProcess::with_tenants().await);
    let maps = format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps");
    futures::future::join_all((0..OBJECTS).map(|i| {
        let costs = &costs;
        async move { costs.write(&format!("m{i}"), i).await }
    }))
    .await;
    costs.report("get", 20_000, &format!("{maps}/m1")).await;
    costs.report("list of 10,000", 10, &maps).await;
    costs.report("list of 10,000 by label", 10, &format!("{maps}?labelSelector=app%3Dt")).await;
    costs.report("list of none of 10,000 by label", 10, &format!("{maps}?labelSelector=app%3Dx")).await;
    costs.report("list of 10,000, of all tenants", 10, "/clusters/*/api/v1/configmaps").await;
    costs.report_table("table of 10,000", 10, &maps).await;
    for watchers in [100, 1000] {
        costs.delivery("watch", watchers, &maps, &format!("a{watchers}")).await;
        let labels = format!("{maps}?labelSelector=app%3Dt");
        costs.delivery("watch by label", watchers, &labels, &format!("b{watchers}")).await;
        let all = "/clusters/*/api/v1/configmaps";
        costs.delivery("watch of all tenants", watchers, all, &format!("c{watchers}")).await;
    }
}

#[tokio::test]
#[ignore = "prints what things cost, and asserts nothing"]
async fn writes() {
    let costs = Costs(InProcess::with_tenants().await);
    costs.writes(5_000, &format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps")).await;
    println!("in a namespace with a quota that counts them, a limit range and a level of Pod Security");
    let (user, labels) = (admin(ACME), json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let namespace = json!({"metadata": {"name": "ruled", "labels": labels}});
    costs.0.post(&user, "/api/v1/namespaces", namespace).await.ok();
    let limit = json!({"type": "Container", "max": {"cpu": "1"}});
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [limit]}});
    costs.0.post(&user, "/api/v1/namespaces/ruled/limitranges", range).await.ok();
    let quotas = "/api/v1/namespaces/ruled/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "1M"}}});
    costs.0.post(&user, quotas, quota).await.ok();
    let status = json!({"status": {"hard": {"configmaps": "1M"}, "used": {"configmaps": "0"}}});
    costs.0.merge(&user, &format!("{quotas}/q/status"), status).await.ok();
    costs.writes(5_000, &format!("/clusters/{ACME}/api/v1/namespaces/ruled/configmaps")).await;
}

const MEASURED: &str = "COST_OF_A_STORE_IN";

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What 100,000 objects of 1 kB take in memory, beside their bytes; measured in a process that has just opened them.
#[tokio::test]
#[ignore = "prints what things cost, and asserts nothing"]
async fn memory() {
    const OBJECTS: usize = 100_000;
    if let Ok(directory) = std::env::var(MEASURED) {
        let options = hypernetes_store::Options { values: hypernetes_apiserver::VALUES, ..Default::default() };
        let before = resident();
        let store =
            Arc::new(hypernetes_store::Store::open(&std::path::Path::new(&directory).join("store"), options).unwrap());
        let all = hypernetes_api::AllTenants::grant();
        let prefix = hypernetes_store::Prefix::all_tenants(&hypernetes_store::ResourceId::new("", "configmaps"), &all);
        let entries = store.range(&prefix, Default::default()).await.unwrap().entries;
        let bytes: usize = entries.iter().map(|entry| entry.value.len()).sum();
        let count = entries.len();
        let tell = |what: &str| {
            let times = (resident() - before) as f64 / bytes as f64;
            println!("{count} objects, {} bytes each, {what}: {times:.2} times their bytes", bytes / count);
        };
        drop(entries);
        tell("opened");
        let server = hypernetes_apiserver::ApiServer::new(hypernetes_apiserver::Config {
            store: store.clone(),
            all_tenants: all,
        });
        let path = format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps?labelSelector=app%3Dx");
        let request = by(&infrastructure(), Request::get(path).body(Body::empty()).unwrap());
        let response = tower::ServiceExt::oneshot(server.router(), request).await.unwrap();
        response.into_body().collect().await.unwrap();
        tell("once selected");
        let path = format!("/clusters/{ACME}/api/v1/namespaces/default/configmaps");
        let request = Request::get(path).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        let request = by(&infrastructure(), request.body(Body::empty()).unwrap());
        let mut body = tower::ServiceExt::oneshot(server.router(), request).await.unwrap().into_body();
        while let Some(frame) = body.frame().await {
            drop(frame.unwrap());
        }
        tell("once selected, and shown as a table");
        return;
    }
    let costs = Costs(InProcess::with_tenants().await);
    for some in 0..OBJECTS / 1000 {
        let each = (0..1000).map(|i| {
            let (costs, name) = (&costs, format!("m{}", some * 1000 + i));
            async move { costs.write(&name, i).await }
        });
        futures::future::join_all(each).await;
    }
    let directory = costs.0.directory().to_owned();
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(&directory).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["memory", "--exact", "--ignored", "--nocapture"])
        .env(MEASURED, copy.path())
        .status()
        .unwrap();
    assert!(status.success());
}
