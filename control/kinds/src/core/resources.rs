//! Names and quantities of resources: requests, limits, quotas.

use std::collections::BTreeSet;

use hypernetes_schema::quantity::Quantity;
use serde_json::Value;

use crate::{
    field::{Errors, Field},
    format,
};

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const OF_QUOTAS: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "persistentvolumeclaims",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const OF_CONTAINERS: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Counted in whole ones.
const WHOLE: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether requests and limits of a resource may differ.
pub(crate) fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Kubernetes' own: without a domain, or with its own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether it is one that somebody else counts, and is not called as quotas call it.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && format::qualified_name(&format!("requests.{name}")).is_empty()
}

/// A quantity of an object; text that is none has been refused by the schema.
pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// The resource's name, which is the field's key: known, or with a domain.
fn name(field: &Field<'_>, name: &str, errors: &mut Errors) -> bool {
    let faults = format::qualified_name(name);
    let good = faults.is_empty();
    faults.into_iter().for_each(|fault| field.invalid_quoted(errors, name, fault));
    let known =
        name.contains('/') || STANDARD.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-");
    if good && !known {
        field.invalid_quoted(errors, name, "must be a standard resource type or fully qualified");
    }
    good && known
}

/// The name of a resource that a container can ask for.
pub(crate) fn container_name(field: &Field<'_>, text: &str, errors: &mut Errors) {
    name(field, text, errors);
    if !text.contains('/') {
        if !OF_CONTAINERS.contains(&text) && !is_huge_page(text) {
            field.invalid_quoted(errors, text, "must be a standard resource for containers");
        }
    } else if !is_native(text) && !is_extended(text) {
        field.invalid_quoted(errors, text, "doesn't follow extended resource name standard");
    }
}

fn pod_name(field: &Field<'_>, text: &str, errors: &mut Errors) {
    if name(field, text, errors) && !["cpu", "memory"].contains(&text) && !is_huge_page(text) {
        field.not_supported_as(errors, crate::field::quote(text), &["cpu", "hugepages-", "memory"]);
    }
}

/// The name of a resource that a limit range can set: those of containers where it is about these.
pub(crate) fn limit_range_name(kind: &str, field: &Field<'_>, text: &str, errors: &mut Errors) {
    match kind {
        "Pod" | "Container" => container_name(field, text, errors),
        _ => drop(name(field, text, errors)),
    }
}

/// Names and quantities of a quota.
pub(crate) fn quota(list: &Field<'_>, errors: &mut Errors) {
    for (key, field) in list.entries() {
        name(&field, key, errors);
        let huge = key.starts_with("requests.hugepages-") || key.starts_with("hugepages-");
        if !key.contains('/') && !OF_QUOTAS.contains(&key) && !huge {
            field.invalid_quoted(errors, key, "must be a standard resource for quota");
        }
        amount(key, &field, errors);
    }
}

/// A quantity that is not negative and, of what is counted, whole.
pub(crate) fn amount(name: &str, field: &Field<'_>, errors: &mut Errors) {
    let Some(quantity) = quantity(field.value) else { return };
    if quantity.is_negative() {
        field.invalid_quoted(errors, &quantity.to_string(), "must be greater than or equal to 0");
    }
    if (WHOLE.contains(&name) || is_extended(name)) && quantity.milli() % 1000 != 0 {
        field.invalid_quoted(errors, &quantity.to_string(), "must be an integer");
    }
}

/// `resources` of a container: `claims` are the names of the pod's resource claims.
pub(crate) fn of_container(resources: &Field<'_>, claims: &BTreeSet<&str>, errors: &mut Errors) {
    requirements(resources, container_name, claims, errors);
}

/// `resources` of a pod, for all its containers together, which may not ask for more.
pub(crate) fn of_pod(resources: &Field<'_>, spec: &Field<'_>, claims: &BTreeSet<&str>, errors: &mut Errors) {
    let own = resources.get("claims");
    if own.is_set() {
        own.forbidden(errors, "claims cannot be set for Resources at pod-level");
    }
    requirements(resources, pod_name, claims, errors);
    for (name, field) in resources.get("requests").entries() {
        let Some(whole) = quantity(field.value) else { continue };
        let asked = spec.get("containers").items();
        let asked = asked.filter_map(|one| quantity(one.walk(["resources", "requests"]).key(name).value));
        if let Some(sum) = asked.reduce(sum).filter(|sum| *sum > whole) {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            field.invalid_quoted(errors, &whole.to_string(), why);
        }
    }
}

/// Huge pages are asked for in whole ones; their size is in the resource's name.
fn whole_pages(name: &str, field: &Field<'_>, errors: &mut Errors) {
    let (Some(size), Some(asked)) = (name.strip_prefix("hugepages-"), quantity(field.value)) else { return };
    let size = Quantity::parse(size).map_or(0, Quantity::value);
    if !asked.is_negative() && (size <= 0 || asked.value() % size != 0) {
        field.invalid_quoted(errors, &asked.to_string(), format!("{asked} is not positive integer multiple of {name}"));
    }
}

/// Two quantities together, as the first is written.
fn sum(a: Quantity, b: Quantity) -> Quantity {
    let milli = a.milli().saturating_add(b.milli());
    let text = match a.to_string().ends_with('i') && milli % 1_024_000 == 0 {
        true => format!("{}Ki", milli / 1_024_000),
        false => format!("{milli}m"),
    };
    Quantity::parse(&text).unwrap_or(a)
}

/// A list of limits alone: a pod's overhead.
pub(crate) fn overhead(list: &Field<'_>, errors: &mut Errors) {
    let at = Field::at(list.value, list.path.child("limits"));
    for (key, field) in at.entries() {
        container_name(&field, key, errors);
        amount(key, &field, errors);
    }
}

fn requirements(
    resources: &Field<'_>,
    name: fn(&Field<'_>, &str, &mut Errors),
    claims: &BTreeSet<&str>,
    errors: &mut Errors,
) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    let (mut huge, mut compute) = (false, false);
    let mut one = |key: &str, field: &Field<'_>, errors: &mut Errors| {
        name(field, key, errors);
        amount(key, field, errors);
        whole_pages(key, field, errors);
        huge |= is_huge_page(key);
        compute |= ["cpu", "memory"].contains(&key);
    };
    for (key, limit) in limits.entries() {
        one(key, &limit, errors);
    }
    for (key, field) in requests.entries() {
        one(key, &field, errors);
        let Some(request) = quantity(field.value) else { continue };
        match quantity(limits.key(key).value) {
            Some(limit) if request != limit && !is_overcommitted(key) => {
                let why = format!("must be equal to {key} limit of {limit}");
                requests.invalid_quoted(errors, &request.to_string(), why);
            }
            Some(limit) if request > limit => {
                let why = format!("must be less than or equal to {key} limit of {limit}");
                requests.invalid_quoted(errors, &request.to_string(), why);
            }
            Some(_) => {}
            None if !is_overcommitted(key) => {
                limits.required(errors, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
    }
    if huge && !compute {
        resources.forbidden(errors, "HugePages require cpu or memory");
    }
    let mut used = BTreeSet::new();
    for claim in resources.get("claims").items() {
        let (name, request) = (claim.get("name").text(), claim.get("request"));
        if name.is_empty() {
            claim.required(errors, "");
            continue;
        }
        request.optional_text(errors, format::label);
        if !used.insert((name, request.text())) {
            claim.duplicate_as(errors, crate::field::quote(name));
        }
        if !claims.contains(name) {
            let list: Vec<&str> = claims.iter().copied().collect();
            let there = if list.is_empty() { " which is empty".to_owned() } else { format!(": {}", list.join(", ")) };
            let why = format!("must be one of the names in pod.spec.resourceClaims{there}");
            claim.not_found_because(errors, name, why);
        }
    }
}
