//! `LimitRange`.

use std::collections::{BTreeSet, HashSet};

use hypernetes_schema::{quantity::Quantity, walk::child};
use k8s_openapi::api::core::v1::LimitRange;
use serde_json::{Map, Value};

use super::resources::{self, is_overcommitted};
use crate::{
    columns::{created_at, name},
    field::{Errors, Field},
    format,
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<LimitRange>("limitranges")
        .short_names(&["limits"])
        .columns(vec![name(), created_at()])
        .check(check)
}

pub(crate) fn check(range: &Field<'_>, errors: &mut Errors) {
    let mut kinds = HashSet::new();
    for limit in range.walk(["spec", "limits"]).items() {
        let kind = limit.get("type");
        let faults = format::qualified_name(kind.text());
        if faults.is_empty()
            && !kind.text().contains('/')
            && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind.text())
        {
            kind.invalid(errors, "must be a standard limit type or fully qualified");
        }
        kind.faulty(errors, faults);
        if !kinds.insert(kind.text()) {
            kind.duplicate(errors);
        }
        one(&limit, kind.text(), errors);
    }
}

fn one(limit: &Field<'_>, kind: &str, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    let mut list = |name: &'static str, errors: &mut Errors| {
        for (key, value) in limit.get(name).entries() {
            resources::limit_range_name(kind, &value, key, errors);
            names.insert(key);
        }
    };
    list("max", errors);
    list("min", errors);
    if kind == "Pod" {
        for name in ["default", "defaultRequest"] {
            if !limit.get(name).is_empty() {
                limit.get(name).forbidden(errors, "may not be specified when `type` is 'Pod'");
            }
        }
    } else {
        list("default", errors);
        list("defaultRequest", errors);
    }
    let storage = |name: &'static str| limit.get(name).key("storage").is_set();
    if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        limit.get("limits").required(errors, why);
    }
    list("maxLimitRequestRatio", errors);
    names.into_iter().for_each(|name| amounts(limit, kind, name, errors));
}

/// A quantity and its field.
type Amount<'a> = Option<(Quantity, Field<'a>)>;

/// What the limits of one resource are to each other.
fn amounts(limit: &Field<'_>, kind: &str, name: &str, errors: &mut Errors) {
    let amount = |list: &'static str| -> Amount<'_> {
        let field = limit.get(list).key(name);
        Some((resources::quantity(field.value)?, field))
    };
    let of_pods = kind == "Pod";
    let (min, max) = (amount("min"), amount("max"));
    let default = if of_pods { None } else { amount("default") };
    let request = if of_pods { None } else { amount("defaultRequest") };
    let ratio = amount("maxLimitRequestRatio");
    // Said of `at`, with `value`, when the first of two is more than the second.
    let mut ordered = |low: (&Amount<'_>, &str), high: (&Amount<'_>, &str), at: &Amount<'_>, value: &Amount<'_>| {
        if let ((Some((a, _)), Some((b, _))), (Some((_, at)), Some((value, _)))) = ((low.0, high.0), (at, value))
            && a > b
        {
            let why = format!("{} value {a} is greater than {} value {b}", low.1, high.1);
            at.invalid_quoted(errors, &value.to_string(), why);
        }
    };
    ordered((&min, "min"), (&max, "max"), &min, &min);
    ordered((&min, "min"), (&request, "default request"), &request, &request);
    ordered((&request, "default request"), (&max, "max"), &request, &request);
    ordered((&request, "default request"), (&default, "default limit"), &request, &request);
    ordered((&min, "min"), (&default, "default"), &default, &min);
    ordered((&default, "default"), (&max, "max"), &default, &max);
    if let Some((ratio, field)) = &ratio {
        let whole = ratio.to_string();
        if ratio.milli() < 1000 {
            field.invalid_quoted(errors, &whole, format!("ratio {whole} is less than 1"));
        }
        if let (Some((min, _)), Some((max, _))) = (&min, &max) {
            let most = max.milli() as f64 / min.milli() as f64;
            if ratio.milli() as f64 / 1000.0 > most {
                field.invalid_quoted(errors, &whole, format!("ratio {whole} is greater than max/min = {most:.6}"));
            }
        }
    }
    if let (Some((default, _)), Some((request, field))) = (&default, &request)
        && !is_overcommitted(name)
        && default != request
    {
        let why = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        field.invalid_quoted(errors, &request.to_string(), why);
    }
}

/// Of a limit range for containers: the default limit is the largest, the default request that limit, or else the smallest.
pub(crate) fn item_defaults(item: &mut Map<String, Value>) {
    if item.get("type").and_then(Value::as_str) != Some("Container") {
        return;
    }
    for (into, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let amounts = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        let into = child(item, into);
        for (name, amount) in amounts {
            into.entry(name).or_insert(amount);
        }
    }
}
