//! `Service`.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Map, Value, json};

use super::{container::PROTOCOLS, probe, special_address};
use crate::{
    columns::{Cell, at, between, column, labels, list, load_balancer, number, or, path, path_or, text, texts, wide},
    field::{ErrorKind, Errors, Field, shown},
    format, meta,
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Service>("services")
        .short_names(&["svc"])
        .categories(&["all"])
        .subresources([Subresource::status()])
        .names(format::label)
        .columns(
            between([
                column("Type", path_or("spec.type", "")),
                column("Cluster-IP", path("spec.clusterIP")),
                column("External-IP", Cell::Of(shown_external)),
                column("Port(s)", Cell::Of(shown_ports)),
            ])
            .into_iter()
            .chain([wide("Selector", Cell::Of(|o| labels(at(o, "spec.selector"))))])
            .collect(),
        )
        .selectable(["spec.clusterIP", "spec.type"])
        .first_status(|_| json!({"loadBalancer": {}}))
        .check(check)
        .on_write(unambiguous)
        .on_update(update)
        .change_first()
}

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// A day: the longest time that a client is remembered.
const MAX_AFFINITY_SECONDS: i64 = 86400;

fn is_headless(spec: &Field<'_>) -> bool {
    let addresses = spec.get("clusterIPs");
    addresses.len() == 1 && addresses.items().all(|address| address.text() == "None")
}

pub(crate) fn check(service: &Field<'_>, errors: &mut Errors) {
    let spec = service.get("spec");
    let (kind, ports, headless) = (spec.get("type"), spec.get("ports"), is_headless(&spec));
    if ports.is_empty() && !headless && kind.text() != "ExternalName" {
        ports.required(errors, "");
    }
    match kind.text() {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {} services", kind.text());
            spec.get("clusterIPs").items().for_each(|address| address.invalid(errors, why.clone()));
        }
        "ExternalName" => external_name(&spec, errors),
        _ => {}
    }
    let mut names = HashSet::new();
    for port in ports.items() {
        one_port(&port, ports.len() > 1, &mut names, errors);
    }
    meta::labels(&spec.get("selector"), errors);
    affinity(&spec, errors);
    if kind.text() != "ExternalName" {
        addresses(&spec, headless, errors);
    }
    for address in spec.get("externalIPs").items() {
        let faults = format::ip(address.text());
        if faults.is_empty() {
            special_address(&address, errors);
        }
        address.faulty(errors, faults);
    }
    kind.required_one_of(errors, TYPES);
    distinct_ports(&ports, kind.text(), errors);
    let balanced = kind.text() == "LoadBalancer";
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let (ranges, annotated) = (spec.get("loadBalancerSourceRanges"), source_ranges(service));
    if ranges.is_empty() && annotated.is_set() {
        if !balanced {
            annotated.forbidden(errors, ONLY);
        }
        for range in listed_ranges(&annotated) {
            format::cidr(range).into_iter().for_each(|fault| annotated.invalid_quoted(errors, range, fault));
        }
    }
    if !ranges.is_empty() {
        let at = Field::at(ranges.value, spec.path.child("LoadBalancerSourceRanges"));
        if !balanced {
            at.forbidden(errors, ONLY);
        }
        for range in at.items() {
            let text = range.text().trim();
            format::cidr(text).into_iter().for_each(|fault| range.invalid_quoted(errors, text, fault));
        }
    }
    let class = spec.get("loadBalancerClass");
    for field in [&spec.get("allocateLoadBalancerNodePorts"), &class] {
        if field.is_set() && !balanced {
            field.forbidden(errors, ONLY);
        }
    }
    if balanced && class.is_set() {
        class.faulty(errors, format::qualified_name(class.text()));
    }
    policies(&spec, errors);
}

/// The annotation that said from where a load balancer is reached before there was a field.
fn source_ranges<'a>(service: &Field<'a>) -> Field<'a> {
    service.walk(["metadata", "annotations"]).key("service.beta.kubernetes.io/load-balancer-source-ranges")
}

/// Ranges between commas; none in an empty text.
fn listed_ranges<'a>(annotation: &Field<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    let text = annotation.text().trim();
    text.split(',').map(str::trim).filter(move |_| !text.is_empty())
}

/// Addresses as they should be written.
fn unambiguous(service: &Field<'_>, errors: &mut Errors) {
    let spec = service.get("spec");
    for address in spec.get("externalIPs").items() {
        address.faulty(errors, format::unambiguous_ip(address.text()));
    }
    let (ranges, annotated) = (spec.get("loadBalancerSourceRanges"), source_ranges(service));
    let ranges = Field::at(ranges.value, spec.path.child("LoadBalancerSourceRanges"));
    for range in ranges.items() {
        let text = range.text().trim();
        format::unambiguous_cidr(text).into_iter().for_each(|fault| range.invalid_quoted(errors, text, fault));
    }
    if ranges.is_empty() {
        for range in listed_ranges(&annotated) {
            format::unambiguous_cidr(range)
                .into_iter()
                .for_each(|fault| annotated.invalid_quoted(errors, range, fault));
        }
    }
}

fn external_name(spec: &Field<'_>, errors: &mut Errors) {
    for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.get(name).is_empty() {
            spec.get(name).forbidden(errors, "may not be set for ExternalName services");
        }
    }
    let name = spec.get("externalName");
    let target = name.text().strip_suffix('.').unwrap_or(name.text());
    if target.is_empty() {
        return name.required(errors, "");
    }
    format::subdomain(target).into_iter().for_each(|fault| name.invalid_quoted(errors, target, fault));
}

fn one_port<'a>(port: &Field<'a>, named: bool, names: &mut HashSet<&'a str>, errors: &mut Errors) {
    let (name, number) = (port.get("name"), port.get("port"));
    if named && name.is_empty() {
        name.required(errors, "");
    } else if !name.is_empty() {
        name.faulty(errors, format::label(name.text()));
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
    }
    if let Some(fault) = format::port(number.int().unwrap_or(0)) {
        number.invalid_as(errors, number.int().unwrap_or(0).to_string(), fault);
    }
    port.get("protocol").required_one_of(errors, PROTOCOLS);
    probe::port(&port.get("targetPort"), errors);
    let protocol = port.get("appProtocol");
    if protocol.is_set() {
        protocol.faulty(errors, format::qualified_name(protocol.text()));
    }
}

fn distinct_ports(ports: &Field<'_>, kind: &str, errors: &mut Errors) {
    let (mut on_nodes, mut on_service) = (HashSet::new(), HashSet::new());
    let node_port = |port: &Field<'_>| port.get("nodePort").int().filter(|number| *number != 0);
    if kind == "ClusterIP" {
        for port in ports.items().filter(|port| node_port(port).is_some()) {
            port.get("nodePort").forbidden(errors, "may not be used when `type` is 'ClusterIP'");
        }
    }
    for port in ports.items() {
        if let Some(number) = node_port(&port)
            && !on_nodes.insert((port.get("protocol").text(), number))
        {
            port.get("nodePort").duplicate(errors);
        }
    }
    for port in ports.items() {
        let (protocol, number) = (port.get("protocol").text(), port.get("port").int().unwrap_or(0));
        if !on_service.insert((protocol, number)) {
            // Upstream prints its own type, with no more in it than what is compared.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                shown(&protocol.into())
            );
            port.duplicate_as(errors, shown);
        }
    }
}

fn affinity(spec: &Field<'_>, errors: &mut Errors) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    affinity.required_one_of(errors, &["ClientIP", "None"]);
    if affinity.text() != "ClientIP" {
        return;
    }
    let client = config.get("clientIP");
    let seconds = client.get("timeoutSeconds");
    for field in [&config, &client, &seconds] {
        if !field.is_set() {
            return field.required(errors, "when session affinity type is ClientIP");
        }
    }
    if seconds.int().is_some_and(|seconds| !(1..=MAX_AFFINITY_SECONDS).contains(&seconds)) {
        seconds.invalid(errors, format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"));
    }
}

fn addresses(spec: &Field<'_>, headless: bool, errors: &mut Errors) {
    let (first, all, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    match (first.is_empty(), all.items().next()) {
        (false, None) => all.required(errors, ""),
        (false, Some(listed)) if listed.text() != first.text() => {
            all.invalid(errors, "first value must match `clusterIP`");
        }
        (true, Some(_)) => all.invalid(errors, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let mut seen = HashSet::new();
    for family in families.items() {
        family.one_of(errors, &["IPv4", "IPv6"]);
        if !seen.insert(family.text()) {
            family.duplicate(errors);
        }
    }
    spec.get("ipFamilyPolicy").optional_one_of(errors, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut good = true;
    for (at, address) in all.items().enumerate() {
        if at == 0 && address.text() == "None" {
            if all.len() > 1 {
                good = false;
                all.invalid(errors, "'None' must be the first and only value");
            }
            continue;
        }
        let faults = format::ip(address.text());
        good &= faults.is_empty();
        address.faulty(errors, faults);
    }
    if all.len() > 2 {
        all.invalid(errors, "may only hold up to 2 values");
    }
    if !good {
        return;
    }
    let is_six: Vec<bool> = all.items().filter_map(|a| format::parse_ip(a.text())).map(|ip| ip.is_ipv6()).collect();
    if all.len() > 1 && (is_six.iter().all(|six| *six) || is_six.iter().all(|six| !six)) {
        all.invalid(errors, "may specify no more than one IP for each IP family");
    }
    if headless {
        return;
    }
    for (at, (address, family)) in all.items().zip(families.items()).enumerate() {
        let six = is_six.get(at) == Some(&true);
        if (family.text() == "IPv4" && six) || (family.text() == "IPv6" && !six) {
            let article = format!("expected an {} value as indicated by `ipFamilies[{at}]`", family.text());
            address.invalid(errors, article);
        }
    }
}

fn policies(spec: &Field<'_>, errors: &mut Errors) {
    let (external, health, internal) =
        (spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort"), spec.get("internalTrafficPolicy"));
    let kind = spec.get("type").text();
    let accessible =
        ["LoadBalancer", "NodePort"].contains(&kind) || (kind == "ClusterIP" && !spec.get("externalIPs").is_empty());
    if !accessible {
        if !external.is_empty() {
            external.invalid(errors, "may only be set for externally-accessible services");
        }
    } else if kind == "ClusterIP" {
        external.optional_one_of(errors, &["Cluster", "Local"]);
    } else {
        external.required_one_of(errors, &["Cluster", "Local"]);
    }
    if health.int().unwrap_or(0) != 0 {
        match kind == "LoadBalancer" && external.text() == "Local" {
            true => health.in_range(errors, 1, 65535),
            false => {
                let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
                health.invalid(errors, why);
            }
        }
    }
    if ["ClusterIP", "LoadBalancer", "NodePort"].contains(&kind) && !internal.is_set() {
        internal.required(errors, "");
    }
    internal.optional_one_of(errors, &["Cluster", "Local"]);
    let distribution = spec.get("trafficDistribution");
    distribution.optional_one_of(errors, &["PreferClose", "PreferSameZone", "PreferSameNode"]);
}

/// What a change may not do: a service keeps the addresses that it has.
pub(crate) fn update(service: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (spec, before) = (service.get("spec"), old.get("spec"));
    if [&spec, &before].iter().any(|spec| spec.get("type").text() == "ExternalName") {
        return;
    }
    let headless = (is_headless(&spec), is_headless(&before));
    if headless != (true, true) {
        kept(&spec, &before, "clusterIPs", "primary clusterIP can not be unset", errors);
    }
    if headless == (false, false) {
        kept(&spec, &before, "ipFamilies", "primary ipFamily can not be unset", errors);
    }
    let (class, was) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
    let both = [&spec, &before].iter().all(|spec| spec.get("type").text() == "LoadBalancer");
    if both && class.value != was.value {
        class.changed(errors, ErrorKind::Invalid, shown(class.value), "may not change once set");
    }
}

/// A list whose first item stays, and whose second may come and, with a policy that says so, go.
fn kept(spec: &Field<'_>, old: &Field<'_>, name: &'static str, unset: &str, errors: &mut Errors) {
    let (new, was) = (spec.get(name), old.get(name));
    let list = |field: &Field<'_>| -> Vec<Value> { field.items().map(|item| item.value.clone()).collect() };
    let (list, before) = (list(&new), list(&was));
    let mut say = |at: usize, why: &str| {
        Field::at(new.value, new.path.index(at)).changed(errors, ErrorKind::Invalid, shown(new.value), why);
    };
    if list.is_empty() && !before.is_empty() {
        return say(0, unset);
    }
    let compared = if list.len() == before.len() { list.len() } else { list.len().min(before.len()).min(1) };
    for at in (0..compared).filter(|at| list[*at] != before[*at]) {
        say(at, "may not change once set");
    }
    if list.len() == 1 && before.len() > 1 && spec.get("ipFamilyPolicy").text() != "SingleStack" {
        let policy = spec.get("ipFamilyPolicy");
        let what = if name == "clusterIPs" { "clusterIP" } else { "ipFamily" };
        let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        policy.changed(errors, ErrorKind::Invalid, shown(policy.value), why);
    }
}

/// What is left open in a service's spec.
pub(crate) fn spec_defaults(spec: &mut Map<String, Value>) {
    target_ports(spec);
    cluster_ips(spec);
    // Clients that are not remembered are not so for any time.
    if spec.get("sessionAffinity").and_then(Value::as_str) == Some("None") {
        spec.remove("sessionAffinityConfig");
    }
}

fn target_ports(spec: &mut Map<String, Value>) {
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        let unset = port.get("targetPort").is_none_or(|target| target == &json!(0) || target == "");
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
}

/// The old field for one address and the new one for several tell the same.
fn cluster_ips(spec: &mut Map<String, Value>) {
    let listed = spec.get("clusterIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !listed && let Some(address) = spec.get("clusterIP").filter(|address| *address != "").cloned() {
        spec.insert("clusterIPs".into(), json!([address]));
    }
}

fn shown_ports(service: &Value) -> Value {
    let ports: Vec<String> = list(service, "spec.ports")
        .map(|port| {
            let protocol = match text(port, "protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            match number(port, "nodePort") {
                0 => format!("{}/{protocol}", number(port, "port")),
                node => format!("{}:{node}/{protocol}", number(port, "port")),
            }
        })
        .collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",").into() }
}

/// Where it is reached from outside.
fn shown_external(service: &Value) -> Value {
    let external: Vec<&str> = texts(service, "spec.externalIPs").collect();
    match text(service, "spec.type") {
        "ExternalName" => text(service, "spec.externalName").into(),
        "LoadBalancer" => {
            let balancer = load_balancer(service);
            let all = (!balancer.is_empty()).then_some(balancer.as_str()).into_iter().chain(external);
            or(&all.collect::<Vec<_>>().join(","), "<pending>")
        }
        _ => or(&external.join(","), "<none>"),
    }
}
