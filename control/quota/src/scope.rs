//! Which objects a quota is about: its scopes, and the selector of scopes.

use hypernetes_schema::walk::list;
use serde_json::Value;

/// One scope that an object has to be in. Those of `scopes` are as if they were selected by `Exists`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Scope {
    /// All of a quota.
    pub fn all(quota: &Value) -> Vec<Self> {
        let spec = &quota["spec"];
        let plain = list(spec, "scopes").iter();
        let plain = plain.map(|name| Self { name: text(name), operator: "Exists".into(), values: Vec::new() });
        let selected = list(&spec["scopeSelector"], "matchExpressions").iter().map(|one| Self {
            name: text(&one["scopeName"]),
            operator: text(&one["operator"]),
            values: list(one, "values").iter().map(text).collect(),
        });
        plain.chain(selected).collect()
    }

    pub fn has_pod(&self, pod: &Value) -> bool {
        let spec = &pod["spec"];
        match self.name.as_str() {
            "Terminating" => is_terminating(pod),
            "NotTerminating" => !is_terminating(pod),
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => {
                let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
                self.selects(class)
            }
            "CrossNamespacePodAffinity" => looks_into_other_namespaces(&spec["affinity"]),
            _ => false,
        }
    }

    pub fn has_claim(&self, claim: &Value) -> bool {
        let (spec, status) = (&claim["spec"], &claim["status"]);
        let named = [
            &spec["volumeAttributesClassName"],
            &status["currentVolumeAttributesClassName"],
            &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
        ];
        let mut classes = named.into_iter().filter_map(Value::as_str).filter(|class| !class.is_empty()).peekable();
        match self.name.as_str() {
            "VolumeAttributesClass" if classes.peek().is_none() => self.selects(None),
            "VolumeAttributesClass" => classes.any(|class| self.selects(Some(class))),
            _ => false,
        }
    }

    /// As a selector of labels, where none has what is asked for.
    fn selects(&self, class: Option<&str>) -> bool {
        let listed = class.is_some_and(|class| self.values.iter().any(|value| value == class));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => class.is_some(),
            "DoesNotExist" => class.is_none(),
            _ => false,
        }
    }
}

/// It ends by itself.
pub(crate) fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

/// The server says so of every pod.
fn is_best_effort(pod: &Value) -> bool {
    pod["status"]["qosClass"] == "BestEffort"
}

fn looks_into_other_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().map(|kind| &affinity[*kind]).any(|kind| {
        let required = list(kind, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = list(kind, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        let mut terms = required.chain(preferred.map(|one| &one["podAffinityTerm"]));
        terms.any(|term| !list(term, "namespaces").is_empty() || term["namespaceSelector"].is_object())
    })
}
