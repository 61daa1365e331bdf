//! `ResourceSlice`: devices that there are, told by a driver.

use hypernetes_api::time;
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::{Map, Value};

use super::{
    device,
    devices::{self, name_key, set},
};
use crate::{
    columns::{between, column, path_or},
    core::{scheduling, volume},
    field::{Errors, Field},
    format,
    resource::Resource,
};

const MAX_DEVICES: usize = 128;
/// Where devices have taints, or take of what they share.
const MAX_ELABORATE_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const ONE_OF: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ResourceSlice>("resourceslices")
        .columns(between([
            column("Node", path_or("spec.nodeName", "")),
            column("Driver", path_or("spec.driver", "")),
            column("Pool", path_or("spec.pool.name", "")),
        ]))
        .selectable(["spec.nodeName", "spec.driver"])
        .indexed("spec.nodeName")
        .counts_changes()
        .defaults(defaults)
        .check(check)
        .immutable(&[&["spec", "pool", "name"], &["spec", "driver"], &["spec", "nodeName"]])
}

/// Since when a device is tainted; and without what upstream leaves out, too, as long as its features are off.
fn defaults(slice: &mut Map<String, Value>) {
    let devices = slice.get_mut("spec").and_then(|spec| spec.get_mut("devices")).and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten().filter_map(Value::as_object_mut) {
        device.remove("nodeAllocatableResourceMappings");
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
        for attribute in attributes.into_iter().flatten().filter_map(|(_, attribute)| attribute.as_object_mut()) {
            ["bools", "ints", "strings", "versions"].iter().for_each(|name| drop(attribute.remove(*name)));
        }
        let taints = device.get_mut("taints").and_then(Value::as_array_mut);
        for taint in taints.into_iter().flatten().filter_map(Value::as_object_mut) {
            taint.entry("timeAdded").or_insert_with(|| time::now().to_string().into());
        }
    }
}

fn check(slice: &Field<'_>, errors: &mut Errors) {
    let spec = slice.get("spec");
    volume::driver_name(&spec.get("driver"), errors);
    pool(&spec.get("pool"), errors);
    place(&spec, errors);
    let (list, counters) = (spec.get("devices"), spec.get("sharedCounters"));
    if list.is_set() && counters.is_set() {
        spec.invalid_quoted(errors, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let elaborate = list.items().any(|one| !one.get("taints").is_empty() || !one.get("consumesCounters").is_empty());
    let most = if elaborate { MAX_ELABORATE_DEVICES } else { MAX_DEVICES };
    let chosen = spec.get("perDeviceNodeSelection").is_true();
    set(&list, most, name_key, |one, errors| device::check(one, chosen, errors), errors);
    set(
        &counters,
        MAX_COUNTER_SETS,
        name_key,
        |one, errors| {
            one.get("name").required_text(errors, format::label);
            device::counters(&one.get("counters"), errors);
        },
        errors,
    );
}

fn pool(pool: &Field<'_>, errors: &mut Errors) {
    devices::pool_name(&pool.get("name"), errors);
    let (count, generation) = (pool.get("resourceSliceCount"), pool.get("generation"));
    if count.int().unwrap_or(0) <= 0 {
        count.invalid_as(errors, count.int().unwrap_or(0).to_string(), "must be greater than zero");
    }
    if generation.int().is_some_and(i64::is_negative) {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
}

/// On which nodes the devices are.
fn place(spec: &Field<'_>, errors: &mut Errors) {
    let (node, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    let mut said = Vec::new();
    match (node.is_set(), node.is_empty()) {
        (true, true) => node.invalid(errors, "must be either unset or set to a non-empty string"),
        (true, false) => {
            said.push("`nodeName`");
            node.faulty(errors, format::subdomain(node.text()));
        }
        (false, _) => {}
    }
    if selector.is_set() {
        said.push("`nodeSelector`");
        scheduling::node_selector(&selector, errors);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            terms.invalid_as(
                errors,
                scheduling::NODE_TERMS.shown(terms.value),
                "must have exactly one node selector term",
            );
        }
    }
    for (name, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match spec.get(name).flag() {
            Some(true) => said.push(shown),
            Some(false) => spec.get(name).invalid(errors, "must be either unset or set to true"),
            None => {}
        }
    }
    match said.len() {
        0 => spec.required(errors, ONE_OF),
        1 => {}
        _ => {
            let why = format!("{ONE_OF}, but multiple fields are set");
            spec.invalid_quoted(errors, &format!("{{{}}}", said.join(", ")), why);
        }
    }
}
