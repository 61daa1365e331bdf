//! The group `policy`.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use crate::{
    columns::{Cell, between, column, integer},
    field::{Errors, Field, shown},
    format,
    resource::Resource,
    selector,
    subresource::Subresource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let budget = Resource::kubernetes::<PodDisruptionBudget>("poddisruptionbudgets")
        .short_names(&["pdb"])
        .subresources([Subresource::status()])
        .columns(between([
            column("Min Available", Cell::Of(|o| amount(&o["spec"]["minAvailable"]))),
            column("Max Unavailable", Cell::Of(|o| amount(&o["spec"]["maxUnavailable"]))),
            integer("Allowed Disruptions", "status.disruptionsAllowed"),
        ]))
        .counts_changes()
        .first_status(|_| json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}))
        .names(format::path_segment)
        .plain_finalizers()
        .metadata_last()
        .check(check);
    vec![budget]
}

/// `PodDisruptionBudget`.
pub(crate) fn check(budget: &Field<'_>, errors: &mut Errors) {
    let spec = budget.get("spec");
    let (min, max, labels) = (spec.get("minAvailable"), spec.get("maxUnavailable"), spec.get("selector"));
    if min.is_set() && max.is_set() {
        spec.invalid_as(errors, internal(&spec), "minAvailable and maxUnavailable cannot be both set");
    }
    for field in [min, max] {
        match field.value {
            Value::String(text) => {
                let faults = format::percent(text);
                let part = text.strip_suffix('%').and_then(|digits| digits.parse::<u64>().ok());
                if faults.is_empty() && part.is_none_or(|part| part > 100) {
                    field.invalid(errors, "must not be greater than 100%");
                }
                field.faulty(errors, faults);
            }
            _ => field.non_negative(errors),
        }
    }
    selector::check(&labels, errors);
    spec.get("unhealthyPodEvictionPolicy").optional_one_of(errors, &["AlwaysAllow", "IfHealthyBudget"]);
}

/// Upstream's own type of a budget as it is printed.
fn internal(spec: &Field<'_>) -> String {
    let labels = spec.get("selector");
    let labels = if labels.is_set() { selector::shown(&labels) } else { "null".to_owned() };
    let part = |name: &'static str| shown(spec.get(name).value);
    format!(
        "{{\"MinAvailable\":{},\"Selector\":{labels},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
        part("minAvailable"),
        part("maxUnavailable"),
        part("unhealthyPodEvictionPolicy")
    )
}

/// A number, or a share.
fn amount(amount: &Value) -> Value {
    match amount {
        Value::Null => "N/A".into(),
        Value::String(share) => share.as_str().into(),
        number => number.to_string().into(),
    }
}
