//! Fields and resources of a pod that it is told of, as variables and as files.

use super::resources;
use crate::{
    field::{Errors, Field},
    format,
};

/// Fields that a variable can be.
pub(crate) const OF_VARIABLES: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file can be.
pub(crate) const OF_VOLUMES: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields that are something, be they for variables, for files or for neither.
const KNOWN: &[&str] = &["spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `metadata.labels['x']` is `metadata.labels` and `x`.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// `fieldRef`: one of `allowed`, or one label or annotation.
pub(crate) fn field(reference: &Field<'_>, allowed: &[&str], errors: &mut Errors) {
    let (version, path) = (reference.get("apiVersion"), reference.get("fieldPath"));
    for field in [&version, &path] {
        if field.is_empty() {
            return field.required(errors, "");
        }
    }
    let text = path.text();
    let mut unknown = |why: String| path.invalid(errors, format!("error converting fieldPath: {why}"));
    if version.text() != "v1" {
        return unknown(format!("unsupported pod version: {}", version.text()));
    }
    if let Some((of, key)) = subscripted(text) {
        let key = match of {
            "metadata.annotations" => key.to_lowercase(),
            "metadata.labels" => key.to_owned(),
            _ => return unknown(format!("field label does not support subscript: {text}")),
        };
        let faults = format::qualified_name(&key);
        return faults.into_iter().for_each(|fault| reference.invalid_quoted(errors, &key, fault));
    }
    let text = if text == "spec.host" { "spec.nodeName" } else { text };
    if ![OF_VARIABLES, OF_VOLUMES, KNOWN].iter().any(|list| list.contains(&text)) {
        return unknown(format!("field label not supported: {text}"));
    }
    if !allowed.contains(&text) {
        path.not_supported_as(errors, crate::field::quote(text), allowed);
    }
}

/// `resourceFieldRef`; a volume's names its container.
pub(crate) fn resource(reference: &Field<'_>, of_volume: bool, errors: &mut Errors) {
    let (container, resource, divisor) =
        (reference.get("containerName"), reference.get("resource"), reference.get("divisor"));
    let name = resource.text();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if of_volume && container.is_empty() {
        container.required(errors, "");
    } else if name.is_empty() {
        resource.required(errors, "");
    } else if !RESOURCES.contains(&name) && !huge {
        resource.not_supported(errors, RESOURCES);
    }
    let Some(by) = resources::quantity(divisor.value).filter(|by| !by.is_zero()) else { return };
    let (allowed, what) = match name {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"][..], "cpu"),
        "limits.memory" | "requests.memory" => (DIVISORS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (DIVISORS, "local ephemeral storage"),
        _ if huge => (DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&by.to_string().as_str()) {
        let list = match what {
            "cpu" => "1m and 1".to_owned(),
            _ => DIVISORS.join(", "),
        };
        divisor.invalid_quoted(
            errors,
            name,
            format!("only divisor's values {list} are supported with the {what} resource"),
        );
    }
}
