//! Placement against an API server in process, with pods of two tenants.
#![allow(clippy::disallowed_types)] // as a stock client

use std::{ops::Deref, time::Duration};

use hypernetes_api::AllTenants;
use hypernetes_controllers::runtime::Informers;
use hypernetes_testing::{
    server::{ACME, GLOBEX, InProcess, make},
    wait::until,
};
use k8s_openapi::api::{
    core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Bench {
    _stop: DropGuard,
    in_process: InProcess,
}

impl Deref for Bench {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.in_process
    }
}

impl Bench {
    async fn new() -> Self {
        let api = InProcess::start();
        let stop = CancellationToken::new();
        let informers = Informers::new(api.clients.clone(), AllTenants::grant(), stop.clone());
        tokio::spawn(hypernetes_scheduler::run(informers, stop.clone()));
        for tenant in [ACME, GLOBEX] {
            api.tenant(tenant).await;
            api.account(tenant).await;
        }
        Self { _stop: stop.drop_guard(), in_process: api }
    }

    async fn node(&self, name: &str, memory: &str) {
        let api = self.api::<Node>("system");
        make(&api, json!({"metadata": {"name": name}})).await;
        let status = json!({"status": {"allocatable": {"cpu": "4", "memory": memory, "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    fn pods(&self, tenant: &str) -> Api<Pod> {
        self.in_default(tenant)
    }
}

fn pod(name: &str, memory: &str, claim: Option<&str>) -> Value {
    let volumes: Vec<_> =
        claim.map(|claim| json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}})).into_iter().collect();
    json!({"metadata": {"name": name}, "spec": {"volumes": volumes, "containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"memory": memory}}}]}})
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
    until(&acme, "p", "refused", |p| refusal(p) == Some("no nodes available to schedule pods")).await;
    bench.node("n1", "1Gi").await;
    let placed = until(&acme, "p", "placed", |p| on(p) == Some("n1")).await;
    assert!(refusal(&placed).is_none());
    make(&globex, pod("p", "600Mi", None)).await;
    until(&globex, "p", "refused", |p| refusal(p) == Some("0/1 nodes are available: 1 Insufficient memory.")).await;
    let events = bench.in_default::<Event>(GLOBEX);
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
    until(&globex, "p", "placed", |p| on(p) == Some("n1")).await;
    let events = bench.in_default::<Event>(ACME);
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
    bench
        .make::<StorageClass>(
            "system",
            json!({"metadata": {"name": "late"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"}),
        )
        .await;
    let pods = bench.pods(ACME);
    make(&pods, pod("p", "1Mi", Some("data"))).await;
    let missing = "0/1 nodes are available: persistentvolumeclaim \"data\" not found.";
    until(&pods, "p", "refused", |p| refusal(p) == Some(missing)).await;
    let claims = bench.in_default::<PersistentVolumeClaim>(ACME);
    make(
        &claims,
        json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "late",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )
    .await;
    let told = |claim: &PersistentVolumeClaim| {
        claim.annotations().get("volume.kubernetes.io/selected-node").is_some_and(|node| node == "n1")
    };
    until(&claims, "data", "told", told).await;
    assert_eq!(on(&pods.get("p").await.unwrap()), None);
    bench
        .make::<PersistentVolume>(
            ACME,
            json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}}),
        )
        .await;
    let bound =
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    until(&pods, "p", "placed", |p| on(p) == Some("n1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_claims_that_are_bound_at_once() {
    let bench = Bench::new().await;
    bench.node("n1", "1Gi").await;
    let pods = bench.pods(ACME);
    let claims = bench.in_default::<PersistentVolumeClaim>(ACME);
    let spec = json!({"storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    make(&claims, json!({"metadata": {"name": "data"}, "spec": spec})).await;
    make(&pods, pod("p", "1Mi", Some("data"))).await;
    let unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    until(&pods, "p", "refused", |p| refusal(p) == Some(unbound)).await;
    let bound =
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    let missing =
        "0/1 nodes are available: persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"v\".";
    until(&pods, "p", "refused", |p| refusal(p) == Some(missing)).await;
    // Another tenant's volume of that name is not meant; one that cannot be reached from the node is told.
    let elsewhere = json!({"required": {"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}});
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "nodeAffinity": elsewhere,
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}});
    for tenant in [GLOBEX, ACME] {
        bench.make::<PersistentVolume>(tenant, volume.clone()).await;
    }
    let conflict = "0/1 nodes are available: 1 node(s) had volume node affinity conflict.";
    until(&pods, "p", "refused", |p| refusal(p) == Some(conflict)).await;
    bench.node("n2", "1Gi").await;
    until(&pods, "p", "placed", |p| on(p) == Some("n2")).await;
}
