//! Placement against an API server in process, with pods of two tenants.
#![allow(clippy::disallowed_types)] // as a stock client

use std::{sync::Arc, time::Duration};

use hypernetes_api::{AllTenants, TenantId};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_client::Clients;
use hypernetes_controllers::runtime::Informers;
use hypernetes_store::{EmbeddedStore, embedded::Options};
use k8s_openapi::api::{
    core::v1::{Event, Namespace, Node, PersistentVolumeClaim, Pod, ServiceAccount},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

const ACME: &str = "0123456789abcdef0123456789abcdef";
const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

struct Bench {
    clients: Clients,
    _stop: DropGuard,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap();
        let server = ApiServer::new(Config { store: Arc::new(store), all_tenants: AllTenants::grant() });
        let clients = Clients::in_process(server.loopback());
        let stop = CancellationToken::new();
        let informers = Informers::new(clients.clone(), AllTenants::grant(), stop.clone());
        tokio::spawn(hypernetes_scheduler::run(informers, stop.clone()));
        let bench = Self { clients, _stop: stop.drop_guard(), _directory: directory };
        for tenant in [ACME, GLOBEX] {
            let project = json!({"apiVersion": "identity.hypernetes.io/v1alpha1", "kind": "Project",
                "metadata": {"name": tenant}, "spec": {"displayName": "", "domain": "default", "enabled": true}});
            make::<hypernetes_api::types::identity::Project>(&Api::all(bench.client("system")), project).await;
            make::<Namespace>(&Api::all(bench.client(tenant)), json!({"metadata": {"name": "default"}})).await;
            let accounts: Api<ServiceAccount> = Api::namespaced(bench.client(tenant), "default");
            make(&accounts, json!({"metadata": {"name": "default"}})).await;
        }
        bench
    }

    fn client(&self, tenant: &str) -> Client {
        self.clients.tenant(&tenant.parse::<TenantId>().unwrap())
    }

    async fn node(&self, name: &str, memory: &str) {
        let api: Api<Node> = Api::all(self.client("system"));
        make(&api, json!({"metadata": {"name": name}})).await;
        let status = json!({"status": {"allocatable": {"cpu": "4", "memory": memory, "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    fn pods(&self, tenant: &str) -> Api<Pod> {
        Api::namespaced(self.client(tenant), "default")
    }
}

fn pod(name: &str, memory: &str, claim: Option<&str>) -> Value {
    let volumes: Vec<_> =
        claim.map(|claim| json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}})).into_iter().collect();
    json!({"metadata": {"name": name}, "spec": {"volumes": volumes, "containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"memory": memory}}}]}})
}

async fn make<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

#[track_caller]
fn until<K>(api: &Api<K>, name: &str, so: impl Fn(&K) -> bool) -> impl Future<Output = K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let (place, name) = (std::panic::Location::caller(), name.to_owned());
    async move {
        let mut last = None;
        for _ in 0..3000 {
            last = api.get_opt(&name).await.unwrap();
            if let Some(object) = last.as_ref().filter(|object| so(object)) {
                return object.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{place}: {name}: {last:#?}")
    }
}

fn on(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn refusal(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable"))
        .then_some(condition.message.as_deref()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_share_the_room_of_a_node() {
    let bench = Bench::new().await;
    let (acme, globex) = (bench.pods(ACME), bench.pods(GLOBEX));
    make(&acme, pod("p", "600Mi", None)).await;
    until(&acme, "p", |p| refusal(p) == Some("no nodes available to schedule pods")).await;
    bench.node("n1", "1Gi").await;
    let placed = until(&acme, "p", |p| on(p) == Some("n1")).await;
    assert!(refusal(&placed).is_none());
    make(&globex, pod("p", "600Mi", None)).await;
    until(&globex, "p", |p| refusal(p) == Some("0/1 nodes are available: 1 Insufficient memory.")).await;
    let events: Api<Event> = Api::namespaced(bench.client(GLOBEX), "default");
    let failed = |event: &Event| event.reason.as_deref() == Some("FailedScheduling");
    for attempt in 0.. {
        if events.list(&ListParams::default()).await.unwrap().items.iter().any(failed) {
            break;
        }
        assert!(attempt < 3000, "no event");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The other tenant's pod goes, and there is room.
    acme.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    until(&globex, "p", |p| on(p) == Some("n1")).await;
    let events: Api<Event> = Api::namespaced(bench.client(ACME), "default");
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let messages: Vec<_> = events.iter().filter_map(|event| event.message.as_deref()).collect();
    assert!(messages.contains(&"Successfully assigned default/p to n1"), "{messages:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_never_overfill_and_spread() {
    let bench = Bench::new().await;
    bench.node("n1", "1Gi").await;
    bench.node("n2", "1Gi").await;
    let pods = bench.pods(ACME);
    for i in 0..12 {
        make(&pods, pod(&format!("p{i}"), "200Mi", None)).await;
    }
    let mut counts = (0, 0, 0);
    for _ in 0..3000 {
        let all = pods.list(&ListParams::default()).await.unwrap().items;
        let count = |node: Option<&str>| all.iter().filter(|pod| on(pod) == node).count();
        counts = (count(Some("n1")), count(Some("n2")), all.iter().filter(|pod| refusal(pod).is_some()).count());
        if counts.0 + counts.1 + counts.2 == 12 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(counts, (5, 5, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_for_a_node_is_told_it_first() {
    let bench = Bench::new().await;
    bench.node("n1", "1Gi").await;
    let classes: Api<StorageClass> = Api::all(bench.client("system"));
    make(
        &classes,
        json!({"metadata": {"name": "late"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    let pods = bench.pods(ACME);
    make(&pods, pod("p", "1Mi", Some("data"))).await;
    let missing = "0/1 nodes are available: persistentvolumeclaim \"data\" not found.";
    until(&pods, "p", |p| refusal(p) == Some(missing)).await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(bench.client(ACME), "default");
    make(
        &claims,
        json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "late",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )
    .await;
    let told = |claim: &PersistentVolumeClaim| {
        claim.annotations().get("volume.kubernetes.io/selected-node").is_some_and(|node| node == "n1")
    };
    until(&claims, "data", told).await;
    assert_eq!(on(&pods.get("p").await.unwrap()), None);
    let volumes: Api<k8s_openapi::api::core::v1::PersistentVolume> = Api::all(bench.client(ACME));
    make(
        &volumes,
        json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}}),
    )
    .await;
    let bound =
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    until(&pods, "p", |p| on(p) == Some("n1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_claims_that_are_bound_at_once() {
    let bench = Bench::new().await;
    bench.node("n1", "1Gi").await;
    let pods = bench.pods(ACME);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(bench.client(ACME), "default");
    let spec = json!({"storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    make(&claims, json!({"metadata": {"name": "data"}, "spec": spec})).await;
    make(&pods, pod("p", "1Mi", Some("data"))).await;
    let unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    until(&pods, "p", |p| refusal(p) == Some(unbound)).await;
    let bound =
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    let missing =
        "0/1 nodes are available: persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"v\".";
    until(&pods, "p", |p| refusal(p) == Some(missing)).await;
    // Another tenant's volume of that name is not meant; one that cannot be reached from the node is told.
    let elsewhere = json!({"required": {"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}});
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "nodeAffinity": elsewhere,
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}});
    let volumes = |tenant: &str| Api::<k8s_openapi::api::core::v1::PersistentVolume>::all(bench.client(tenant));
    make(&volumes(GLOBEX), volume.clone()).await;
    make(&volumes(ACME), volume).await;
    let conflict = "0/1 nodes are available: 1 node(s) had volume node affinity conflict.";
    until(&pods, "p", |p| refusal(p) == Some(conflict)).await;
    bench.node("n2", "1Gi").await;
    until(&pods, "p", |p| on(p) == Some("n2")).await;
}
