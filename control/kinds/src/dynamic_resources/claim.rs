//! `ResourceClaim`, and what became of it.

use std::collections::HashSet;

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};

use super::devices::{self, Requests, set};
use crate::{
    columns::{Cell, between, column, list},
    condition,
    core::{scheduling, volume},
    field::{Errors, Field, quote, same},
    format,
    internal::{Internal, TEXT},
    resource::Resource,
    subresource::Subresource,
};

/// The most who may use a claim at once.
const MAX_CONSUMERS: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_DATA: usize = 10 * 1024;

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ResourceClaim>("resourceclaims")
        .subresources([Subresource::status()])
        .columns(between([column("State", Cell::Of(state))]))
        .first_status(|_| json!({}))
        .on_create(|claim, errors| devices::claim(&claim.get("spec"), errors))
        .on_update(|new, old, errors| devices::SPEC.kept(&new.get("spec"), &old.get("spec"), errors))
        .on_status(status)
}

fn state(claim: &Value) -> Value {
    let (deleted, allocated) =
        (claim["metadata"]["deletionTimestamp"].is_string(), claim["status"]["allocation"].is_object());
    let reserved = allocated && list(claim, "status.reservedFor").next().is_some();
    let states =
        [(deleted, "deleted"), (!allocated && !deleted, "pending"), (allocated, "allocated"), (reserved, "reserved")];
    states.into_iter().filter(|(is, _)| *is).map(|(_, state)| state).collect::<Vec<_>>().join(",").into()
}

fn status(claim: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (status, before, requests) = (claim.get("status"), old.get("status"), Requests::of(&claim.get("spec")));
    let (consumers, allocation) = (status.get("reservedFor"), status.get("allocation"));
    let uid = |consumer: &Field<'_>| quote(consumer.get("uid").text());
    set(
        &consumers,
        MAX_CONSUMERS,
        uid,
        |consumer, errors| {
            ["resource", "name", "uid"].iter().for_each(|name| consumer.get(name).not_empty(errors));
        },
        errors,
    );
    let allocated: HashSet<String> =
        allocation.walk(["devices", "results"]).items().map(|device| DEVICE.shown(device.value)).collect();
    let devices = status.get("devices");
    set(
        &devices,
        usize::MAX,
        |device| DEVICE.shown(device.value),
        |device, errors| {
            device_status(device, &allocated, errors);
        },
        errors,
    );
    if !consumers.is_empty() {
        let had = before.get("reservedFor");
        let is_new = |one: &Field<'_>| !had.items().any(|old| same(old.value, one.value));
        if !allocation.is_set() {
            consumers.forbidden(errors, "may not be specified when `allocated` is not set");
        } else if claim.walk(["metadata", "deletionTimestamp"]).is_set() && consumers.items().any(|one| is_new(&one)) {
            let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            consumers.forbidden(errors, why);
        }
    }
    match (allocation.is_set(), before.get("allocation").is_set()) {
        (true, true) => allocation.kept(errors, &before.get("allocation")),
        (true, false) => allocated_now(&allocation, &requests, errors),
        (false, _) => {}
    }
}

/// Which device it is.
const DEVICE: Internal = Internal::Struct(&[
    ("driver", "Driver", TEXT),
    ("pool", "Pool", TEXT),
    ("device", "Device", TEXT),
    ("shareID", "ShareID", TEXT),
]);

fn allocated_now(allocation: &Field<'_>, requests: &Requests<'_>, errors: &mut Errors) {
    let (results, configurations) = (allocation.walk(["devices", "results"]), allocation.walk(["devices", "config"]));
    match results.len() > devices::MAX_REQUESTS {
        true => results.too_many(errors, devices::MAX_REQUESTS),
        false => results.items().for_each(|device| {
            devices::reference(&device.get("request"), requests, errors);
            identity(&device, errors);
            devices::binding_conditions(&device, errors);
            share(&device, errors);
        }),
    }
    // Those of the class, and those of the claim.
    let most = 2 * devices::MAX_CONFIGURATIONS;
    match configurations.len() > most {
        true => configurations.too_many(errors, most),
        false => configurations.items().for_each(|one| {
            one.get("source").required_one_of(errors, &["FromClaim", "FromClass"]);
            devices::references(&one.get("requests"), requests, errors);
            devices::configuration(&one, errors);
        }),
    }
    let selector = allocation.get("nodeSelector");
    if selector.is_set() {
        scheduling::node_selector(&selector, errors);
    }
}

fn identity(device: &Field<'_>, errors: &mut Errors) {
    volume::driver_name(&device.get("driver"), errors);
    devices::pool_name(&device.get("pool"), errors);
    device.get("device").faulty(errors, format::label(device.get("device").text()));
}

fn share(device: &Field<'_>, errors: &mut Errors) {
    let share = device.get("shareID");
    if !share.is_set() {
        return;
    }
    let text = share.text();
    if uuid::Uuid::try_parse(text).is_err() {
        let why = if [32, 36, 38, 45].contains(&text.len()) {
            "invalid UUID format".to_owned()
        } else {
            format!("invalid UUID length: {}", text.len())
        };
        share.invalid(errors, format!("error validating uid: {why}"));
    } else if text.len() != 36 || text != text.to_lowercase() {
        share.invalid(
            errors,
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters",
        );
    }
}

fn device_status(device: &Field<'_>, allocated: &HashSet<String>, errors: &mut Errors) {
    identity(device, errors);
    share(device, errors);
    let id = DEVICE.shown(device.value);
    if !allocated.contains(&id) {
        device.invalid_as(errors, id, "must be an allocated device in the claim");
    }
    let (conditions, data) = (device.get("conditions"), device.get("data"));
    if conditions.len() > MAX_CONDITIONS {
        conditions.too_many(errors, MAX_CONDITIONS);
    }
    condition::check(&conditions, errors);
    if data.is_set() {
        devices::raw(&data, MAX_DATA, errors);
    }
    network(&device.get("networkData"), errors);
}

fn network(network: &Field<'_>, errors: &mut Errors) {
    for (name, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.get(name).text().len() > most {
            network.get(name).too_long(errors, most);
        }
    }
    set(
        &network.get("ips"),
        16,
        devices::text_key,
        |address, errors| {
            address.faulty(errors, format::interface_address(address.text()));
        },
        errors,
    );
}
