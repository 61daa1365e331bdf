//! `PersistentVolume`.

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

use super::{
    persistent_volume_claim::{VOLUME_MODES, access_modes},
    resources, scheduling, volume,
    volume_columns::{class, shown_phase},
};
use crate::{
    columns::{self, Cell, between, column, path_or, text, wide},
    field::{ErrorKind, Errors, Field, json_in_order, same},
    format,
    internal::Internal,
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<PersistentVolume>("persistentvolumes")
        .short_names(&["pv"])
        .subresources([Subresource::status()])
        .columns(
            between([
                column("Capacity", path_or("spec.capacity.storage", "0")),
                column("Access Modes", Cell::Of(|o| columns::access_modes(o, "spec.accessModes"))),
                column("Reclaim Policy", path_or("spec.persistentVolumeReclaimPolicy", "")),
                column("Status", Cell::Of(shown_phase)),
                column("Claim", Cell::Of(claim)),
                column("StorageClass", Cell::Of(class)),
                column("VolumeAttributesClass", path_or("spec.volumeAttributesClassName", "<unset>")),
                column("Reason", path_or("status.reason", "")),
            ])
            .into_iter()
            .chain([wide("VolumeMode", path_or("spec.volumeMode", "<unset>"))])
            .collect(),
        )
        .first_status(|_| json!({"phase": "Pending"}))
        .check(check)
        .on_update(update)
}

type Check = fn(&Field<'_>, &mut Errors);

/// The sources of volumes with the rules of each, in the order in which upstream looks at them.
const SOURCES: &[(&str, Check)] = &[
    ("hostPath", host_path_of_type),
    ("gcePersistentDisk", |v, e| v.get("pdName").not_empty(e)),
    ("awsElasticBlockStore", |v, e| v.get("volumeID").not_empty(e)),
    ("glusterfs", |v, e| ["endpoints", "path"].iter().for_each(|name| v.get(name).not_empty(e))),
    ("flocker", |_, _| {}),
    ("nfs", volume::nfs),
    ("rbd", |v, e| ["monitors", "image"].iter().for_each(|name| v.get(name).not_empty(e))),
    ("quobyte", |v, e| ["registry", "volume"].iter().for_each(|name| v.get(name).not_empty(e))),
    ("cephfs", |v, e| v.get("monitors").not_empty(e)),
    ("iscsi", |v, e| ["targetPortal", "iqn"].iter().for_each(|name| v.get(name).not_empty(e))),
    ("cinder", |v, e| v.get("volumeID").not_empty(e)),
    ("fc", |_, _| {}),
    ("flexVolume", |v, e| v.get("driver").not_empty(e)),
    ("azureFile", |v, e| ["secretName", "shareName"].iter().for_each(|name| v.get(name).not_empty(e))),
    ("vsphereVolume", |v, e| v.get("volumePath").not_empty(e)),
    ("photonPersistentDisk", |v, e| v.get("pdID").not_empty(e)),
    ("portworxVolume", |v, e| v.get("volumeID").not_empty(e)),
    ("azureDisk", |v, e| ["diskName", "diskURI"].iter().for_each(|name| v.get(name).not_empty(e))),
    ("scaleIO", |v, e| ["gateway", "system", "volumeName"].iter().for_each(|name| v.get(name).not_empty(e))),
    ("local", host_path),
    ("storageos", |v, e| v.get("volumeName").required_text(e, format::label)),
    ("csi", csi),
];

pub(crate) fn check(object: &Field<'_>, errors: &mut Errors) {
    let spec = object.get("spec");
    access_modes(&spec.get("accessModes"), "", errors);
    let capacity = spec.get("capacity");
    if capacity.is_empty() {
        capacity.required(errors, "");
    }
    if !capacity.key("storage").is_set() || capacity.len() > 1 {
        capacity.not_supported_as(errors, json_in_order(capacity.value, &[]), &["storage"]);
    }
    for (name, amount) in capacity.entries() {
        match resources::quantity(amount.value).filter(|size| size.is_negative()) {
            Some(size) => amount.invalid_as(errors, size.value().to_string(), "must be a valid resource quantity"),
            None => resources::amount(name, &amount, errors),
        }
        if resources::quantity(amount.value).is_some_and(|size| size.is_zero() || size.is_negative()) {
            amount.invalid(errors, "must be greater than zero");
        }
    }
    spec.get("persistentVolumeReclaimPolicy").optional_one_of(errors, &["Delete", "Recycle", "Retain"]);
    let (claim, affinity) = (spec.get("claimRef"), spec.get("nodeAffinity"));
    claim.get("name").optional_text(errors, format::reference);
    claim.get("namespace").optional_text(errors, format::reference);
    if affinity.is_set() {
        let required = affinity.get("required");
        match required.is_set() {
            true => scheduling::node_selector(&required, errors),
            false => required.required(errors, "must specify required node constraints"),
        }
    }
    source(&spec, errors);
    spec.get("storageClassName").optional_text(errors, format::subdomain);
    spec.get("volumeMode").optional_one_of(errors, VOLUME_MODES);
    attributes_class(&spec, errors);
}

/// A volume that only an attachment has.
pub(crate) fn inline(spec: &Field<'_>, errors: &mut Errors) {
    const WHERE: &str = "in the context of inline volumes";
    let absent = |names: &[&'static str], errors: &mut Errors| {
        for name in names.iter().filter(|name| !spec.get(name).is_empty()) {
            spec.get(name).forbidden(errors, format!("may not be specified {WHERE}"));
        }
    };
    absent(&["claimRef", "capacity"], errors);
    if !spec.get("csi").is_set() {
        spec.get("csi").required(errors, &format!("has to be specified {WHERE}"));
    }
    access_modes(&spec.get("accessModes"), "", errors);
    let (policy, mode) = (spec.get("persistentVolumeReclaimPolicy"), spec.get("volumeMode"));
    if !["", "Retain"].contains(&policy.text()) {
        policy.forbidden(errors, format!("may only be Retain {WHERE}"));
    }
    absent(&["nodeAffinity"], errors);
    source(spec, errors);
    absent(&["storageClassName"], errors);
    if mode.is_set() && mode.text() != "Filesystem" {
        mode.forbidden(errors, format!("may not specify volumeMode other than Filesystem {WHERE}"));
    }
    attributes_class(spec, errors);
}

/// The one source that there has to be.
fn source(spec: &Field<'_>, errors: &mut Errors) {
    let affinity = spec.get("nodeAffinity");
    let mut found = false;
    for (name, rules) in SOURCES {
        let source = spec.get(name);
        if !source.is_set() {
            continue;
        }
        match std::mem::replace(&mut found, true) {
            true => source.forbidden(errors, "may not specify more than 1 volume type"),
            false => rules(&source, errors),
        }
        if *name == "local" && !affinity.is_set() {
            affinity.required(errors, "Local volume requires node affinity");
        }
    }
    if !found {
        spec.required(errors, "must specify a volume type");
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if policy.text() == "Recycle" && is_root(spec.walk(["hostPath", "path"]).text()) {
        policy.forbidden(errors, "may not be 'recycle' for a hostPath mount of '/'");
    }
}

fn attributes_class(spec: &Field<'_>, errors: &mut Errors) {
    let attributes = spec.get("volumeAttributesClassName");
    if !attributes.is_set() {
        return;
    }
    match attributes.is_empty() {
        true => attributes.required(errors, "an empty string is disallowed"),
        false => attributes.faulty(errors, format::subdomain(attributes.text())),
    }
    if !spec.get("csi").is_set() {
        spec.get("csi").required(errors, "has to be specified when using volumeAttributesClassName");
    }
}

/// Whether a path is the root's, however it is written.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|step| ["", "."].contains(&step))
}

fn host_path_of_type(source: &Field<'_>, errors: &mut Errors) {
    host_path(source, errors);
    source.get("type").optional_one_of(errors, volume::HOST_PATH_TYPES);
}

fn host_path(source: &Field<'_>, errors: &mut Errors) {
    let path = source.get("path");
    path.not_empty(errors);
    if format::steps_back(path.text()) {
        path.invalid(errors, "must not contain '..'");
    }
}

fn csi(source: &Field<'_>, errors: &mut Errors) {
    volume::driver_name(&source.get("driver"), errors);
    source.get("volumeHandle").not_empty(errors);
    const SECRETS: &[&str] = &[
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
        "nodeStageSecretRef",
    ];
    for name in SECRETS {
        let secret = source.get(name);
        if secret.is_set() {
            secret.get("name").required_text(errors, format::subdomain);
            secret.get("namespace").required_text(errors, format::label);
        }
    }
}

/// What a change may not do: a volume stays the volume that it is.
pub(crate) fn update(object: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (spec, before) = (object.get("spec"), old.get("spec"));
    let kept = SOURCES.iter().all(|(name, _)| {
        let (new, was) = (spec.get(name), before.get(name));
        match (new.value.as_object(), was.value.as_object()) {
            // The secret for growing it may come later.
            (Some(new), Some(was)) if !was.contains_key("controllerExpandSecretRef") => {
                let mut new = new.clone();
                new.remove("controllerExpandSecretRef");
                same(&new.into(), &was.clone().into())
            }
            _ => same(new.value, was.value),
        }
    });
    if !kept {
        let why = "spec.persistentvolumesource is immutable after creation\n";
        Field::at(spec.value, spec.path.child("persistentvolumesource")).change_forbidden(errors, why);
    }
    let (mode, was) = (spec.get("volumeMode"), before.get("volumeMode"));
    Field::at(mode.value, object.path.child("volumeMode")).kept(errors, &was);
    let (affinity, was) = (spec.get("nodeAffinity"), before.get("nodeAffinity"));
    if was.is_set() && !same(affinity.value, was.value) {
        let at = Field::at(affinity.value, object.path.child("nodeAffinity"));
        let why = "field is immutable, except for updating from beta label to GA";
        at.changed(errors, ErrorKind::Invalid, AFFINITY.shown(affinity.value), why);
    }
}

const AFFINITY: Internal = Internal::Pointer(&Internal::Struct(&[(
    "required",
    "Required",
    Internal::Pointer(&Internal::Struct(&[("nodeSelectorTerms", "NodeSelectorTerms", scheduling::NODE_TERMS)])),
)]));

fn claim(volume: &Value) -> Value {
    match text(volume, "spec.claimRef.name") {
        "" => "".into(),
        name => format!("{}/{name}", text(volume, "spec.claimRef.namespace")).into(),
    }
}
