//! Claims and volumes; the test is the backend of the volume service.

use std::time::Duration;

use hypernetes_api::{
    names::VOLUME_DRIVER,
    types::volume::{Volume, VolumeStatus},
};
use hypernetes_testing::{
    server::make,
    wait::{until, until_gone},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::common::{Bench, bench, merge, until_said};

const BACKEND: &str = "volume.hypernetes.io/backend";

/// Does what the volume service does, until dropped: Volumes are there at once, except those of the class `broken`.
fn backend(client: &Client) -> DropGuard {
    let (stop, api) = (CancellationToken::new(), Api::<Volume>::all(client.clone()));
    let work = async move {
        loop {
            for volume in api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                let name = volume.name_any();
                let finalizers = |list: &[&str]| Patch::Merge(json!({"metadata": {"finalizers": list}}));
                if volume.metadata.deletion_timestamp.is_some() {
                    let _ = api.patch(&name, &PatchParams::default(), &finalizers(&[])).await;
                } else if volume.status.is_none() {
                    let _ = api.patch(&name, &PatchParams::default(), &finalizers(&[BACKEND])).await;
                    let phase = if volume.spec.volume_type == "broken" { "Error" } else { "Available" };
                    let status = VolumeStatus {
                        phase: phase.into(),
                        message: "the disks are full".into(),
                        size_bytes: volume.spec.size_bytes,
                        ..Default::default()
                    };
                    let patch = Patch::Merge(json!({"status": status}));
                    let _ = api.patch_status(&name, &PatchParams::default(), &patch).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::spawn(stop.clone().run_until_cancelled_owned(work));
    stop.drop_guard()
}

async fn class(bench: &Bench, name: &str, more: Value) {
    let classes: Api<StorageClass> = Api::all(bench.system.clone());
    let mut class = json!({"metadata": {"name": name}, "provisioner": VOLUME_DRIVER});
    json_merge(&mut class, more);
    make(&classes, class).await;
}

fn json_merge(into: &mut Value, more: Value) {
    match more {
        Value::Object(more) => more.into_iter().for_each(|(key, value)| json_merge(&mut into[key], value)),
        other => *into = other,
    }
}

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

fn claim(name: &str, size: &str, more: Value) -> Value {
    let mut claim = json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
    json_merge(&mut claim, more);
    claim
}

fn of_class(name: &str) -> Value {
    json!({"spec": {"storageClassName": name}})
}

fn claims(client: &Client) -> Api<PersistentVolumeClaim> {
    Api::namespaced(client.clone(), "default")
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    phase(claim) == "Bound"
}

fn volume_of(claim: &PersistentVolumeClaim) -> String {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default()
}

fn in_phase(name: &str) -> impl Fn(&PersistentVolume) -> bool {
    move |volume| volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_the_default_class_gets_a_volume_of_its_own() {
    let bench = bench().await;
    let _backends = (backend(&bench.acme), backend(&bench.globex));
    class(&bench, "standard", json!({"metadata": {"annotations": {DEFAULT: "true"}}})).await;
    for client in [&bench.acme, &bench.globex] {
        make(&claims(client), claim("data", "1500Mi", json!({}))).await;
    }
    for client in [&bench.acme, &bench.globex] {
        let bound = until(&claims(client), "data", "bound", is_bound).await;
        let name = format!("pvc-{}", bound.uid().unwrap());
        assert_eq!(volume_of(&bound), name);
        assert_eq!(bound.finalizers(), ["kubernetes.io/pvc-protection"]);
        for (key, value) in
            [("pv.kubernetes.io/bind-completed", "yes"), ("pv.kubernetes.io/bound-by-controller", "yes")]
        {
            assert_eq!(bound.annotations()[key], value);
        }
        let capacity = bound.status.as_ref().unwrap().capacity.as_ref().unwrap();
        assert_eq!(capacity["storage"].0, "2Gi");
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let volume = until(&volumes, &name, "bound", in_phase("Bound")).await;
        assert_eq!(volume.annotations()["pv.kubernetes.io/provisioned-by"], VOLUME_DRIVER);
        let spec = volume.spec.unwrap();
        assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
        assert_eq!(spec.storage_class_name.as_deref(), Some("standard"));
        assert_eq!(spec.access_modes.unwrap(), ["ReadWriteOnce"]);
        assert_eq!(spec.claim_ref.unwrap().uid, bound.metadata.uid);
        let source = spec.csi.unwrap();
        assert_eq!((source.driver.as_str(), source.volume_handle.as_str()), (VOLUME_DRIVER, name.as_str()));
        assert_eq!(source.fs_type.as_deref(), Some("ext4"));
        let behind = Api::<Volume>::all(client.clone()).get(&name).await.unwrap().spec;
        assert_eq!((behind.size_bytes, behind.volume_type.as_str()), (2 << 30, "standard"));
        assert_eq!(behind.claim.unwrap().name, "data");
        assert_eq!(volumes.list(&ListParams::default()).await.unwrap().items.len(), 1);
        for reason in ["ExternalProvisioning", "Provisioning", "ProvisioningSucceeded"] {
            until_said(client, "data", reason).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_goes_with_its_claim_and_that_after_its_pods() {
    let bench = bench().await;
    let _backends = (backend(&bench.acme), backend(&bench.globex));
    class(&bench, "fast", json!({})).await;
    for client in [&bench.acme, &bench.globex] {
        make(&claims(client), claim("data", "1Gi", of_class("fast"))).await;
        until(&claims(client), "data", "bound", is_bound).await;
    }
    let (ours, theirs) = (claims(&bench.acme), claims(&bench.globex));
    let name = volume_of(&ours.get("data").await.unwrap());
    let pods: Api<Pod> = Api::namespaced(bench.acme.clone(), "default");
    let user = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    make(&pods, user).await;
    let volumes: Api<PersistentVolume> = Api::all(bench.acme.clone());
    ours.delete("data", &DeleteParams::default()).await.unwrap();
    volumes.delete(&name, &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_bound(&ours.get("data").await.unwrap()) && in_phase("Bound")(&volumes.get(&name).await.unwrap()));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    until_gone(&ours, "data").await;
    until_gone(&volumes, &name).await;
    assert!(Api::<Volume>::all(bench.acme.clone()).get_opt(&name).await.unwrap().is_none(), "it went before");
    let other = volume_of(&theirs.get("data").await.unwrap());
    assert!(Api::<Volume>::all(bench.globex.clone()).get(&other).await.is_ok());
    // Without anybody's help, once the claim goes.
    theirs.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&theirs, "data").await;
    until_gone(&Api::<PersistentVolume>::all(bench.globex.clone()), &other).await;
    until_gone(&Api::<Volume>::all(bench.globex.clone()), &other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_volume_keeps_its_data() {
    let bench = bench().await;
    let _backend = backend(&bench.acme);
    class(&bench, "keep", json!({"reclaimPolicy": "Retain"})).await;
    let (claims, volumes) = (claims(&bench.acme), Api::<PersistentVolume>::all(bench.acme.clone()));
    make(&claims, claim("data", "1Gi", of_class("keep"))).await;
    let name = volume_of(&until(&claims, "data", "bound", is_bound).await);
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until(&volumes, &name, "released", in_phase("Released")).await;
    // A claim of the same name is another one.
    make(&claims, claim("data", "1Gi", of_class("keep"))).await;
    let again = until(&claims, "data", "bound", is_bound).await;
    assert_ne!(volume_of(&again), name);
    volumes.delete(&name, &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, &name).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let behind = Api::<Volume>::all(bench.acme.clone()).get(&name).await.unwrap();
    assert!(behind.metadata.deletion_timestamp.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_claim_waits_for_a_node() {
    let bench = bench().await;
    let _backend = backend(&bench.acme);
    class(&bench, "late", json!({"volumeBindingMode": "WaitForFirstConsumer"})).await;
    let claims = claims(&bench.acme);
    make(&claims, claim("data", "1Gi", of_class("late"))).await;
    until_said(&bench.acme, "data", "WaitForFirstConsumer").await;
    assert!(Api::<Volume>::all(bench.acme.clone()).list(&ListParams::default()).await.unwrap().items.is_empty());
    let node = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}});
    merge(&claims, "data", node).await;
    until(&claims, "data", "bound", is_bound).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_provisioned_is_said_and_changes_nothing() {
    let bench = bench().await;
    let _backend = backend(&bench.acme);
    class(&bench, "fast", json!({})).await;
    let claims = claims(&bench.acme);
    let shared = json!({"spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "fast"}});
    let copy =
        json!({"spec": {"storageClassName": "fast", "dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}});
    for size in ["0", "-5Gi"] {
        let none = serde_json::from_value(claim("none", size, of_class("fast"))).unwrap();
        let refused = claims.create(&kube::api::PostParams::default(), &none).await.unwrap_err();
        assert!(refused.to_string().contains("must be greater than zero"), "{refused}");
    }
    for (name, size, more, why) in [
        ("huge", "8Ei", of_class("fast"), "16Ti"),
        ("shared", "1Gi", shared, "ReadWriteMany"),
        ("copy", "1Gi", copy, "dataSource"),
        ("classless", "1Gi", of_class("missing"), "\"missing\" not found"),
    ] {
        make(&claims, claim(name, size, more)).await;
        let said = until_said(&bench.acme, name, "ProvisioningFailed").await;
        assert!(said.contains(why), "{said}");
        assert_eq!(phase(&claims.get(name).await.unwrap()), "Pending");
    }
    make(&claims, claim("unset", "1Gi", of_class(""))).await;
    until_said(&bench.acme, "unset", "FailedBinding").await;
    assert!(Api::<Volume>::all(bench.acme.clone()).list(&ListParams::default()).await.unwrap().items.is_empty());
    class(&bench, "broken", json!({})).await;
    make(&claims, claim("broken", "1Gi", of_class("broken"))).await;
    let said = until_said(&bench.acme, "broken", "ProvisioningFailed").await;
    assert_eq!(said, "failed to provision volume with StorageClass \"broken\": the disks are full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_goes_early_leaves_nothing() {
    let bench = bench().await;
    class(&bench, "fast", json!({})).await;
    let (claims, volumes) = (claims(&bench.acme), Api::<Volume>::all(bench.acme.clone()));
    let made = make(&claims, claim("data", "1Gi", of_class("fast"))).await;
    let name = format!("pvc-{}", made.uid().unwrap());
    until(&volumes, &name, "made", |_| true).await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    until_gone(&volumes, &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_becomes_the_default_is_given_to_those_that_wait() {
    let bench = bench().await;
    let _backend = backend(&bench.acme);
    let claims = claims(&bench.acme);
    make(&claims, claim("early", "1Gi", json!({}))).await;
    make(&claims, claim("unset", "1Gi", of_class(""))).await;
    until_said(&bench.acme, "early", "FailedBinding").await;
    class(&bench, "standard", json!({"metadata": {"annotations": {DEFAULT: "true"}}})).await;
    let bound = until(&claims, "early", "bound", is_bound).await;
    assert_eq!(bound.spec.unwrap().storage_class_name.as_deref(), Some("standard"));
    assert_eq!(phase(&claims.get("unset").await.unwrap()), "Pending");
}

fn volume(name: &str, size: &str, more: Value) -> Value {
    let mut volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "example.com", "volumeHandle": name}}});
    json_merge(&mut volume, more);
    volume
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_made_by_hand_are_bound_released_and_lost() {
    let bench = bench().await;
    let (claims, volumes) = (claims(&bench.acme), Api::<PersistentVolume>::all(bench.acme.clone()));
    let theirs: Api<PersistentVolume> = Api::all(bench.globex.clone());
    make(&theirs, volume("right", "2Gi", json!({}))).await;
    make(&claims, claim("data", "2Gi", of_class(""))).await;
    until_said(&bench.acme, "data", "FailedBinding").await;
    // The claim waits, and takes the smallest of those that suit when there are such; not the other tenant's.
    for (name, size) in [("small", "1Gi"), ("right", "2Gi")] {
        make(&volumes, volume(name, size, json!({}))).await;
    }
    let bound = until(&claims, "data", "bound", is_bound).await;
    assert_eq!(volume_of(&bound), "right");
    until(&volumes, "right", "bound", in_phase("Bound")).await;
    until(&volumes, "small", "available", in_phase("Available")).await;
    until(&theirs, "right", "available", in_phase("Available")).await;

    // One that names its claim is that claim's, and of the claims that name it, the one that it suits.
    let named = json!({"spec": {"claimRef": {"namespace": "default", "name": "named"}}});
    make(&volumes, volume("reserved", "1Gi", named)).await;
    make(&claims, claim("thief", "1Gi", json!({"spec": {"storageClassName": "", "volumeName": "reserved"}}))).await;
    until_said(&bench.acme, "thief", "FailedBinding").await;
    make(&claims, claim("mismatch", "9Gi", json!({"spec": {"storageClassName": "", "volumeName": "small"}}))).await;
    until_said(&bench.acme, "mismatch", "VolumeMismatch").await;
    make(&claims, claim("named", "1Gi", of_class(""))).await;
    assert_eq!(volume_of(&until(&claims, "named", "bound", is_bound).await), "reserved");
    assert_eq!(phase(&claims.get("thief").await.unwrap()), "Pending");

    // Retained, as volumes made by hand are.
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until(&volumes, "right", "released", in_phase("Released")).await;
    merge(&volumes, "right", json!({"spec": {"claimRef": null}})).await;
    until(&volumes, "right", "available", in_phase("Available")).await;

    // A bound volume is protected; by force it goes, and the claim with it is lost.
    volumes.delete("reserved", &DeleteParams::default()).await.unwrap();
    assert!(volumes.get("reserved").await.is_ok());
    merge(&volumes, "reserved", json!({"metadata": {"finalizers": null}})).await;
    until(&claims, "named", "lost", |claim| phase(claim) == "Lost").await;
    until_said(&bench.acme, "named", "ClaimLost").await;
}
