//! The group `networking.k8s.io`.

pub(crate) mod ingress_class;
mod ip_address;
mod service_cidr;

use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use serde_json::{Value, json};

use crate::{
    columns::{Cell, at, between, column, first_of, label_selector, list, load_balancer, or, path, text},
    field::{Errors, Field, quote, shown},
    format,
    resource::Resource,
    selector,
    subresource::Subresource,
};

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::kubernetes::<Ingress>("ingresses")
            .short_names(&["ing"])
            .subresources([Subresource::status()])
            .columns(between([
                column("Class", path("spec.ingressClassName")),
                column("Hosts", Cell::Of(hosts)),
                column("Address", Cell::Of(|o| load_balancer(o).into())),
                column(
                    "Ports",
                    Cell::Of(|o| if list(o, "spec.tls").next().is_some() { "80, 443" } else { "80" }.into()),
                ),
            ]))
            .first_status(|_| json!({"loadBalancer": {}}))
            .counts_changes()
            .check(ingress),
        Resource::kubernetes::<NetworkPolicy>("networkpolicies")
            .short_names(&["netpol"])
            .columns(between([column("Pod-Selector", Cell::Of(|o| label_selector(at(o, "spec.podSelector"))))]))
            .counts_changes()
            .check(network_policy)
            .on_write(unambiguous_ranges),
        ingress_class::resource(),
        ip_address::resource(),
        service_cidr::resource(),
    ]
}

/// `Ingress`.
pub(crate) fn ingress(ingress: &Field<'_>, errors: &mut Errors) {
    let spec = ingress.get("spec");
    let (rules, default) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !default.is_set() {
        let shown = if rules.is_set() { "[]" } else { "null" };
        spec.invalid_as(errors, shown, "either `defaultBackend` or `rules` must be specified");
    }
    if default.is_set() {
        backend(&default, errors);
    }
    for rule in rules.items() {
        let host = rule.get("host");
        if format::parse_ip(host.text()).is_some() {
            host.invalid(errors, "must be a DNS name, not an IP address");
        }
        let check = if host.text().contains('*') { format::wildcard_subdomain } else { format::subdomain };
        host.optional_text(errors, check);
        let http = rule.get("http");
        if http.is_set() {
            http.get("paths").not_empty(errors);
            http.get("paths").items().for_each(|path| ingress_path(&path, errors));
        }
    }
    for tls in spec.get("tls").items() {
        for host in tls.get("hosts").items() {
            let check = if host.text().contains('*') { format::wildcard_subdomain } else { format::subdomain };
            host.faulty(errors, check(host.text()));
        }
        tls.get("secretName").optional_text(errors, format::subdomain);
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        class.faulty(errors, format::subdomain(class.text()));
    }
}

fn ingress_path(rule: &Field<'_>, errors: &mut Errors) {
    let (kind, path) = (rule.get("pathType"), rule.get("path"));
    if !kind.is_set() {
        return kind.required(errors, "pathType must be specified");
    }
    match kind.text() {
        "Exact" | "Prefix" => {
            if !format::is_absolute(path.text()) {
                path.invalid_text(errors, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.text().contains(bad) {
                    path.invalid(errors, format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if path.text().ends_with(bad) {
                    path.invalid(errors, format!("cannot end with '{bad}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !format::is_absolute(path.text()) {
                path.invalid(errors, "must be an absolute path");
            }
        }
        _ => kind.not_supported(errors, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&rule.get("backend"), errors);
}

fn backend(backend: &Field<'_>, errors: &mut Errors) {
    let (resource, service) = (backend.get("resource"), backend.get("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => backend.invalid_quoted(errors, "", "cannot set both resource and service backends"),
        (true, false) => {
            resource.get("kind").required_text(errors, format::path_segment);
            resource.get("name").required_text(errors, format::path_segment);
        }
        (false, true) => {
            service.get("name").required_text(errors, format::label);
            let port = service.get("port");
            let (name, number) = (port.get("name"), port.get("number"));
            let numbered = number.int().unwrap_or(0) != 0;
            match (!name.is_empty(), numbered) {
                (true, true) => backend.invalid_quoted(errors, "", "cannot set both port name & port number"),
                (true, false) => name.faulty(errors, format::port_name(name.text())),
                (false, true) => number.in_range(errors, 1, 65535),
                (false, false) => backend.required(errors, "port name or number is required"),
            }
        }
        (false, false) => backend.invalid_quoted(errors, "", "resource or service backend is required"),
    }
}

/// `NetworkPolicy`.
pub(crate) fn network_policy(policy: &Field<'_>, errors: &mut Errors) {
    let spec = policy.get("spec");
    selector::check(&spec.get("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            rule.get("ports").items().for_each(|port| policy_port(&port, errors));
            rule.get(peers).items().for_each(|peer| policy_peer(&peer, errors));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return types.invalid(errors, "may not specify more than two policyTypes");
    }
    types.items().for_each(|kind| kind.one_of(errors, &["Ingress", "Egress"]));
}

/// Ranges of addresses as they should be written.
fn unambiguous_ranges(policy: &Field<'_>, errors: &mut Errors) {
    let spec = policy.get("spec");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for peer in spec.get(direction).items().flat_map(|rule| rule.get(peers).items()) {
            let block = peer.get("ipBlock");
            for range in std::iter::once(block.get("cidr")).chain(block.get("except").items()) {
                range.faulty(errors, format::unambiguous_cidr(range.text()));
            }
        }
    }
}

fn policy_port(port: &Field<'_>, errors: &mut Errors) {
    port.get("protocol").optional_one_of(errors, &["TCP", "UDP", "SCTP"]);
    let (number, end) = (port.get("port"), port.get("endPort"));
    match number.value {
        Value::Null => {}
        Value::String(name) => number.faulty(errors, format::port_name(name)),
        _ => number.in_range(errors, 1, 65535),
    }
    if !end.is_set() {
        return;
    }
    match number.value {
        Value::Null => end.invalid(errors, "may not be specified when `port` is not specified"),
        Value::String(_) => end.invalid(errors, "may not be specified when `port` is non-numeric"),
        value => {
            if end.int().unwrap_or(0) < value.as_i64().unwrap_or(0) {
                // What upstream shows is the port.
                end.invalid_as(errors, shown(value), "must be greater than or equal to `port`");
            }
            end.in_range(errors, 1, 65535);
        }
    }
}

fn policy_peer(peer: &Field<'_>, errors: &mut Errors) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    selector::check(&pods, errors);
    selector::check(&namespaces, errors);
    if block.is_set() {
        ip_block(&block, errors);
    }
    match (pods.is_set() || namespaces.is_set(), block.is_set()) {
        (false, false) => peer.required(errors, "must specify a peer"),
        (true, true) => peer.forbidden(errors, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

/// A range of addresses, and smaller ones in it that are left out.
fn ip_block(block: &Field<'_>, errors: &mut Errors) {
    let range = block.get("cidr");
    if range.is_empty() {
        return range.required(errors, "");
    }
    range.faulty(errors, format::cidr(range.text()));
    let Some(whole) = format::parse_cidr(range.text()) else { return };
    for except in block.get("except").items() {
        except.faulty(errors, format::cidr(except.text()));
        let inside = format::parse_cidr(except.text()).is_none_or(|part| is_strictly_inside(part, whole));
        if !inside {
            let why = "must be a strict subset of `cidr`";
            except.invalid_as(errors, quote(except.text()), why);
        }
    }
}

type Range = (std::net::IpAddr, u8);

fn is_strictly_inside((part, length): Range, (whole, least): Range) -> bool {
    use std::net::IpAddr::{V4, V6};
    let (a, b, bits) = match (part, whole) {
        (V4(a), V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (V6(a), V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let shift = bits - u32::from(least);
    length > least && a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

fn hosts(ingress: &Value) -> Value {
    let hosts = list(ingress, "spec.rules").map(|rule| text(rule, "host").to_owned()).filter(|host| !host.is_empty());
    or(&first_of(hosts, 3, ","), "*")
}
