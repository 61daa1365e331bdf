//! Persistent volumes: claims are bound to them, and they are made, released and taken away again.
//!
//! | Module | Does |
//! | --- | --- |
//! | `claims` | binds claims to volumes, gives them the default class, asks for provisioning |
//! | `provision` | makes a `Volume` for a claim that asks our driver, and a PersistentVolume when that is there |
//! | `persistent` | the phases of PersistentVolumes, and what becomes of them when their claim goes |
//! | `protection` | keeps both while they are used |
//!
//! The rules and words are those of upstream's `persistentvolume` controllers and of its external provisioner
//! (kubernetes-csi/external-provisioner). StorageClasses are the operator's and are looked for in the system cluster;
//! everything else is the tenant's own.

mod claims;
mod matching;
pub mod persistent;
pub mod protection;
mod provision;
mod size;

use std::sync::Arc;

use hypernetes_api::TenantId;
use k8s_openapi::api::{
    core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{Resource, ResourceExt};

use crate::{
    Wiring,
    runtime::{Informers, Key},
};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Upstream sets the second one still, for provisioners of before 1.23.
const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";

pub fn start(wiring: &Wiring<'_>) {
    claims::start(wiring);
    provision::start(wiring);
    persistent::start(wiring);
    protection::start(wiring);
}

/// The names of the claims that a pod uses; an ephemeral volume's is made for the pod (KEP-1698).
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name_any(), volume.name)),
    };
    volumes.into_iter().flatten().filter_map(name).collect()
}

fn class(informers: &Informers, name: &str) -> Option<Arc<StorageClass>> {
    informers.of::<StorageClass>().get(&Key::new(&TenantId::system(), "", name))
}

/// Of several default classes the youngest, as upstream's admission chooses (KEP-3333).
fn default_class(informers: &Informers) -> Option<Arc<StorageClass>> {
    let classes = informers.of::<StorageClass>().list(&TenantId::system(), "");
    let is_default = |class: &Arc<StorageClass>| class.annotations().get(DEFAULT_CLASS).is_some_and(|on| on == "true");
    let age = |class: &Arc<StorageClass>| {
        (class.creation_timestamp().map(|time| time.0), std::cmp::Reverse(class.name_any()))
    };
    classes.into_iter().filter(is_default).max_by_key(age)
}

fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some(WAIT_FOR_FIRST_CONSUMER)
}

/// Empty: no class, which is not the same as the default one.
fn class_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

/// The volume that a claim names, or is bound to.
fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty())
}

fn claim_reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref())
}

/// The claim that a reference is to. The key of none, where it has no name.
fn claim_key(tenant: &TenantId, reference: &ObjectReference) -> Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Key::new(tenant, &text(&reference.namespace), &text(&reference.name))
}

/// Whether a volume is kept for this claim, by whom ever; without a uid, for any of that name.
fn is_for(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let same = |have: &Option<String>, wanted: Option<String>| have.as_deref() == wanted.as_deref();
    let uid = reference.uid.as_deref().unwrap_or_default();
    same(&reference.name, claim.metadata.name.clone())
        && same(&reference.namespace, claim.metadata.namespace.clone())
        && (uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
}

fn phase_of(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn has_finalizer<K: Resource>(object: &K, name: &str) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == name)
}

/// The finalizers of an object with or without one.
fn finalizers<K: Resource>(object: &K, name: &str, wanted: bool) -> Vec<String> {
    let mut all: Vec<String> = object.finalizers().iter().filter(|finalizer| *finalizer != name).cloned().collect();
    if wanted {
        all.push(name.into());
    }
    all
}
