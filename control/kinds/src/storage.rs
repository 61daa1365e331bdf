//! `storage.k8s.io`.

use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass};
use serde_json::Value;

use crate::{
    columns::{Cell, age, column, path, path_or, text},
    resource::{Home, Resource},
};

pub(crate) fn resources() -> Vec<Resource> {
    let class = Resource::kubernetes::<StorageClass>("storageclasses")
        .short_names(&["sc"])
        .columns(vec![
            column("Name", Cell::Of(class_name)),
            column("Provisioner", path("provisioner")),
            column("ReclaimPolicy", path_or("reclaimPolicy", "Delete")),
            column("VolumeBindingMode", path_or("volumeBindingMode", "Immediate")),
            column("AllowVolumeExpansion", path_or("allowVolumeExpansion", "false")),
            age(),
        ])
        .immutable(&[&["provisioner"]]);
    let all = [Resource::kubernetes::<CSIDriver>("csidrivers"), Resource::kubernetes::<CSINode>("csinodes"), class];
    all.into_iter().map(|resource| resource.home(Home::Projected)).collect()
}

fn class_name(class: &Value) -> Value {
    let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    let name = text(class, "metadata.name");
    if default { format!("{name} (default)").into() } else { name.into() }
}
