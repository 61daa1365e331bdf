//! Upstream's rules for objects (`apimachinery/pkg/api/validation`), in its words. What is here is what every kind has:
//! names, labels, immutable metadata. The rules of single kinds come one by one.

use hypernetes_api::{ApiError, error::Cause};
use serde_json::Value;

use crate::ObjectType;

/// One field's error: a cause of an `Invalid` status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError(pub Cause);

impl FieldError {
    fn new(reason: &str, field: &str, message: String) -> Self {
        Self(Cause { reason: reason.into(), message, field: field.into() })
    }

    fn required(field: &str, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self::new("FieldValueRequired", field, message)
    }

    fn invalid(field: &str, value: &str, detail: &str) -> Self {
        let shown: String = value.chars().take(300).collect();
        Self::new("FieldValueInvalid", field, format!("Invalid value: {shown:?}: {detail}"))
    }
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What a kind's names may look like.
enum Names {
    Subdomain,
    Label,
    /// Anything that can stand in a path: roles are called `system:…`.
    PathSegment,
}

fn names_of(ty: &ObjectType) -> Names {
    match (ty.group.as_str(), ty.kind.as_str()) {
        ("", "Namespace" | "Service") => Names::Label,
        ("rbac.authorization.k8s.io", _) => Names::PathSegment,
        _ => Names::Subdomain,
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(inner)
        && bytes.last().copied().is_some_and(inner)
        && bytes.iter().all(|b| inner(*b) || *b == b'-')
}

/// One word of labels' keys and values.
fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn check_name(names: &Names, name: &str, field: &str, errors: &mut Vec<FieldError>) {
    let mut say = |detail: &str| errors.push(FieldError::invalid(field, name, detail));
    match names {
        Names::PathSegment => {
            if name == "." || name == ".." {
                say(&format!("may not be '{name}'"));
            }
            for bad in ['/', '%'] {
                if name.contains(bad) {
                    say(&format!("may not contain '{bad}'"));
                }
            }
            if name.len() > 253 {
                say("must be no more than 253 bytes");
            }
        }
        Names::Label => {
            if name.len() > 63 {
                say("must be no more than 63 bytes");
            }
            if !is_label(name) {
                say(LABEL);
            }
        }
        Names::Subdomain => {
            if name.len() > 253 {
                say("must be no more than 253 bytes");
            }
            if !name.split('.').all(is_label) {
                say(SUBDOMAIN);
            }
        }
    }
}

fn check_key(key: &str, field: &str, errors: &mut Vec<FieldError>) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && (prefix.len() > 253 || !prefix.split('.').all(is_label))
    {
        errors.push(FieldError::invalid(field, key, &format!("prefix part {SUBDOMAIN}")));
    }
    if name.is_empty() {
        errors.push(FieldError::invalid(field, key, "name part must be non-empty"));
    } else if name.len() > 63 {
        errors.push(FieldError::invalid(field, key, "name part must be no more than 63 bytes"));
    }
    if !is_qualified_part(name) {
        errors.push(FieldError::invalid(field, key, QUALIFIED_NAME));
    }
}

fn check_metadata(ty: &ObjectType, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    let names = names_of(ty);
    match text("name") {
        "" => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        name => check_name(&names, name, "metadata.name", &mut errors),
    }
    if ty.namespaced {
        match text("namespace") {
            "" => errors.push(FieldError::required("metadata.namespace", "")),
            namespace => check_name(&Names::Label, namespace, "metadata.namespace", &mut errors),
        }
    } else if !text("namespace").is_empty() {
        let message = "Forbidden: not allowed on this type".to_owned();
        errors.push(FieldError::new("FieldValueForbidden", "metadata.namespace", message));
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        check_key(key, "metadata.labels", &mut errors);
        let value = value.as_str().unwrap_or_default();
        if value.len() > 63 {
            errors.push(FieldError::invalid("metadata.labels", value, "must be no more than 63 bytes"));
        }
        if !value.is_empty() && !is_qualified_part(value) {
            errors.push(FieldError::invalid("metadata.labels", value, LABEL_VALUE));
        }
    }
    let mut bytes = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        check_key(&key.to_lowercase(), "metadata.annotations", &mut errors);
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > MAX_ANNOTATIONS {
        let message = format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes");
        errors.push(FieldError::new("FieldValueTooLong", "metadata.annotations", message));
    }
    errors
}

/// Fields that an update does not change, where the old object has them.
fn check_kept(object: &Value, old: &Value) -> Vec<FieldError> {
    ["name", "namespace", "uid", "creationTimestamp"]
        .iter()
        .filter(|field| !old["metadata"][**field].is_null() && old["metadata"][**field] != object["metadata"][**field])
        .map(|field| {
            let value = object["metadata"][*field].as_str().unwrap_or_default().to_owned();
            FieldError::invalid(&format!("metadata.{field}"), &value, "field is immutable")
        })
        .collect()
}

/// Fields of single kinds that are for life: kind, path.
const IMMUTABLE: &[(&str, &str, &str)] = &[
    ("apps", "Deployment", "spec.selector"),
    ("apps", "ReplicaSet", "spec.selector"),
    ("apps", "DaemonSet", "spec.selector"),
    ("batch", "Job", "spec.selector"),
    ("rbac.authorization.k8s.io", "RoleBinding", "roleRef"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", "roleRef"),
    ("storage.k8s.io", "StorageClass", "provisioner"),
    ("", "Secret", "type"),
    ("network.hypernetes.io", "Subnet", "spec.network"),
    ("network.hypernetes.io", "Subnet", "spec.cidr"),
    ("volume.hypernetes.io", "Attachment", "spec.volume"),
];

pub(crate) fn create(ty: &ObjectType, object: &Value) -> Vec<FieldError> {
    check_metadata(ty, object)
}

pub(crate) fn update(ty: &ObjectType, object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = check_metadata(ty, object);
    errors.extend(check_kept(object, old));
    let at = |value: &Value, path: &str| path.split('.').fold(value, |v, name| &v[name]).clone();
    for (group, kind, path) in IMMUTABLE {
        if ty.group == *group && ty.kind == *kind && at(object, path) != at(old, path) {
            errors.push(FieldError::invalid(path, &at(object, path).to_string(), "field is immutable"));
        }
    }
    errors
}

pub(crate) fn status_update(ty: &ObjectType, object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = check_metadata(ty, object);
    errors.extend(check_kept(object, old));
    errors
}

pub(crate) fn into_result(ty: &ObjectType, name: &str, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&ty.group, &ty.kind, name, errors.into_iter().map(|error| error.0).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(kind: (&str, &str, &str), metadata: Value) -> Vec<String> {
        let ty = ObjectType::builtin(kind.0, kind.1, kind.2).unwrap();
        create(&ty, &json!({"metadata": metadata}))
            .into_iter()
            .map(|e| format!("{}: {}", e.0.field, e.0.message))
            .collect()
    }

    #[test]
    fn names_are_what_paths_and_stores_can_hold() {
        let map = ("", "v1", "ConfigMap");
        let named = |name: &str| errors(map, json!({"name": name, "namespace": "default"}));
        for good in ["a", "a.b", "kube-root-ca.crt", &"a".repeat(253)] {
            assert_eq!(named(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["", "A", "a/b", "../x", "..", "-a", "a_b", "a\u{0}", "é", &"a".repeat(254)] {
            assert_eq!(named(bad).len(), 1, "{bad}");
        }
        assert_eq!(named("")[0], "metadata.name: Required value: name or generateName is required");
        assert!(errors(("", "v1", "Namespace"), json!({"name": "a.b"}))[0].contains("RFC 1123 label"));
        let role = ("rbac.authorization.k8s.io", "v1", "ClusterRole");
        assert!(errors(role, json!({"name": "system:node"})).is_empty());
        assert_eq!(
            errors(role, json!({"name": "a/b"})),
            ["metadata.name: Invalid value: \"a/b\": may not contain '/'"]
        );
    }

    #[test]
    fn labels_are_words() {
        let labels = |labels: Value| errors(("", "v1", "Namespace"), json!({"name": "a", "labels": labels})).len();
        assert_eq!(labels(json!({"app.kubernetes.io/name": "Web_1", "empty": ""})), 0);
        for bad in [json!({"a b": "c"}), json!({"a": "b c"}), json!({"/a": "b"}), json!({"a": "x".repeat(64)})] {
            assert_eq!(labels(bad.clone()), 1, "{bad}");
        }
    }

    #[test]
    fn what_is_for_life_stays() {
        let ty = ObjectType::builtin("apps", "v1", "Deployment").unwrap();
        let object = |app: &str, uid: &str| json!({"metadata": {"name": "a", "namespace": "d", "uid": uid}, "spec": {"selector": {"matchLabels": {"app": app}}}});
        assert!(update(&ty, &object("a", "1"), &object("a", "1")).is_empty());
        assert_eq!(update(&ty, &object("b", "2"), &object("a", "1")).len(), 2);
    }
}
