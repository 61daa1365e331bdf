//! `ResourceQuota`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};

use super::resources;
use crate::{
    columns::{Cell, at, between, column},
    field::{ErrorKind, Errors, Field, shown},
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ResourceQuota>("resourcequotas")
        .short_names(&["quota"])
        .subresources([Subresource::status()])
        .columns(between([
            column("Request", Cell::Of(|o| usage(o, false))),
            column("Limit", Cell::Of(|o| usage(o, true))),
        ]))
        .first_status(|_| json!({}))
        .check(check)
        .on_update(update)
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
/// Resources of pods that a scope can be about; of those with a domain each scope can be.
const OF_PODS: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "pods"];
const OF_CLAIMS: &[&str] = &["requests.storage", "persistentvolumeclaims"];
const PAIRS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

pub(crate) fn check(quota: &Field<'_>, errors: &mut Errors) {
    let spec = quota.get("spec");
    resources::quota(&spec.get("hard"), errors);
    let scopes = spec.get("scopes");
    let names: BTreeSet<&str> = scopes.items().map(|scope| scope.text()).collect();
    for scope in scopes.items() {
        match SCOPES.contains(&scope.text()) {
            false => scopes.invalid(errors, "unsupported scope"),
            true if is_about_all(scope.text(), &spec.get("hard")) => {}
            true => scopes.invalid(errors, "unsupported scope applied to resource"),
        }
    }
    conflicts(&names, &scopes, &scopes, errors);
    let expressions = spec.walk(["scopeSelector", "matchExpressions"]);
    let mut selected = BTreeSet::new();
    for expression in expressions.items() {
        // Upstream's paths here have no index.
        let at = |name: &'static str| Field::at(expression.get(name).value, expressions.path.child(name));
        let (scope, operator, values) = (at("scopeName"), at("operator"), at("values"));
        if !SCOPES.contains(&scope.text()) {
            scope.invalid_text(errors, "unsupported scope");
        } else if !is_about_all(scope.text(), &spec.get("hard")) {
            expressions.invalid_as(errors, internal(&expressions), "unsupported scope applied to resource");
        }
        if SCOPES.contains(&scope.text())
            && scope.text() != "PriorityClass"
            && operator.text() != "Exists"
            && scope.text() != "VolumeAttributesClass"
        {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            operator.invalid_text(errors, why);
        }
        match operator.text() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                    values.required(errors, why);
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                    values.invalid(errors, why);
                }
            }
            _ => operator.invalid_text(errors, "not a valid selector operator"),
        }
        selected.insert(scope.text());
    }
    conflicts(&selected, &expressions, &scopes, errors);
}

/// Whether a scope can be about everything that a quota limits.
fn is_about_all(scope: &str, hard: &Field<'_>) -> bool {
    let resources = match scope {
        "BestEffort" => &["pods"],
        "VolumeAttributesClass" => OF_CLAIMS,
        _ => OF_PODS,
    };
    hard.entries().all(|(name, _)| name.contains('/') || resources.contains(&name))
}

/// Upstream's own type of a selector as it is printed.
fn internal(expressions: &Field<'_>) -> String {
    let list = expressions.items().map(|one| {
        let part = |name: &'static str| shown(one.get(name).value);
        format!(
            "{{\"ScopeName\":{},\"Operator\":{},\"Values\":{}}}",
            part("scopeName"),
            part("operator"),
            part("values")
        )
    });
    format!("{{\"MatchExpressions\":[{}]}}", list.collect::<Vec<_>>().join(","))
}

fn conflicts(names: &BTreeSet<&str>, at: &Field<'_>, shown_as: &Field<'_>, errors: &mut Errors) {
    for pair in PAIRS {
        if pair.iter().all(|name| names.contains(name)) {
            at.invalid_as(errors, shown(shown_as.value), "conflicting scopes");
        }
    }
}

pub(crate) fn update(quota: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let scopes = |quota: &Field<'_>| -> BTreeSet<String> {
        quota.walk(["spec", "scopes"]).items().map(|scope| scope.text().to_owned()).collect()
    };
    if scopes(quota) != scopes(old) {
        let new = quota.walk(["spec", "scopes"]);
        new.changed(errors, ErrorKind::Invalid, shown(new.value), "field is immutable");
    }
}

/// What is used of what there is, of limits or of all else.
fn usage(quota: &Value, limits: bool) -> Value {
    let hard = at(quota, "status.hard").and_then(Value::as_object).into_iter().flatten();
    let used = |name: &str| at(quota, "status.used").and_then(|used| used.get(name)?.as_str()).unwrap_or("0");
    let chosen = hard.filter(|(name, _)| name.starts_with("limits") == limits);
    let each = chosen.map(|(name, hard)| format!("{name}: {}/{}", used(name), hard.as_str().unwrap_or_default()));
    each.collect::<Vec<_>>().join(", ").into()
}
