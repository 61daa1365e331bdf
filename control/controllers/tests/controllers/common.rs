//! An API server in process with the controllers beside it; the test is the kubelet and the backends.

use std::{sync::Arc, time::Duration};

use hypernetes_api::{AllTenants, TenantId, types::identity::Project};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_client::Clients;
use hypernetes_controllers::{ControllersConfig, Limits, runtime::Informers};
use hypernetes_store::{EmbeddedStore, Store, embedded::Options};
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

pub const ACME: &str = "0123456789abcdef0123456789abcdef";
pub const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

/// Two tenants, and the operator.
pub struct Bench {
    pub acme: Client,
    pub globex: Client,
    pub system: Client,
    pub store: Arc<dyn Store>,
    _stop: DropGuard,
    _directory: tempfile::TempDir,
}

pub async fn bench() -> Bench {
    bench_with(Limits::default()).await
}

pub async fn bench_with(limits: Limits) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let server = ApiServer::new(Config { store: store.clone(), all_tenants: AllTenants::grant() });
    let clients = Clients::in_process(server.loopback());
    let stop = CancellationToken::new();
    let informers = Informers::new(clients.clone(), AllTenants::grant(), stop.clone());
    let config = ControllersConfig { informers, cluster_ca_pem: "PEM".into() };
    tokio::spawn(hypernetes_controllers::run_with(config, limits, stop.clone()));
    let bench = Bench {
        acme: clients.tenant(&ACME.parse().unwrap()),
        globex: clients.tenant(&GLOBEX.parse().unwrap()),
        system: clients.tenant(&TenantId::system()),
        store,
        _stop: stop.drop_guard(),
        _directory: directory,
    };
    let projects: Api<Project> = Api::all(bench.system.clone());
    for (id, name, client) in [(ACME, "acme", &bench.acme), (GLOBEX, "globex", &bench.globex)] {
        let project = json!({"apiVersion": "identity.hypernetes.io/v1alpha1", "kind": "Project",
            "metadata": {"name": id}, "spec": {"displayName": name, "domain": "default", "enabled": true}});
        make(&projects, project).await;
        until(&projects, id, "ready", |p| p.status.as_ref().is_some_and(|s| s.phase == "Ready")).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        until(&accounts, "default", "made", |_| true).await;
    }
    bench
}

/// Waits for an event of this reason, about an object of this name.
#[track_caller]
pub fn until_said(client: &Client, name: &str, reason: &'static str) -> impl Future<Output = String> {
    let (place, name) = (std::panic::Location::caller(), name.to_owned());
    let api: Api<Event> = Api::namespaced(client.clone(), "default");
    async move {
        let mut all = Vec::new();
        for _ in 0..3000 {
            all = api.list(&ListParams::default()).await.unwrap().items;
            let said = |event: &&Event| {
                event.involved_object.name.as_deref() == Some(&name) && event.reason.as_deref() == Some(reason)
            };
            if let Some(event) = all.iter().find(said) {
                return event.message.clone().unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let all: Vec<_> = all.iter().map(|event| (&event.reason, &event.message)).collect();
        panic!("{place}: no {reason} of {name}: {all:#?}")
    }
}

pub async fn make<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

pub async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> K
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
}

/// Waits for an object to be so.
#[track_caller]
pub fn until<K>(api: &Api<K>, name: &str, what: &'static str, so: impl Fn(&K) -> bool) -> impl Future<Output = K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let (place, name) = (std::panic::Location::caller(), name.to_owned());
    async move {
        let mut last = None;
        for _ in 0..3000 {
            last = api.get_opt(&name).await.unwrap();
            if let Some(object) = &last
                && so(object)
            {
                return object.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{place}: {name} is not {what}: {last:#?}")
    }
}

/// Waits until an object is gone.
#[track_caller]
pub fn until_gone<K>(api: &Api<K>, name: &str) -> impl Future<Output = ()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let (place, name) = (std::panic::Location::caller(), name.to_owned());
    async move {
        let mut last = None;
        for _ in 0..3000 {
            last = api.get_opt(&name).await.unwrap();
            if last.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{place}: {name} is still there: {last:#?}")
    }
}

/// Does what a kubelet does, until dropped: pods run and are ready at once, unless the image is `broken`; an image
/// `done` ends at once, `failing` fails. Pods that are to end, end.
pub fn kubelet(client: Client) -> DropGuard {
    let stop = CancellationToken::new();
    let work = async move {
        let pods: Api<Pod> = Api::all(client.clone());
        loop {
            for pod in pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
                let name = pod.name_any();
                if pod.metadata.deletion_timestamp.is_some() {
                    let _ = api.delete(&name, &kube::api::DeleteParams::default().grace_period(0)).await;
                    continue;
                }
                let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
                let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
                let (phase, ready) = match (phase.as_deref(), image.as_str()) {
                    (Some("Pending"), "broken") => continue,
                    (Some("Pending"), "done") => ("Succeeded", "False"),
                    (Some("Pending"), "failing") => ("Failed", "False"),
                    (Some("Pending"), _) => ("Running", "True"),
                    _ => continue,
                };
                let status = json!({"status": {"phase": phase, "podIP": "10.244.0.9", "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": jiff::Timestamp::now()}]}});
                let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::spawn(stop.clone().run_until_cancelled_owned(work));
    stop.drop_guard()
}
