//! The group `autoscaling`.

mod v1;

use hypernetes_schema::ObjectType;
use k8s_openapi::api::autoscaling::{v1 as first, v2::HorizontalPodAutoscaler};
use serde_json::{Value, json};

use crate::{
    columns::{Cell, at, between, column, first_of, list, number_at, or, text},
    core::resources::quantity,
    field::{Errors, Field},
    format,
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let autoscaler = Resource::kubernetes::<HorizontalPodAutoscaler>("horizontalpodautoscalers")
        .also_as(ObjectType::kubernetes::<first::HorizontalPodAutoscaler>(), v1::CONVERSION)
        .short_names(&["hpa"])
        .categories(&["all"])
        .subresources([Subresource::status()])
        .columns(between([
            column("Reference", Cell::Of(reference)),
            column("Targets", Cell::Of(targets)),
            column("MinPods", Cell::Of(least)),
            column("MaxPods", number_at("spec.maxReplicas")),
            column("Replicas", number_at("status.currentReplicas")),
        ]))
        .first_status(|_| json!({"desiredReplicas": 0, "currentMetrics": null}))
        .check(check);
    vec![autoscaler]
}

/// The longest time that is looked back, and the longest period of a policy, in seconds.
const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;
/// What can be measured, and the field of each.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

/// `HorizontalPodAutoscaler`.
pub(crate) fn check(autoscaler: &Field<'_>, errors: &mut Errors) {
    let spec = autoscaler.get("spec");
    let (min, max, metrics) = (spec.get("minReplicas"), spec.get("maxReplicas"), spec.get("metrics"));
    let most = max.int().unwrap_or(0);
    if min.int().is_some_and(|least| least < 1) {
        min.invalid(errors, "must be greater than or equal to 1");
    }
    if most < 1 {
        max.required(errors, "must be set and greater than 0");
    }
    if min.int().is_some_and(|least| most < least) {
        max.invalid_as(errors, most.to_string(), "must be greater than or equal to `minReplicas`");
    }
    target(&spec.get("scaleTargetRef"), errors);
    metrics.items().for_each(|one| metric(&one, errors));
    // Pods that are not there have no use of anything: only what is outside of them can start the first.
    let outside = |metric: &Field<'_>| ["Object", "External"].contains(&metric.get("type").text());
    if min.int() == Some(0) && !metrics.items().any(|metric| outside(&metric)) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        metrics.forbidden(errors, why);
    }
    for name in ["scaleUp", "scaleDown"] {
        behavior(&spec.get("behavior").get(name), errors);
    }
}

/// A thing that has a kind and a name, which are segments of a path.
fn object(object: &Field<'_>, errors: &mut Errors) {
    object.get("kind").required_text(errors, format::path_segment);
    object.get("name").required_text(errors, format::path_segment);
}

/// What is scaled: there is a group.
fn target(target: &Field<'_>, errors: &mut Errors) {
    object(target, errors);
    let version = target.get("apiVersion");
    let legacy = version.text() == "v1" && target.get("kind").text() == "ReplicationController";
    match version.text().split('/').collect::<Vec<_>>().as_slice() {
        [group, version] if !group.is_empty() && !version.is_empty() => {}
        [_] | [_, _] if legacy => {}
        [_] | [_, _] => version.invalid_text(errors, "apiVersion must specify API group"),
        _ => {
            let why = format!("unexpected GroupVersion string: {}", version.text());
            version.invalid_text(errors, why);
        }
    }
}

fn reference(autoscaler: &Value) -> Value {
    format!("{}/{}", text(autoscaler, "spec.scaleTargetRef.kind"), text(autoscaler, "spec.scaleTargetRef.name")).into()
}

fn least(autoscaler: &Value) -> Value {
    match at(autoscaler, "spec.minReplicas").and_then(Value::as_i64) {
        Some(least) => least.to_string().into(),
        None => "<unset>".into(),
    }
}

/// Of each metric what it is and what it should be.
fn targets(autoscaler: &Value) -> Value {
    let seen: Vec<&Value> = list(autoscaler, "status.currentMetrics").collect();
    let metrics = list(autoscaler, "spec.metrics").enumerate();
    let all = metrics.map(|(at, metric)| shown(metric, seen.get(at).copied().unwrap_or(&Value::Null)));
    or(&first_of(all, 2, ", "), "<none>")
}

fn shown(metric: &Value, seen: &Value) -> String {
    let kind = text(metric, "type");
    let mut field = kind.to_owned();
    field[..1].make_ascii_lowercase();
    let (metric, seen) = (&metric[&field], &seen[&field]);
    let current = |name: &str| match at(seen, &format!("current.{name}")) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "<unknown>".to_owned(),
    };
    let average = text(metric, "target.averageValue");
    match kind {
        "Resource" | "ContainerResource" => {
            let name = text(metric, "name");
            if !average.is_empty() {
                return format!("{name}: {}/{average}", current("averageValue"));
            }
            let percent = |number: String| if number.starts_with('<') { number } else { format!("{number}%") };
            let wanted = at(metric, "target.averageUtilization").and_then(Value::as_i64);
            let wanted = wanted.map_or("<auto>".to_owned(), |wanted| format!("{wanted}%"));
            format!("{name}: {}/{wanted}", percent(current("averageUtilization")))
        }
        "Pods" => format!("{}/{average}", current("averageValue")),
        _ if !average.is_empty() => format!("{}/{average} (avg)", current("averageValue")),
        "External" | "Object" => format!("{}/{}", current("value"), text(metric, "target.value")),
        _ => "<unknown type>".to_owned(),
    }
}

/// One metric: of a type, with that type's field alone.
fn metric(metric: &Field<'_>, errors: &mut Errors) {
    let kind = metric.get("type");
    let known: Vec<&str> = SOURCES.iter().map(|(kind, _)| *kind).collect();
    if kind.is_empty() {
        kind.required(errors, "must specify a metric source type");
    }
    let Some((_, own)) = SOURCES.iter().find(|(known, _)| *known == kind.text()) else {
        return kind.not_supported(errors, &known);
    };
    if !metric.get(own).is_set() {
        return metric.get(own).required(errors, "must populate information for the given metric source");
    }
    for (_, other) in SOURCES.iter().filter(|(_, other)| other != own) {
        if metric.get(other).is_set() {
            metric.get(other).forbidden(errors, "must populate the given metric source only");
        }
    }
    let source = metric.get(own);
    let (wanted, value, average) =
        (source.get("target"), source.walk(["target", "value"]), source.walk(["target", "averageValue"]));
    match kind.text() {
        "Object" => {
            object(&source.get("describedObject"), errors);
            identifier(&source.get("metric"), errors);
            target_of(&wanted, errors);
            if !value.is_set() && !average.is_set() {
                average.required(errors, "must set either a target value or averageValue");
            }
        }
        "External" => {
            identifier(&source.get("metric"), errors);
            target_of(&wanted, errors);
            match (value.is_set(), average.is_set()) {
                (false, false) => {
                    average.required(errors, "must set either a target value for metric or a per-pod target");
                }
                (true, true) => {
                    value.forbidden(errors, "may not set both a target value for metric and a per-pod target");
                }
                _ => {}
            }
        }
        "Pods" => {
            identifier(&source.get("metric"), errors);
            target_of(&wanted, errors);
            if !average.is_set() {
                average.required(errors, "must specify a positive target averageValue");
            }
        }
        kind => {
            if source.get("name").is_empty() {
                source.get("name").required(errors, "must specify a resource name");
            }
            let container = source.get("container");
            if kind == "ContainerResource" {
                match container.is_empty() {
                    true => container.required(errors, "must specify a container"),
                    false => container.faulty(errors, format::label(container.text())),
                }
            }
            target_of(&wanted, errors);
            let utilization = wanted.get("averageUtilization");
            match (utilization.is_set(), average.is_set()) {
                (false, false) => {
                    utilization.required(errors, "must set either a target raw value or a target utilization");
                }
                (true, true) => {
                    average.forbidden(errors, "may not set both a target raw value and a target utilization");
                }
                _ => {}
            }
        }
    }
}

/// Which metric; its selector is for those who measure to understand.
fn identifier(metric: &Field<'_>, errors: &mut Errors) {
    let name = metric.get("name");
    match name.is_empty() {
        true => name.required(errors, "must specify a metric name"),
        false => name.faulty(errors, format::path_segment(name.text())),
    }
}

/// What it should be.
fn target_of(target: &Field<'_>, errors: &mut Errors) {
    let kind = target.get("type");
    if kind.is_empty() {
        kind.required(errors, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind.text()) {
        kind.invalid_text(errors, "must be either Utilization, Value, or AverageValue");
    }
    for amount in [target.get("value"), target.get("averageValue")] {
        if let Some(given) = quantity(amount.value).filter(|given| given.is_zero() || given.is_negative()) {
            amount.invalid_quoted(errors, &given.to_string(), "must be positive");
        }
    }
    let utilization = target.get("averageUtilization");
    if utilization.int().is_some_and(|percent| percent < 1) {
        utilization.invalid(errors, "must be greater than 0");
    }
}

/// How fast, in one direction.
fn behavior(rules: &Field<'_>, errors: &mut Errors) {
    if !rules.is_set() {
        return;
    }
    let (window, choice, policies) =
        (rules.get("stabilizationWindowSeconds"), rules.get("selectPolicy"), rules.get("policies"));
    match window.int() {
        Some(seconds) if seconds < 0 => window.invalid(errors, "must be greater than or equal to zero"),
        Some(seconds) if seconds > MAX_WINDOW => {
            window.invalid(errors, format!("must be less than or equal to {MAX_WINDOW}"));
        }
        _ => {}
    }
    choice.optional_one_of(errors, &["Disabled", "Max", "Min"]);
    if policies.is_set() && policies.is_empty() {
        policies.required(errors, "must specify at least one Policy");
    }
    for policy in policies.items() {
        let (value, period) = (policy.get("value"), policy.get("periodSeconds"));
        policy.get("type").one_of(errors, &["Percent", "Pods"]);
        for number in [&value, &period] {
            if number.int().unwrap_or(0) <= 0 {
                number.invalid_as(errors, number.int().unwrap_or(0).to_string(), "must be greater than zero");
            }
        }
        if period.int().is_some_and(|seconds| seconds > MAX_PERIOD) {
            period.invalid(errors, format!("must be less than or equal to {MAX_PERIOD}"));
        }
    }
    let tolerance = rules.get("tolerance");
    if quantity(tolerance.value).is_some_and(|part| part.is_negative()) {
        tolerance.invalid(errors, "must be greater than or equal to 0");
    }
}
