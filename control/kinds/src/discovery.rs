//! The group `discovery.k8s.io`.

use std::{collections::HashSet, net::IpAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::{
    columns::{Cell, at, between, column, first_of, list, or, path_or, texts},
    core::special_address,
    field::{Errors, Field},
    format,
    resource::Resource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let slice = Resource::kubernetes::<EndpointSlice>("endpointslices")
        .columns(between([
            column("AddressType", path_or("addressType", "")),
            column("Ports", Cell::Of(ports)),
            column("Endpoints", Cell::Of(endpoints)),
        ]))
        .check(endpoint_slice)
        .on_write(canonical_addresses)
        .on_update(endpoint_slice_update);
    vec![slice]
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

/// `EndpointSlice`.
pub(crate) fn endpoint_slice(slice: &Field<'_>, errors: &mut Errors) {
    let kind = slice.get("addressType");
    kind.required_one_of(errors, TYPES);
    check_ports(&slice.get("ports"), errors);
    let endpoints = slice.get("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        endpoints.too_many(errors, MAX_ENDPOINTS);
    } else {
        endpoints.items().for_each(|endpoint| one_endpoint(&endpoint, kind.text(), errors));
    }
}

fn check_ports(list: &Field<'_>, errors: &mut Errors) {
    if list.len() > MAX_PORTS {
        return list.too_many(errors, MAX_PORTS);
    }
    let mut names = HashSet::new();
    for port in list.items() {
        let (name, protocol) = (port.get("name"), port.get("appProtocol"));
        name.optional_text(errors, format::label);
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        port.get("protocol").optional_one_of(errors, &["SCTP", "TCP", "UDP"]);
        // Upstream takes any number here; there is no port of another one.
        port.get("port").in_range(errors, 0, 65535);
        if protocol.is_set() {
            protocol.faulty(errors, format::qualified_name(protocol.text()));
        }
    }
}

fn one_endpoint(endpoint: &Field<'_>, kind: &str, errors: &mut Errors) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        addresses.required(errors, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        addresses.too_many(errors, MAX_ADDRESSES);
    }
    for address in addresses.items() {
        // Upstream's path of an address of the other family is the list's.
        let other = Field::at(address.value, addresses.path.clone());
        match (kind, format::parse_ip(address.text())) {
            ("IPv4" | "IPv6", None) => address.faulty(errors, format::ip(address.text())),
            ("IPv4", Some(IpAddr::V6(_))) => other.invalid_text(errors, "must be an IPv4 address"),
            ("IPv6", Some(IpAddr::V4(_))) => other.invalid_text(errors, "must be an IPv6 address"),
            ("IPv4" | "IPv6", Some(_)) => special_address(&address, errors),
            ("FQDN", _) => {
                address.faulty(errors, format::subdomain(address.text().strip_suffix('.').unwrap_or(address.text())));
            }
            _ => {}
        }
    }
    let node = endpoint.get("nodeName");
    if node.is_set() {
        node.faulty(errors, format::subdomain(node.text()));
    }
    endpoint.get("hostname").optional_text(errors, format::label);
    hints(&endpoint.walk(["hints", "forZones"]), format::label_value, errors);
    hints(&endpoint.walk(["hints", "forNodes"]), format::subdomain, errors);
}

/// For whom an endpoint is meant.
fn hints(list: &Field<'_>, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
    if list.len() > MAX_HINTS {
        return list.too_many(errors, MAX_HINTS);
    }
    let mut names = HashSet::new();
    for name in list.items().map(|hint| hint.get("name")) {
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        name.faulty(errors, check(name.text()));
    }
}

/// Addresses as they should be written.
fn canonical_addresses(slice: &Field<'_>, errors: &mut Errors) {
    if ["IPv4", "IPv6"].contains(&slice.get("addressType").text()) {
        for address in slice.get("endpoints").items().flat_map(|endpoint| endpoint.get("addresses").items()) {
            address.faulty(errors, format::canonical_ip(address.text()));
        }
    }
}

/// The kind of a slice's addresses is for life.
pub(crate) fn endpoint_slice_update(slice: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    slice.get("addressType").kept(errors, &old.get("addressType"));
}

fn ports(slice: &Value) -> Value {
    let port = |port: &Value| match (at(port, "port").and_then(Value::as_i64), at(port, "name")) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.as_str().unwrap_or_default().to_owned(),
        (None, None) => "*".to_owned(),
    };
    or(&first_of(list(slice, "ports").map(port), 3, ","), "<unset>")
}

fn endpoints(slice: &Value) -> Value {
    let addresses = list(slice, "endpoints").flat_map(|endpoint| texts(endpoint, "addresses")).map(str::to_owned);
    or(&first_of(addresses, 3, ","), "<unset>")
}
