//! `storage.k8s.io`.

use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass};
use serde_json::Value;

use crate::{
    columns::{Cell, age, between, boolean, column, list, or, path_or, text, texts},
    resource::{Home, Resource},
};

pub(crate) fn resources() -> Vec<Resource> {
    let class = Resource::kubernetes::<StorageClass>("storageclasses")
        .short_names(&["sc"])
        .columns(vec![
            column("Name", Cell::Of(class_name)),
            column("Provisioner", path_or("provisioner", "")),
            column("ReclaimPolicy", path_or("reclaimPolicy", "Delete")),
            column("VolumeBindingMode", path_or("volumeBindingMode", "Immediate")),
            boolean("AllowVolumeExpansion", "allowVolumeExpansion").kind("string"),
            age(),
        ])
        .immutable(&[&["provisioner"]]);
    let driver = Resource::kubernetes::<CSIDriver>("csidrivers").columns(between([
        column("AttachRequired", Cell::Of(|o| (o["spec"]["attachRequired"] != false).into())).kind("boolean"),
        boolean("PodInfoOnMount", "spec.podInfoOnMount"),
        boolean("StorageCapacity", "spec.storageCapacity"),
        column("TokenRequests", Cell::Of(token_requests)),
        boolean("RequiresRepublish", "spec.requiresRepublish"),
        column(
            "Modes",
            Cell::Of(|o| or(&texts(o, "spec.volumeLifecycleModes").collect::<Vec<_>>().join(","), "<none>")),
        ),
    ]));
    let node = Resource::kubernetes::<CSINode>("csinodes").columns(between([column(
        "Drivers",
        Cell::Count("spec.drivers".into()),
    )
    .kind("integer")]));
    let all = [driver, node, class];
    all.into_iter().map(|resource| resource.home(Home::Projected)).collect()
}

fn class_name(class: &Value) -> Value {
    let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    let name = text(class, "metadata.name");
    if default { format!("{name} (default)").into() } else { name.into() }
}

fn token_requests(driver: &Value) -> Value {
    let audiences: Vec<&str> = list(driver, "spec.tokenRequests").map(|request| text(request, "audience")).collect();
    if audiences.is_empty() { "<unset>".into() } else { audiences.join(",").into() }
}
