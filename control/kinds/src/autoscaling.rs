//! The group `autoscaling`.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};

use crate::{
    columns::{Cell, at, between, column, first_of, list, number_at, or, text},
    field::{Errors, Field},
    format,
    resource::Resource,
    subresource::Subresource,
};

pub(crate) fn resources() -> Vec<Resource> {
    let autoscaler = Resource::kubernetes::<HorizontalPodAutoscaler>("horizontalpodautoscalers")
        .short_names(&["hpa"])
        .categories(&["all"])
        .subresources(&[Subresource::Status])
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

/// `HorizontalPodAutoscaler`.
pub(crate) fn check(autoscaler: &Field<'_>, errors: &mut Errors) {
    let spec = autoscaler.get("spec");
    let (min, max) = (spec.get("minReplicas"), spec.get("maxReplicas"));
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
}

/// What is scaled: kind and name are segments of a path, and there is a group.
fn target(target: &Field<'_>, errors: &mut Errors) {
    target.get("kind").required_text(errors, format::path_segment);
    target.get("name").required_text(errors, format::path_segment);
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
