//! `Node`.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Map, Value, json};

use super::{resources, scheduling};
use crate::{
    columns::{Cell, age, at, column, list, name, or, path_or, text, wide},
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
        .subresources([Subresource::status()])
        .columns(vec![
            name(),
            column("Status", Cell::Of(shown_status)),
            column("Roles", Cell::Of(roles)),
            age(),
            column("Version", path_or("status.nodeInfo.kubeletVersion", "")),
            wide("Internal-IP", Cell::Of(|o| address(o, "InternalIP"))),
            wide("External-IP", Cell::Of(|o| address(o, "ExternalIP"))),
            wide("OS-Image", path_or("status.nodeInfo.osImage", "<unknown>")),
            wide("Kernel-Version", Cell::Of(kernel)),
            wide("Container-Runtime", path_or("status.nodeInfo.containerRuntimeVersion", "<unknown>")),
        ])
        .selectable([Selectable::field("spec.unschedulable").or("false")])
        .first_status(first_status)
        .metadata_by_status(&["labels", "annotations"])
        .defaults(defaults)
        .check(check)
        .on_write(unambiguous_ranges)
        .on_update(update)
}

pub(crate) fn check(node: &Field<'_>, errors: &mut Errors) {
    let taints = node.walk(["spec", "taints"]);
    // Upstream's path of a node's taints is not where they are.
    scheduling::taints(&Field::at(taints.value, node.get("metadata").path.child("taints")), errors);
    let ranges = node.walk(["spec", "podCIDRs"]);
    ranges.items().for_each(|range| range.faulty(errors, format::cidr(range.text())));
    let of_six = ranges.items().filter_map(|range| format::parse_cidr(range.text())).map(|(ip, _)| ip.is_ipv6());
    let (six, four): (Vec<bool>, Vec<bool>) = of_six.partition(|six| *six);
    if six.len() > 1 || four.len() > 1 {
        ranges.invalid(errors, "may specify no more than one CIDR for each IP family");
    }
    for list in ["capacity", "allocatable"] {
        for (name, amount) in node.walk(["status", list]).entries() {
            // Upstream's path is one of fields.
            let at = Field::at(amount.value, node.get("status").path.child(list).named(name));
            resources::amount(name, &at, errors);
        }
    }
    let avoided = node.walk(["metadata", "annotations"]).key(AVOIDED_PODS);
    if let Some(fault) = avoided.is_set().then(|| format::json(avoided.text())).flatten() {
        let at = Field::at(avoided.value, node.path.child("metadata").child("annotations").child("AvoidPods"));
        at.invalid_quoted(errors, AVOIDED_PODS, fault);
    }
}

/// Which pods a node should not get; once a scheduler's.
const AVOIDED_PODS: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";

/// The old field for one range of addresses and the new one for several tell the same.
fn defaults(node: &mut Map<String, Value>) {
    first_range(node);
    // All that there is can be had, where nothing is said of that.
    if let Some(status) = node.get_mut("status").and_then(Value::as_object_mut)
        && !status.contains_key("allocatable")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        status.insert("allocatable".into(), capacity);
    }
}

fn first_range(node: &mut Map<String, Value>) {
    let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let listed = spec.get("podCIDRs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !listed && let Some(range) = spec.get("podCIDR").filter(|range| *range != "").cloned() {
        spec.insert("podCIDRs".into(), json!([range]));
    }
}

/// Ranges of addresses as they should be written.
fn unambiguous_ranges(node: &Field<'_>, errors: &mut Errors) {
    let ranges = node.walk(["spec", "podCIDRs"]);
    ranges.items().for_each(|range| range.faulty(errors, format::unambiguous_cidr(range.text())));
}

/// What a node has been given once stays with it.
fn update(node: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (spec, before) = (node.get("spec"), old.get("spec"));
    for (name, said) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        if !before.get(name).is_empty() && spec.get(name).value != before.get(name).value {
            let why = format!("node updates may not change {said} except from \"\" to valid");
            spec.get(name).change_forbidden(errors, why);
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

/// By labels of both kinds.
fn roles(node: &Value) -> Value {
    let labels = at(node, "metadata.labels").and_then(Value::as_object).into_iter().flatten();
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<String> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>")
}

fn kernel(node: &Value) -> Value {
    let part = |name: &str| text(node, &format!("status.nodeInfo.{name}")).to_owned();
    match (part("kernelVersion"), part("architecture")) {
        (kernel, _) if kernel.is_empty() => "<unknown>".into(),
        (kernel, architecture) if architecture.is_empty() => kernel.into(),
        (kernel, architecture) => format!("{kernel} ({architecture})").into(),
    }
}

/// A node says how it is when it comes. What it does not say is there all the same: nothing.
fn first_status(node: &Map<String, Value>) -> Value {
    let mut status = node.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
    status.entry("daemonEndpoints").or_insert_with(|| json!({"kubeletEndpoint": {"Port": 0}}));
    let info = status.entry("nodeInfo").or_insert_with(|| json!({}));
    for name in NODE_INFO {
        if let Some(info) = info.as_object_mut() {
            info.entry(*name).or_insert_with(|| "".into());
        }
    }
    status.into()
}

const NODE_INFO: &[&str] = &[
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];
