//! `Endpoints`, and which addresses none may have.

use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use super::container::PROTOCOLS;
use crate::{
    columns::{Cell, between, column, first_of, list, number, text},
    field::{Errors, Field},
    format,
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Endpoints>("endpoints")
        .short_names(&["ep"])
        .columns(between([column("Endpoints", Cell::Of(shown))]))
        .check(check)
        .on_write(unambiguous_addresses)
}

pub(crate) fn check(endpoints: &Field<'_>, errors: &mut Errors) {
    for subset in endpoints.get("subsets").items() {
        let (ready, unready, ports) = (subset.get("addresses"), subset.get("notReadyAddresses"), subset.get("ports"));
        if ready.is_empty() && unready.is_empty() {
            subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(unready.items()) {
            let ip = address.get("ip");
            ip.faulty(errors, format::ip(ip.text()));
            address.get("hostname").optional_text(errors, format::label);
            let node = address.get("nodeName");
            if node.is_set() {
                node.faulty(errors, format::subdomain(node.text()));
            }
            special_address(&ip, errors);
        }
        for port in ports.items() {
            let (name, number) = (port.get("name"), port.get("port"));
            if name.is_empty() && ports.len() > 1 {
                name.required(errors, "");
            }
            name.optional_text(errors, format::label);
            if let Some(fault) = format::port(number.int().unwrap_or(0)) {
                number.invalid_as(errors, number.int().unwrap_or(0).to_string(), fault);
            }
            port.get("protocol").required_one_of(errors, PROTOCOLS);
            let protocol = port.get("appProtocol");
            if protocol.is_set() {
                protocol.faulty(errors, format::qualified_name(protocol.text()));
            }
        }
    }
}

/// Addresses as they should be written.
fn unambiguous_addresses(endpoints: &Field<'_>, errors: &mut Errors) {
    for subset in endpoints.get("subsets").items() {
        for address in subset.get("addresses").items().chain(subset.get("notReadyAddresses").items()) {
            let ip = address.get("ip");
            ip.faulty(errors, format::unambiguous_ip(ip.text()));
        }
    }
}

/// An error of an address that is a host's own: unspecified, loopback, or of the link.
pub(crate) fn special_address(address: &Field<'_>, errors: &mut Errors) {
    use std::net::IpAddr::{V4, V6};
    let Some(ip) = format::parse_ip(address.text()) else {
        return address.invalid_text(errors, "must be a valid IP address");
    };
    // One that can be read otherwise is not written, whatever it is.
    if !format::unambiguous_ip(address.text()).is_empty() {
        return;
    }
    let (link, link_multicast) = match ip {
        V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        address.invalid_text(errors, format!("may not be unspecified ({})", address.text()));
    }
    if ip.is_loopback() {
        address.invalid_text(errors, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link {
        address.invalid_text(errors, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        address.invalid_text(errors, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// Addresses that are ready, with each port.
fn shown(endpoints: &Value) -> Value {
    if list(endpoints, "subsets").next().is_none() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for subset in list(endpoints, "subsets") {
        let addresses = || list(subset, "addresses").map(|address| text(address, "ip"));
        let ports: Vec<i64> = list(subset, "ports").map(|port| number(port, "port")).collect();
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(
                addresses().map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }),
            );
        }
    }
    first_of(all, 3, ",").into()
}
