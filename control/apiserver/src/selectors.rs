//! Label and field selectors, as list and watch take them.

use hypernetes_api::ApiError;
use serde_json::Value;

/// What an object has to be to be shown. Parsed once for each request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTerm {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

/// Fields that can be selected by, beside `metadata.name` and `metadata.namespace`: kind, path.
const FIELDS: &[(&str, &str)] = &[
    ("Pod", "spec.nodeName"),
    ("Pod", "spec.restartPolicy"),
    ("Pod", "spec.schedulerName"),
    ("Pod", "spec.serviceAccountName"),
    ("Pod", "status.phase"),
    ("Pod", "status.podIP"),
    ("Event", "involvedObject.kind"),
    ("Event", "involvedObject.name"),
    ("Event", "involvedObject.namespace"),
    ("Event", "involvedObject.uid"),
    ("Event", "involvedObject.fieldPath"),
    ("Event", "reason"),
    ("Event", "type"),
    ("Event", "source"),
    ("Secret", "type"),
    ("Namespace", "status.phase"),
    ("Node", "spec.unschedulable"),
    ("ReplicaSet", "status.replicas"),
    ("Job", "status.successful"),
];

impl Selector {
    /// # Errors
    /// `BadRequest` for what is no selector, or a field that cannot be selected by.
    pub fn parse(kind: &str, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        self.labels.iter().all(|term| match term {
            LabelTerm::In(key, values) => label(key).is_some_and(|have| values.iter().any(|v| v == have)),
            LabelTerm::NotIn(key, values) => !label(key).is_some_and(|have| values.iter().any(|v| v == have)),
            LabelTerm::Exists(key) => label(key).is_some(),
            LabelTerm::Absent(key) => label(key).is_none(),
        }) && self.fields.iter().all(|term| {
            let value = term.path.split('.').fold(object, |value, name| &value[name]);
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            (text == term.value) == term.equal
        })
    }
}

fn bad(text: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "unable to parse requirement: {why}: {:?}",
        text.chars().take(200).collect::<String>()
    ))
}

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>, ApiError> {
    split_terms(text)?.into_iter().map(parse_label).collect()
}

/// Splits at commas that are not in parentheses.
fn split_terms(text: &str) -> Result<Vec<&str>, ApiError> {
    let (mut depth, mut start, mut terms) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        if !(0..=1).contains(&depth) {
            return Err(bad(text, "parentheses do not match"));
        }
    }
    if depth != 0 {
        return Err(bad(text, "parentheses do not match"));
    }
    terms.push(&text[start..]);
    Ok(terms.into_iter().map(str::trim).filter(|term| !term.is_empty()).collect())
}

fn parse_label(term: &str) -> Result<LabelTerm, ApiError> {
    let key_of = |text: &str| {
        let key = text.trim();
        let valid = !key.is_empty()
            && key.len() <= 317
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        if valid { Ok(key.to_owned()) } else { Err(bad(term, "invalid label key")) }
    };
    let value_of = |text: &str| {
        let value = text.trim();
        let valid = value.len() <= 63 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if valid { Ok(value.to_owned()) } else { Err(bad(term, "invalid label value")) }
    };
    if let Some(rest) = term.strip_suffix(')') {
        let (head, values) = rest.split_once('(').ok_or_else(|| bad(term, "found ')'"))?;
        let values = values.split(',').map(value_of).collect::<Result<Vec<_>, _>>()?;
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(LabelTerm::In(key_of(key)?, values)),
            (Some(key), Some("notin"), None) => Ok(LabelTerm::NotIn(key_of(key)?, values)),
            _ => Err(bad(term, "expected in or notin")),
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(LabelTerm::NotIn(key_of(key)?, vec![value_of(value)?]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(LabelTerm::In(key_of(key)?, vec![value_of(value)?]));
    }
    if let Some(key) = term.strip_prefix('!') {
        return Ok(LabelTerm::Absent(key_of(key)?));
    }
    Ok(LabelTerm::Exists(key_of(term)?))
}

fn parse_fields(kind: &str, text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    let mut terms = Vec::new();
    for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
        let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
            (path, value, false)
        } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (path, value, true)
        } else {
            return Err(ApiError::bad_request(format!("invalid field selector: {term:?}")));
        };
        let path = path.trim();
        let known = matches!(path, "metadata.name" | "metadata.namespace")
            || FIELDS.iter().any(|(of, field)| *of == kind && *field == path);
        if !known {
            return Err(ApiError::bad_request(format!("field label not supported: {path}")));
        }
        terms.push(FieldTerm { path: path.into(), value: value.trim().into(), equal });
    }
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        Selector::parse("Pod", labels, fields).unwrap().matches(&pod)
    }

    #[test]
    fn terms_are_all_met() {
        for yes in ["", "app=web", "app==web,tier", "app in (x, web)", "app notin (x),!none", "tier!=back", "none!=x"] {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in ["app=x", "none", "!app", "app in (x)", "app notin (web)", "app=web,none"] {
            assert!(!matches(no, ""), "{no}");
        }
        assert!(matches("", "spec.nodeName=n1,metadata.name!=b,status.phase=Running"));
        assert!(!matches("", "spec.nodeName=n2"));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for bad in ["a in (", "a in )", "a in ((x))", "=x", "a b", "a=b c", "a foo (x)"] {
            assert!(Selector::parse("Pod", bad, "").is_err(), "{bad}");
        }
        assert!(Selector::parse("Pod", "", "spec.nonsense=x").is_err());
        assert!(Selector::parse("Pod", "", "metadata.name").is_err());
    }
}
