//! Label selectors (`apis/meta/v1/validation`): what is wrong with one, and what it selects.

use serde_json::Value;

use crate::{
    field::{self, Errors, Field},
    format, meta,
};

/// What is wrong with a `LabelSelector`; nothing where there is none.
pub fn check(selector: &Field<'_>, errors: &mut Errors) {
    meta::labels(&selector.get("matchLabels"), errors);
    for expression in selector.get("matchExpressions").items() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden(errors, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            }
            _ => operator.invalid_text(errors, "not a valid selector operator"),
        }
        let key = expression.get("key");
        key.faulty(errors, format::qualified_name(key.text()));
        values.items().for_each(|value| value.faulty(errors, format::label_value(value.text())));
    }
}

/// How upstream prints a selector.
pub fn shown(selector: &Field<'_>) -> String {
    field::json_in_order(selector.value, &["matchLabels", "matchExpressions"])
}

/// Whether it has neither labels nor expressions, and so selects everything.
pub fn is_empty(selector: &Field<'_>) -> bool {
    selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty()
}

/// Whether upstream can make a selector of it at all.
fn parses(selector: &Field<'_>) -> bool {
    let mut errors = Errors::default();
    check(selector, &mut errors);
    errors.is_empty()
}

/// Whether labels have what the selector asks for; none where it is not a good one. No selector selects nothing.
pub fn matches(selector: &Field<'_>, labels: &Value) -> Option<bool> {
    if !selector.is_set() {
        return Some(false);
    }
    if !parses(selector) {
        return None;
    }
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let pairs = selector.get("matchLabels").entries().all(|(key, value)| label(key) == Some(value.text()));
    let expressions = selector.get("matchExpressions").items().all(|expression| {
        let has = label(expression.get("key").text());
        let listed = || expression.get("values").items().any(|value| has == Some(value.text()));
        match expression.get("operator").text() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => has.is_some(),
            _ => has.is_none(),
        }
    });
    Some(pairs && expressions)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let labels = json!({"app": "web", "tier": "front"});
        for (selector, selects) in [
            (json!({}), Some(true)),
            (json!({"matchLabels": {"app": "web"}}), Some(true)),
            (json!({"matchLabels": {"app": "db"}}), Some(false)),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}), Some(true)),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), Some(false)),
            (json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["web"]}]}), Some(true)),
            (json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]}), Some(false)),
            (json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}), Some(true)),
            (json!({"matchExpressions": [{"key": "x", "operator": "Like"}]}), None),
            (json!({"matchExpressions": [{"key": "x", "operator": "In"}]}), None),
            (json!(null), Some(false)),
        ] {
            assert_eq!(matches(&Field::root(&selector), &labels), selects, "{selector}");
        }
    }
}
