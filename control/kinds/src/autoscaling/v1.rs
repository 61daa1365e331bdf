//! `autoscaling/v1`: it has fields for what pods use of their processors alone, and all else in annotations.

use hypernetes_schema::walk::child;
use serde_json::{Map, Value, json};

use crate::{
    internal::{Internal, NULL, TEXT},
    resource::Conversion,
};

pub(super) const CONVERSION: Conversion = Conversion { from_stored, to_stored };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Where a field is in `v2`, and what it is called in `v1`.
type Names = &'static [(&'static [&'static str], &'static str)];

/// What is wanted of each type of metric, by its field.
const WANTED: &[(&str, Names)] = &[
    (
        "resource",
        &[
            (&["name"], "name"),
            (&["target", "averageUtilization"], "targetAverageUtilization"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            (&["name"], "name"),
            (&["container"], "container"),
            (&["target", "averageUtilization"], "targetAverageUtilization"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
    ),
    (
        "pods",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
    ),
    (
        "object",
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "averageValue"),
        ],
    ),
    (
        "external",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
    ),
];

/// And what there is of it.
const THERE: &[(&str, Names)] = &[
    (
        "resource",
        &[
            (&["name"], "name"),
            (&["current", "averageUtilization"], "currentAverageUtilization"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            (&["name"], "name"),
            (&["container"], "container"),
            (&["current", "averageUtilization"], "currentAverageUtilization"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "pods",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "object",
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "averageValue"),
        ],
    ),
    (
        "external",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
];

/// Upstream keeps its own type in the annotation.
const RULES: Internal = Internal::Pointer(&Internal::Struct(&[
    ("stabilizationWindowSeconds", "StabilizationWindowSeconds", NULL),
    ("selectPolicy", "SelectPolicy", NULL),
    (
        "policies",
        "Policies",
        Internal::List(&Internal::Struct(&[
            ("type", "Type", TEXT),
            ("value", "Value", Internal::Plain("0")),
            ("periodSeconds", "PeriodSeconds", Internal::Plain("0")),
        ])),
    ),
    ("tolerance", "Tolerance", NULL),
]));
const BEHAVIOR_SHOWN: Internal = Internal::Struct(&[("scaleUp", "ScaleUp", RULES), ("scaleDown", "ScaleDown", RULES)]);

fn to_first(metric: &Value, table: &[(&str, Names)]) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (field, names) in table.iter().filter(|(field, _)| metric[*field].is_object()) {
        let at = |path: &[&str]| path.iter().try_fold(&metric[*field], |value, name| value.get(*name)).cloned();
        let fields: Map<String, Value> =
            names.iter().filter_map(|(path, name)| Some(((*name).to_owned(), at(path)?))).collect();
        out[*field] = fields.into();
        // The types of these have no way not to say it.
        let value = names.iter().find(|(path, _)| *field == "object" && path.last() == Some(&"value"));
        if let Some((_, name)) = value.filter(|(_, name)| out["object"].get(*name).is_none()) {
            out["object"][*name] = "0".into();
        }
    }
    out
}

fn to_second(metric: &Value, table: &[(&str, Names)]) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (field, names) in table.iter().filter(|(field, _)| metric[*field].is_object()) {
        let mut source = Map::new();
        for (path, name) in names.iter() {
            let (Some(value), [way @ .., last]) = (metric[*field].get(*name), *path) else { continue };
            let into = way.iter().fold(&mut source, |object, step| child(object, step));
            into.insert((*last).to_owned(), value.clone());
        }
        if let Some(target) = source.get_mut("target").and_then(Value::as_object_mut) {
            if target.contains_key("averageValue") && target.get("value").is_some_and(|value| value == "0") {
                target.remove("value");
            }
            let kind = match (target.contains_key("averageUtilization"), target.contains_key("value")) {
                (true, _) => "Utilization",
                (_, true) if !(*field == "object" && target.contains_key("averageValue")) => "Value",
                _ => "AverageValue",
            };
            target.insert("type".into(), kind.into());
        }
        out[*field] = source.into();
    }
    out
}

/// The percentage of processors that a metric is of, if it is of that.
fn of_processors<'v>(metric: &'v Value, what: &str) -> Option<&'v Value> {
    let of = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    of.then(|| metric["resource"][what].get("averageUtilization")).flatten()
}

fn take(object: &mut Map<String, Value>, part: &str, name: &str) -> Option<Value> {
    object.get_mut(part)?.as_object_mut()?.remove(name).filter(|value| !value.is_null())
}

fn put(object: &mut Map<String, Value>, part: &str, name: &str, value: Value) {
    if let Some(part) = object.get_mut(part).and_then(Value::as_object_mut) {
        part.insert(name.to_owned(), value);
    }
}

fn annotate(object: &mut Map<String, Value>, name: &str, text: String) {
    if object.get("metadata").is_some_and(Value::is_object) {
        child(child(object, "metadata"), "annotations").insert(name.to_owned(), text.into());
    }
}

/// What an annotation said; whatever it said, it is none of `v2`.
fn unannotate(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn from_stored(object: &mut Map<String, Value>) {
    for name in [METRICS, CURRENT, BEHAVIOR, CONDITIONS] {
        unannotate(object, name);
    }
    let list = |value: Option<Value>| value.and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let metrics = list(take(object, "spec", "metrics"));
    let current = list(take(object, "status", "currentMetrics"));
    let conditions = list(take(object, "status", "conditions"));
    if let Some(percent) = metrics.iter().find_map(|metric| of_processors(metric, "target")) {
        put(object, "spec", "targetCPUUtilizationPercentage", percent.clone());
    }
    if let Some(percent) = current.iter().find_map(|metric| of_processors(metric, "current")) {
        put(object, "status", "currentCPUUtilizationPercentage", percent.clone());
    }
    let others = metrics.iter().filter(|metric| of_processors(metric, "target").is_none());
    let others: Vec<Value> = others.map(|metric| to_first(metric, WANTED)).collect();
    let current: Vec<Value> = current.iter().map(|metric| to_first(metric, THERE)).collect();
    for (name, list) in [(METRICS, others), (CURRENT, current), (CONDITIONS, conditions)] {
        if !list.is_empty() {
            annotate(object, name, Value::from(list).to_string());
        }
    }
    // It is always said.
    if object.get("status").is_some_and(|status| status.is_object() && status.get("currentReplicas").is_none()) {
        put(object, "status", "currentReplicas", 0.into());
    }
    if let Some(behavior) = take(object, "spec", "behavior") {
        annotate(object, BEHAVIOR, BEHAVIOR_SHOWN.shown(&behavior));
    }
}

fn to_stored(object: &mut Map<String, Value>) {
    let said = |value: Option<Value>| value.and_then(|value| value.as_array().cloned());
    let others = said(unannotate(object, METRICS)).unwrap_or_default();
    let mut metrics: Vec<Value> = others.iter().map(|metric| to_second(metric, WANTED)).collect();
    if let Some(percent) = take(object, "spec", "targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !metrics.is_empty() {
        put(object, "spec", "metrics", metrics.into());
    }
    if let Some(behavior) = unannotate(object, BEHAVIOR) {
        put(object, "spec", "behavior", lowered(&behavior));
    }
    if let Some(count) = take(object, "status", "currentReplicas").filter(|count| *count != 0) {
        put(object, "status", "currentReplicas", count);
    }
    let percent = take(object, "status", "currentCPUUtilizationPercentage");
    let current =
        said(unannotate(object, CURRENT)).map(|list| list.iter().map(|metric| to_second(metric, THERE)).collect());
    let of_processors = percent.map(|percent| {
        vec![json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})]
    });
    if let Some(current) = current.or(of_processors) {
        put(object, "status", "currentMetrics", current.into());
    }
    if let Some(conditions) = said(unannotate(object, CONDITIONS)) {
        put(object, "status", "conditions", conditions.into());
    }
}

/// Names of Go's fields as they are in JSON, without what is not set.
fn lowered(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let lower = |name: &str| {
                let mut letters = name.chars();
                letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect::<String>()
            };
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| (lower(name), lowered(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(lowered).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same objects as kube-apiserver 1.36.2 gave them in both versions, without their metadata but for the annotations.
    const UPSTREAM: &str = include_str!("v1-1.36.2.jsonl");

    /// Texts of annotations as what they say.
    fn said(object: &Value) -> Value {
        let mut said = object.clone();
        for text in said["metadata"]["annotations"].as_object_mut().into_iter().flatten().map(|(_, text)| text) {
            *text = serde_json::from_str(text.as_str().unwrap()).unwrap();
        }
        said
    }

    #[test]
    fn both_versions_are_upstreams() {
        for line in UPSTREAM.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let mut first = case["v2"].clone();
            from_stored(first.as_object_mut().unwrap());
            assert_eq!(said(&first), said(&case["v1"]));
            let mut second = case["v1"].clone();
            to_stored(second.as_object_mut().unwrap());
            assert_eq!(second, case["v2"]);
        }
    }
}
