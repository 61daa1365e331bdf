//! A label selector as it is written in a query.

use hypernetes_schema::walk::{list, text};
use serde_json::Value;

/// By key; empty for one that selects everything.
pub(crate) fn written(selector: &Value) -> String {
    let mut terms: Vec<(&str, String)> = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        terms.push((key, format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for term in list(selector, "matchExpressions") {
        let key = text(term, "key");
        let mut values: Vec<&str> = list(term, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let among = |word: &str| format!("{key} {word} ({})", values.join(","));
        let written = match text(term, "operator") {
            "In" => among("in"),
            "NotIn" => among("notin"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key, written));
    }
    terms.sort_by_key(|(key, _)| *key);
    terms.into_iter().map(|(_, written)| written).collect::<Vec<_>>().join(",")
}
