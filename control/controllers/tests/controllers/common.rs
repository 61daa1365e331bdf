//! An API server in process with the controllers beside it; the test is the kubelet and the backends.

use std::{ops::Deref, sync::Arc, time::Duration};

use hypernetes_api::{AllTenants, TenantId, types::identity::Project};
use hypernetes_client::Clients;
use hypernetes_controllers::{ControllersConfig, Limits, runtime::Informers};
use hypernetes_testing::{
    server::{ACME, GLOBEX, InProcess},
    wait::until,
};
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Two tenants, and the operator.
pub struct Bench {
    pub acme: Client,
    pub globex: Client,
    pub system: Client,
    stop: DropGuard,
    in_process: InProcess,
}

impl Bench {
    /// The server, when its controllers are to stop.
    pub fn stopped(self) -> InProcess {
        drop(self.stop);
        self.in_process
    }
}

impl Deref for Bench {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.in_process
    }
}

pub async fn bench() -> Bench {
    bench_with(Limits::default()).await
}

pub async fn bench_with(limits: Limits) -> Bench {
    bench_through(limits, Clients::clone).await
}

/// What the controllers say may be changed on its way.
pub async fn bench_through(limits: Limits, way: impl FnOnce(&Clients) -> Clients) -> Bench {
    let api = InProcess::start();
    let stop = controllers_through(&api, limits, way);
    for (tenant, name) in [(ACME, "acme"), (GLOBEX, "globex")] {
        api.project(tenant, name).await;
        let ready = |project: &Project| project.status.as_ref().is_some_and(|status| status.phase == "Ready");
        until(&api.api(TenantId::SYSTEM), tenant, "ready", ready).await;
        until::<ServiceAccount>(&api.in_default(tenant), "default", "made", |_| true).await;
    }
    Bench {
        acme: api.client(ACME),
        globex: api.client(GLOBEX),
        system: api.client(TenantId::SYSTEM),
        stop,
        in_process: api,
    }
}

/// The controllers over a server, until dropped.
pub fn controllers(api: &InProcess) -> DropGuard {
    controllers_through(api, Limits::default(), Clients::clone)
}

fn controllers_through(api: &InProcess, limits: Limits, way: impl FnOnce(&Clients) -> Clients) -> DropGuard {
    let stop = CancellationToken::new();
    let informers = Informers::new(way(&api.clients), AllTenants::grant(), stop.clone());
    let authorities = Arc::new(api.server.authorities());
    let config = ControllersConfig {
        informers,
        cluster_ca_pem: "PEM".into(),
        api_server: ([192, 0, 2, 1], 6443).into(),
        authorities,
    };
    tokio::spawn(hypernetes_controllers::run_with(config, limits, stop.clone()));
    stop.drop_guard()
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

pub async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> K
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
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
