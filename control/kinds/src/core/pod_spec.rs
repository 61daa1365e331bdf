//! A pod's spec, in a pod or in a template.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::{
    container::{self, Surroundings},
    resources, scheduling, security, volume,
};
use crate::{
    field::{Errors, Field, quote, shown},
    format, meta,
};

/// Most name servers, search paths, and bytes of these with spaces between: what a libc takes.
const MAX_NAME_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

/// Checks a spec; `pod` is the pod's name, which templates do not have.
pub(crate) fn check(spec: &Field<'_>, pod: &str, errors: &mut Errors) {
    if !spec.is_set() {
        // All else of it has defaults.
        return spec.get("containers").required(errors, "");
    }
    spec.get("terminationGracePeriodSeconds").not_empty(errors);
    let volumes = volume::check(&spec.get("volumes"), pod, errors);
    let claims = resource_claims(&spec.get("resourceClaims"), errors);
    let around = Surroundings {
        volumes,
        claims,
        grace: spec.get("terminationGracePeriodSeconds").int(),
        restart_policy: spec.get("restartPolicy").text(),
        host_users: spec.get("hostUsers").flag() != Some(false),
    };
    let (containers, init) = (spec.get("containers"), spec.get("initContainers"));
    container::regular(&containers, &around, errors);
    container::init(&init, &containers, &around, errors);
    container::ephemeral(&spec.get("ephemeralContainers"), &[containers, init], &around, errors);
    resources::of_pod(&spec.get("resources"), spec, &around.claims, errors);
    host_network(spec, pod, errors);
    spec.get("restartPolicy").required_one_of(errors, &["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy").required_one_of(errors, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    meta::labels(&spec.get("nodeSelector"), errors);
    security::of_pod(&spec.get("securityContext"), spec, errors);
    for secret in spec.get("imagePullSecrets").items() {
        secret.get("name").optional_text(errors, format::reference);
    }
    scheduling::affinity(&spec.get("affinity"), errors);
    dns(&spec.get("dnsConfig"), spec.get("dnsPolicy").text(), errors);
    for gate in spec.get("readinessGates").items() {
        let condition = gate.get("conditionType");
        condition.faulty(errors, format::qualified_name(condition.text()));
    }
    scheduling_gates(&spec.get("schedulingGates"), errors);
    scheduling::spreading(&spec.get("topologySpreadConstraints"), errors);
    if !around.host_users {
        for (name, said) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if spec.get(name).is_true() {
                let field = Field::at(spec.get(name).value, spec.path.child(said));
                field.forbidden(errors, "when `pod.Spec.HostUsers` is false");
            }
        }
    }
    spec.get("serviceAccountName").optional_text(errors, format::subdomain);
    spec.get("nodeName").optional_text(errors, format::subdomain);
    spec.get("activeDeadlineSeconds").in_range(errors, 1, i64::from(i32::MAX));
    spec.get("hostname").optional_text(errors, format::label);
    spec.get("subdomain").optional_text(errors, format::label);
    hostname_override(spec, errors);
    scheduling::tolerations(&spec.get("tolerations"), errors);
    for alias in spec.get("hostAliases").items() {
        let address = alias.get("ip");
        address.faulty(errors, format::ip(address.text()));
        alias.get("hostnames").items().for_each(|name| name.faulty(errors, format::subdomain(name.text())));
    }
    spec.get("priorityClassName").optional_text(errors, format::subdomain);
    let class = spec.get("runtimeClassName");
    if class.is_set() {
        class.faulty(errors, format::subdomain(class.text()));
    }
    if spec.get("preemptionPolicy").is_set() {
        spec.get("preemptionPolicy").required_one_of(errors, &["PreemptLowerPriority", "Never"]);
    }
    resources::overhead(&spec.get("overhead"), errors);
    system(spec, errors);
}

/// Addresses as they should be written.
pub(crate) fn unambiguous(spec: &Field<'_>, errors: &mut Errors) {
    let aliases = spec.get("hostAliases");
    let addresses = aliases.items().map(|alias| alias.get("ip"));
    for address in spec.walk(["dnsConfig", "nameservers"]).items().chain(addresses) {
        address.faulty(errors, format::unambiguous_ip(address.text()));
    }
}

/// A name of the host that stands above the others: a subdomain as long as the kernel's name of a host may be.
fn hostname_override(spec: &Field<'_>, errors: &mut Errors) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    name.faulty(errors, format::subdomain(name.text()));
    if name.text().len() > 64 {
        name.invalid(errors, "must be no more than 64 characters");
    }
    if spec.get("hostNetwork").is_true() {
        name.forbidden(errors, "may not be specified when hostNetwork is true");
    }
    if spec.get("setHostnameAsFQDN").is_true() {
        name.forbidden(errors, "may not be specified when setHostnameAsFQDN is true");
    }
}

/// `os`: what is for Windows is not for Linux.
fn system(spec: &Field<'_>, errors: &mut Errors) {
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    match os.get("name").text() {
        "" => os.get("name").required(errors, "cannot be empty"),
        "linux" => {
            let contexts = ["containers", "initContainers", "ephemeralContainers"]
                .iter()
                .flat_map(|list| spec.get(list).items())
                .map(|container| container.get("securityContext"));
            for context in std::iter::once(spec.get("securityContext")).chain(contexts) {
                let windows = context.get("windowsOptions");
                if windows.is_set() {
                    windows.forbidden(errors, "windows options cannot be set for a linux pod");
                }
            }
        }
        "windows" => {}
        other => os.not_supported_as(errors, quote(other), &["linux", "windows"]),
    }
}

/// `resourceClaims`: their names.
fn resource_claims<'a>(list: &Field<'a>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for claim in list.items() {
        let name = claim.get("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if !names.insert(name.text()) {
            name.duplicate(errors);
        } else {
            name.faulty(errors, format::label(name.text()));
        }
        let (direct, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (direct.is_set(), template.is_set()) {
            (true, true) => {
                let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                claim.invalid_as(errors, claim_shown(&claim), why);
            }
            (false, false) => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                claim.invalid_as(errors, claim_shown(&claim), why);
            }
            _ => {}
        }
        for reference in [direct, template] {
            if reference.is_set() {
                reference.faulty(errors, format::subdomain(reference.text()));
            }
        }
    }
    names
}

/// Upstream's own type of a claim as it is printed.
fn claim_shown(claim: &Field<'_>) -> String {
    let part = |name: &'static str| shown(claim.get(name).value);
    format!(
        "{{\"Name\":{},\"ResourceClaimName\":{},\"ResourceClaimTemplateName\":{}}}",
        part("name"),
        part("resourceClaimName"),
        part("resourceClaimTemplateName")
    )
}

/// On the host's network a container's port is the host's: templates may leave that to be filled in.
fn host_network(spec: &Field<'_>, pod: &str, errors: &mut Errors) {
    if !spec.get("hostNetwork").is_true() {
        return;
    }
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let (on_host, inside) = (host.int().unwrap_or(0), port.get("containerPort").int().unwrap_or(0));
            if (!pod.is_empty() || on_host != 0) && on_host != inside {
                let why = "must match `containerPort` when `hostNetwork` is true";
                host.invalid_as(errors, on_host.to_string(), why);
            }
        }
    }
}

fn scheduling_gates(list: &Field<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for gate in list.items() {
        let name = gate.get("name").text();
        format::qualified_name(name).into_iter().for_each(|fault| gate.invalid_quoted(errors, name, fault));
        if !names.insert(name) {
            gate.duplicate_as(errors, quote(name));
        }
    }
}

fn dns(config: &Field<'_>, policy: &str, errors: &mut Errors) {
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    if policy == "None" {
        if !config.is_set() {
            return config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return servers.required(errors, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > MAX_NAME_SERVERS {
        servers.invalid(errors, format!("must not have more than {MAX_NAME_SERVERS} nameservers"));
    }
    servers.items().for_each(|server| server.faulty(errors, format::ip(server.text())));
    if searches.len() > MAX_SEARCHES {
        searches.invalid(errors, format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    let bytes: usize = searches.items().map(|search| search.text().len() + 1).sum();
    if bytes.saturating_sub(1) > MAX_SEARCH_BYTES {
        let why =
            format!("must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list");
        searches.invalid(errors, why);
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        for fault in format::subdomain_with_underscores(name) {
            search.invalid_quoted(errors, name, fault);
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            option.required(errors, "must not be empty");
        }
        // They become words of a line of a file.
        for name in ["name", "value"] {
            let text = option.get(name);
            if text.text().contains(|c: char| c.is_whitespace() || c.is_control()) {
                text.invalid(errors, "must not contain spaces or control characters");
            }
        }
    }
}

/// The old and the new name of the service account's field tell the same, and ports of a pod on its host's network are the host's.
pub(crate) fn defaults(spec: &mut Map<String, Value>) {
    if let Some(old) = spec.get("serviceAccount").cloned() {
        spec.entry("serviceAccountName").or_insert(old);
    }
    if let Some(name) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".into(), name);
    }
    // On the host's network a container's ports are the host's.
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(port) = port.as_object_mut()
                        && let Some(number) = port.get("containerPort").cloned()
                    {
                        port.entry("hostPort").or_insert(number);
                    }
                }
            }
        }
    }
}
