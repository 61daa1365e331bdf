//! `CSINode`: the drivers of a node.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::storage::v1::CSINode;

use crate::{
    columns::{Cell, between, column},
    core::volume,
    field::{ErrorKind, Errors, Field, same},
    format,
    internal::{Internal, NULL, TEXT},
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    let drivers = column("Drivers", Cell::Count("spec.drivers".into())).kind("integer");
    Resource::kubernetes::<CSINode>("csinodes").columns(between([drivers])).check(check).on_update(update)
}

/// The longest name that a driver has for a node.
const MAX_NODE_ID: usize = 256;

fn check(node: &Field<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for driver in node.walk(["spec", "drivers"]).items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        volume::driver_name(&name, errors);
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        if id.text().len() > MAX_NODE_ID {
            id.invalid(errors, format!("must be {MAX_NODE_ID} characters or less"));
        }
        id.not_empty(errors);
        driver.walk(["allocatable", "count"]).non_negative(errors);
        let mut keys = HashSet::new();
        for key in driver.get("topologyKeys").items() {
            // Upstream's path is the driver's.
            let key = Field::at(key.value, driver.path.clone());
            key.not_empty(errors);
            if !keys.insert(key.text()) {
                key.duplicate(errors);
            }
            key.faulty(errors, format::qualified_name(key.text()));
        }
    }
}

/// A driver comes and goes as it is; only how many volumes it can have may change.
fn update(node: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (drivers, before) = (node.walk(["spec", "drivers"]), old.walk(["spec", "drivers"]));
    let before: HashMap<&str, Field<'_>> = before.items().map(|driver| (driver.get("name").text(), driver)).collect();
    for driver in drivers.items() {
        let Some(was) = before.get(driver.get("name").text()) else { continue };
        if ["nodeID", "topologyKeys"].iter().any(|name| !same(driver.get(name).value, was.get(name).value)) {
            drivers.changed(errors, ErrorKind::Invalid, DRIVER.shown(driver.value), "field is immutable");
        }
    }
}

/// A driver, without what may change.
const DRIVER: Internal = Internal::Struct(&[
    ("name", "Name", TEXT),
    ("nodeID", "NodeID", TEXT),
    ("topologyKeys", "TopologyKeys", NULL),
    ("", "Allocatable", NULL),
]);
