//! Whatever one tenant's objects say, nobody who acts on them panics, hangs or ends, and another tenant's are acted on.
//!
//! `HOSTILE_SEED=n` begins with other objects; the seed is told when the test fails.
#![allow(clippy::disallowed_types)] // as a stock client

use std::{ops::Deref, time::Duration};

use hypernetes_api::AllTenants;
use hypernetes_controllers::{ControllersConfig, Limits};
use hypernetes_runtime::{Informers, Mishap, mishaps};
use hypernetes_testing::{
    hostile::{self, Kind, any, spoil, text},
    server::{ACME as HOSTILE, GLOBEX as VICTIM, InProcess, id, make},
    wait::{eventually, until, until_gone},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Of each kind and in each round.
const OBJECTS: usize = 40;
const ROUNDS: usize = 3;

fn pod_spec() -> Value {
    let resources = json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1"}});
    json!({
        "nodeName": "n1", "schedulerName": "default-scheduler", "priority": 1, "serviceAccountName": "default",
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule", "tolerationSeconds": 3}],
        "containers": [{"name": "c", "image": "i", "resources": resources, "ports": [{"containerPort": 80}]}],
        "initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always", "resources": resources}],
        "overhead": {"memory": "1Mi"},
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c0"}}, {"name": "w", "ephemeral": {}}],
        "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}}],
        }},
    })
}

/// All that the controllers and the scheduler act on.
fn kinds() -> Vec<Kind> {
    let time = "2026-01-01T00:00:00Z";
    let template = json!({"metadata": {"labels": {"app": "a"}, "annotations": {"a": "b"}}, "spec": pod_spec()});
    let selector = json!({"matchLabels": {"app": "a"},
        "matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]});
    let conditions = json!([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
        "lastUpdateTime": time, "lastTransitionTime": time}, {"type": "Ready", "status": "True",
        "lastTransitionTime": time}]);
    let kinds = [
        (
            "apps",
            "deployments",
            true,
            "Deployment",
            json!({
            "spec": {"replicas": 1, "selector": selector, "template": template, "minReadySeconds": 1,
                "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600, "paused": false,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}},
            "status": {"replicas": 1, "collisionCount": 1, "observedGeneration": 1, "availableReplicas": 1,
                "readyReplicas": 1, "updatedReplicas": 1, "conditions": conditions}}),
        ),
        (
            "apps",
            "replicasets",
            true,
            "ReplicaSet",
            json!({
            "spec": {"replicas": 1, "selector": selector, "template": template, "minReadySeconds": 1},
            "status": {"replicas": 1, "availableReplicas": 1, "observedGeneration": 1, "conditions": conditions}}),
        ),
        (
            "",
            "replicationcontrollers",
            true,
            "ReplicationController",
            json!({
            "spec": {"replicas": 1, "selector": {"app": "a"}, "template": template, "minReadySeconds": 1},
            "status": {"replicas": 1, "availableReplicas": 1, "observedGeneration": 1, "conditions": conditions}}),
        ),
        (
            "",
            "pods",
            true,
            "Pod",
            json!({"spec": pod_spec(), "status": {"phase": "Pending", "podIP": "10.0.0.1",
            "startTime": time, "conditions": conditions, "containerStatuses": [{"name": "c", "ready": true,
                "restartCount": 1, "image": "i", "imageID": "i",
                "state": {"running": {"startedAt": time}}}]}}),
        ),
        (
            "",
            "persistentvolumeclaims",
            true,
            "PersistentVolumeClaim",
            json!({
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "volumeName": "v0", "volumeMode": "Block",
                "resources": {"requests": {"storage": "1Gi"}}, "selector": selector},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}),
        ),
        (
            "",
            "persistentvolumes",
            false,
            "PersistentVolume",
            json!({
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "s",
                "persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Block",
                "claimRef": {"namespace": "default", "name": "c0", "uid": "u"},
                "csi": {"driver": "volume.csi.hypernetes.io", "volumeHandle": "v0"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}},
            "status": {"phase": "Released"}}),
        ),
        (
            "volume.hypernetes.io",
            "volumes",
            false,
            "Volume",
            json!({
            "spec": {"displayName": "v", "sizeBytes": 1, "volumeType": "s", "claim":
                {"namespace": "default", "name": "c0", "uid": "u"}},
            "status": {"phase": "Available", "sizeBytes": 1, "message": "", "driver": "d"}}),
        ),
        ("network.hypernetes.io", "networks", false, "Network", json!({"spec": {"description": "n"}})),
        ("network.hypernetes.io", "subnets", false, "Subnet", json!({"spec": {"network": "n", "cidr": "10.0.0.0/8"}})),
        ("", "namespaces", false, "Namespace", json!({"spec": {"finalizers": ["x"]}, "status": {"phase": "Active"}})),
        ("", "serviceaccounts", true, "ServiceAccount", json!({"secrets": [{"name": "s"}]})),
        ("", "configmaps", true, "ConfigMap", json!({"data": {"a": "b"}})),
        (
            "certificates.k8s.io",
            "certificatesigningrequests",
            false,
            "CertificateSigningRequest",
            json!({"spec": {"request": "eA==", "signerName": "kubernetes.io/kube-apiserver-client",
                "usages": ["client auth"], "username": "u", "groups": ["g"], "expirationSeconds": 600},
            "status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True",
                "lastUpdateTime": time, "lastTransitionTime": time}]}}),
        ),
        (
            "",
            "events",
            true,
            "Event",
            json!({"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "r",
            "message": "m", "count": 1, "lastTimestamp": time, "type": "Normal"}),
        ),
    ];
    let kind = |(group, plural, namespaced, kind, good)| Kind { group, plural, kind, namespaced, good };
    kinds.into_iter().map(kind).collect()
}

struct Bench {
    /// Controllers and scheduler.
    acting: tokio::task::JoinSet<()>,
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
        let authorities = std::sync::Arc::new(api.server.authorities());
        let config = ControllersConfig {
            informers: informers.clone(),
            cluster_ca_pem: "PEM".into(),
            api_server: ([192, 0, 2, 1], 6443).into(),
            authorities,
        };
        let limits = Limits { nodeless_grace: Duration::ZERO, terminated_pods: 3, ..Limits::default() };
        let mut acting = tokio::task::JoinSet::new();
        acting.spawn(hypernetes_controllers::run_with(config, limits, stop.clone()));
        acting.spawn(hypernetes_scheduler::run(informers, stop.clone()));

        let nodes = api.api::<Node>("system");
        make(&nodes, json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}})).await;
        let status = json!({"status": {"allocatable": {"cpu": "4000", "memory": "1Ti", "pods": "10000"},
        "conditions": [{"type": "Ready", "status": "True"}]}});
        nodes.patch_status("n1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        for tenant in [HOSTILE, VICTIM] {
            api.project(tenant, tenant).await;
            until::<ServiceAccount>(&api.in_default(tenant), "default", "made", |_| true).await;
        }
        Self { acting, _stop: stop.drop_guard(), in_process: api }
    }

    fn victim<K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>>(&self) -> Api<K> {
        self.in_default(VICTIM)
    }

    /// Puts the objects of a round into the store, over those of the round before.
    async fn attack(&self, random: &mut StdRng) {
        for kind in kinds() {
            for number in 0..OBJECTS {
                let rate = *[0.0, 0.02, 0.1, 0.3].choose(random).unwrap();
                let mut object = kind.good.clone();
                // An undecided pod, a claim or a volume of nobody: what comes first is met, too.
                for path in ["nodeName", "volumeName", "claimRef", "selector"] {
                    if kind.group != "apps" && random.random_bool(0.5) {
                        object["spec"].as_object_mut().map(|spec| spec.remove(path));
                    }
                }
                spoil(random, &mut object, "", rate);
                if !object["spec"].is_null() && random.random_bool(0.1) {
                    object["spec"] = any(random, 4);
                }
                let text =
                    |random: &mut StdRng, good: &str| if random.random_bool(0.5) { good.into() } else { text(random) };
                object["metadata"] = hostile::metadata(random, &kind, number);
                object["metadata"]["labels"] =
                    json!({"app": text(random, "a"), "pod-template-hash": text(random, "x")});
                object["metadata"]["annotations"] = json!({
                    "deployment.kubernetes.io/revision": text(random, "1"),
                    "deployment.kubernetes.io/desired-replicas": text(random, "1"),
                    "deployment.kubernetes.io/max-replicas": text(random, "1"),
                    "pv.kubernetes.io/bind-completed": text(random, "yes"),
                    "volume.kubernetes.io/selected-node": text(random, "n1"),
                    "volume.kubernetes.io/storage-provisioner": text(random, "volume.csi.hypernetes.io"),
                    "network.hypernetes.io/network": text(random, "n"),
                });
                hostile::store(&self.store, &kind, &id(HOSTILE), object).await;
            }
        }
    }

    /// Everything that is done for a tenant is done for the other one. Each of these comes to its end by the queue of
    /// another controller, behind what is hostile.
    async fn all_is_well(&self, round: usize) {
        let name = format!("web{round}");
        let deployments = self.victim::<Deployment>();
        let labels = json!({"app": name});
        make(
            &deployments,
            json!({"metadata": {"name": name}, "spec": {"replicas": 3, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        )
        .await;
        let pods = self.victim::<Pod>();
        loop {
            // The kubelet of this test.
            for pod in pods.list(&ListParams::default()).await.unwrap().items {
                let spec = pod.spec.as_ref().unwrap();
                if spec.node_name.is_some() && pod.status.as_ref().unwrap().phase.as_deref() == Some("Pending") {
                    let status = json!({"status": {"phase": "Running", "conditions": [
                        {"type": "Ready", "status": "True", "lastTransitionTime": jiff::Timestamp::now()}]}});
                    let name = pod.metadata.name.as_deref().unwrap();
                    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
                }
            }
            let deployment = deployments.get(&name).await.unwrap();
            if deployment.status.and_then(|status| status.available_replicas) == Some(3) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Claims and volumes.
        let (claims, volumes) = (self.victim::<PersistentVolumeClaim>(), self.api::<PersistentVolume>(VICTIM));
        let spec = json!({"storageClassName": "", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}});
        make(&claims, json!({"metadata": {"name": name}, "spec": spec})).await;
        make(
            &volumes,
            json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "", "csi": {"driver": "d", "volumeHandle": "h"}}}),
        )
        .await;
        until(&claims, &name, "bound", |claim| {
            claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
        })
        .await;
        // Garbage, and namespaces.
        let maps = self.victim::<ConfigMap>();
        let owner = make(&maps, json!({"metadata": {"name": format!("{name}-owner")}})).await;
        let reference =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.metadata.name, "uid": owner.metadata.uid});
        make(&maps, json!({"metadata": {"name": name, "ownerReferences": [reference]}})).await;
        maps.delete(&format!("{name}-owner"), &DeleteParams::background()).await.unwrap();
        until_gone(&maps, &name).await;
        let namespaces = self.api::<Namespace>(VICTIM);
        make(&namespaces, json!({"metadata": {"name": name}})).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(VICTIM), &name);
        until(&accounts, "default", "made", |_| true).await;
        namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
        until_gone(&namespaces, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_one_tenants_objects_say_the_others_are_acted_on() {
    let mut random = hostile::seed();
    let mut bench = Bench::new().await;
    for round in 0..ROUNDS {
        bench.attack(&mut random).await;
        bench.all_is_well(round).await;
    }
    assert_eq!((mishaps(Mishap::Panicked), mishaps(Mishap::TooLong)), (0, 0), "of which each is caught, and a bug");
    assert!(hypernetes_client::unreadable_objects() > 0, "nothing of all this was of no form");
    assert!(bench.acting.try_join_next().is_none(), "somebody has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_spec_whose_selector_does_not_find_its_own_nothing_is_made() {
    let bench = Bench::new().await;
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "other"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    for kind in kinds().iter().filter(|kind| kind.group == "apps") {
        let metadata = json!({"name": kind.plural, "uid": kind.plural, "generation": 1});
        let object = json!({"metadata": metadata, "spec": spec});
        hostile::store(&bench.store, kind, &id(HOSTILE), object).await;
    }
    let events = bench.in_default::<Event>(HOSTILE);
    for kind in ["Deployment", "ReplicaSet"] {
        let said = |event: &Event| {
            event.reason.as_deref() == Some("InvalidSpec") && event.involved_object.kind.as_deref() == Some(kind)
        };
        eventually(|| async {
            events.list(&ListParams::default()).await.unwrap().items.iter().any(said).then_some(())
        })
        .await;
    }
    // What is acted on afterwards has been, and these have not.
    bench.all_is_well(0).await;
    let (pods, sets) = (bench.in_default::<Pod>(HOSTILE), bench.in_default::<ReplicaSet>(HOSTILE));
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 0);
    assert_eq!(sets.list(&ListParams::default()).await.unwrap().items.len(), 1);
}
