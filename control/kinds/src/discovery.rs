//! The group `discovery.k8s.io`.

use std::net::IpAddr;

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
        .on_update(endpoint_slice_update);
    vec![slice]
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

/// `EndpointSlice`.
pub(crate) fn endpoint_slice(slice: &Field<'_>, errors: &mut Errors) {
    let kind = slice.get("addressType");
    kind.required_one_of(errors, TYPES);
    let endpoints = slice.get("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        endpoints.too_many(errors, MAX_ENDPOINTS);
    } else {
        endpoints.items().for_each(|endpoint| one_endpoint(&endpoint, kind.text(), errors));
    }
    let ports = slice.get("ports");
    if ports.len() > MAX_PORTS {
        return ports.too_many(errors, MAX_PORTS);
    }
    let mut names = std::collections::HashSet::new();
    for port in ports.items() {
        let (name, protocol) = (port.get("name"), port.get("appProtocol"));
        name.optional_text(errors, format::label);
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        port.get("protocol").optional_one_of(errors, &["SCTP", "TCP", "UDP"]);
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
        let ip = format::parse_ip(address.text());
        match kind {
            "IPv4" if !matches!(ip, Some(IpAddr::V4(_))) => {
                address.invalid_text(errors, "must be a valid IPv4 address");
            }
            "IPv6" if !matches!(ip, Some(IpAddr::V6(_))) => {
                address.invalid_text(errors, "must be a valid IPv6 address");
            }
            "IPv4" | "IPv6" => special_address(&address, errors),
            "FQDN" => address.faulty(errors, format::subdomain(address.text())),
            _ => {}
        }
    }
    let node = endpoint.get("nodeName");
    if node.is_set() {
        node.faulty(errors, format::subdomain(node.text()));
    }
    endpoint.get("hostname").optional_text(errors, format::label);
    let topology = endpoint.get("deprecatedTopology");
    crate::meta::labels(&topology, errors);
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
