//! `Node`.

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::{resources, scheduling};
use crate::{
    columns::{Cell, age, column, list, name, path, text, wide},
    field::{Errors, Field},
    format,
    resource::{Home, Resource},
    selectable::Selectable,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Node>("nodes")
        .home(Home::Projected)
        .short_names(&["no"])
        .subresources(&[Subresource::Status])
        .columns(vec![
            name(),
            column("Status", Cell::Of(shown_status)),
            column("Roles", Cell::Of(|_| "<none>".into())),
            age(),
            column("Version", path("status.nodeInfo.kubeletVersion")),
            wide("Internal-IP", Cell::Of(|o| address(o, "InternalIP"))),
            wide("External-IP", Cell::Of(|o| address(o, "ExternalIP"))),
            wide("OS-Image", path("status.nodeInfo.osImage")),
            wide("Kernel-Version", path("status.nodeInfo.kernelVersion")),
            wide("Container-Runtime", path("status.nodeInfo.containerRuntimeVersion")),
        ])
        .selectable([Selectable::field("spec.unschedulable").or("false")])
        .metadata_by_status(&["labels", "annotations"])
        .check(check)
}

pub(crate) fn check(node: &Field<'_>, errors: &mut Errors) {
    let taints = node.walk(["spec", "taints"]);
    // Upstream's path of a node's taints is not where they are.
    scheduling::taints(&Field::at(taints.value, node.get("metadata").path.child("taints")), errors);
    node.walk(["spec", "podCIDRs"]).items().for_each(|range| range.faulty(errors, format::cidr(range.text())));
    for list in ["capacity", "allocatable"] {
        for (name, amount) in node.walk(["status", list]).entries() {
            resources::amount(name, &amount, errors);
        }
    }
}

fn shown_status(node: &Value) -> Value {
    let ready = list(node, "status.conditions").find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn address(node: &Value, kind: &str) -> Value {
    let found = list(node, "status.addresses").find(|a| a["type"] == kind);
    found.map_or("<none>", |a| text(a, "address")).into()
}
