//! What a controller that makes objects of a template looks at before it makes any.
//!
//! The API refuses such specs, but what was stored before it did is still there. What a controller makes and does not
//! find again by its selector it would make again without end, and a selector of everything would take in what others
//! have made. Of a spec that would be refused today nothing is made, deleted or adopted, and its owner is told.

use k8s_openapi::{api::core::v1::PodTemplateSpec, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::Resource;
use serde::Serialize;

use crate::{refused_today, runtime::matches};

/// Of the event that says so.
pub const REASON: &str = "InvalidSpec";

/// Why nothing is made of an object's spec: what would happen to its children, then the first thing that the API says of
/// it now.
pub fn objection<K>(object: &K, selector: &LabelSelector, template: Option<&PodTemplateSpec>) -> Option<String>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    astray(selector, template).or_else(|| refused_today(object))
}

/// Why what is made would not be found again, or what others have made would be taken for it.
fn astray(selector: &LabelSelector, template: Option<&PodTemplateSpec>) -> Option<String> {
    let labels = selector.match_labels.as_ref().is_some_and(|labels| !labels.is_empty());
    let expressions = selector.match_expressions.as_ref().is_some_and(|terms| !terms.is_empty());
    if !labels && !expressions {
        return Some("spec.selector: Invalid value: {}: empty selector is invalid".into());
    }
    let template_labels =
        template.and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
    if !matches(selector, template_labels) {
        return Some(
            "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`".into(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_would_not_be_found_again_is_not_made() {
        let astray = |selector: Value, labels: Value| {
            let template: PodTemplateSpec = serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
            astray(&serde_json::from_value(selector).unwrap(), Some(&template))
        };
        assert_eq!(astray(json!({"matchLabels": {"a": "b"}}), json!({"a": "b", "c": "d"})), None);
        assert!(astray(json!({"matchLabels": {"a": "b"}}), json!({"a": "c"})).is_some());
        assert!(astray(json!({"matchLabels": {"a": "b"}}), json!(null)).is_some());
        let unknown = json!({"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]});
        assert!(astray(unknown, json!({"a": "b"})).is_some());
        for empty in [json!({}), json!({"matchLabels": {}, "matchExpressions": []})] {
            assert!(astray(empty, json!({"a": "b"})).unwrap().contains("empty selector"));
        }
    }
}
