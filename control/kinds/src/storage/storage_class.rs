//! `StorageClass`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use crate::{
    columns::{Cell, age, boolean, column, path_or, text},
    field::{Errors, Field},
    format,
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<StorageClass>("storageclasses")
        .short_names(&["sc"])
        .columns(vec![
            column("Name", Cell::Of(class_name)),
            column("Provisioner", path_or("provisioner", "")),
            column("ReclaimPolicy", path_or("reclaimPolicy", "Delete")),
            column("VolumeBindingMode", path_or("volumeBindingMode", "Immediate")),
            boolean("AllowVolumeExpansion", "allowVolumeExpansion").kind("string"),
            age(),
        ])
        .check(check)
        .immutable(&[&["parameters"], &["provisioner"], &["reclaimPolicy"], &["volumeBindingMode"]])
}

/// The most parameters, and the most bytes that they have together with their keys.
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

fn check(class: &Field<'_>, errors: &mut Errors) {
    provisioner(&class.get("provisioner"), errors);
    parameters(&class.get("parameters"), errors);
    class.get("reclaimPolicy").optional_one_of(errors, &["Delete", "Retain"]);
    class.get("volumeBindingMode").optional_one_of(errors, &["Immediate", "WaitForFirstConsumer"]);
    topologies(&class.get("allowedTopologies"), errors);
}

/// The name of a driver that makes volumes.
pub(super) fn provisioner(name: &Field<'_>, errors: &mut Errors) {
    match name.is_empty() {
        true => name.required(errors, ""),
        false => name.faulty(errors, format::qualified_name(&name.text().to_lowercase())),
    }
}

/// What a driver is told.
pub(super) fn parameters(parameters: &Field<'_>, errors: &mut Errors) {
    if parameters.len() > MAX_PARAMETERS {
        return parameters.too_long(errors, MAX_PARAMETERS);
    }
    let mut bytes = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            parameters.invalid_quoted(errors, key, "field can not be empty.");
        }
        bytes += key.len() + value.text().len();
    }
    if bytes > MAX_PARAMETER_BYTES {
        parameters.too_long(errors, MAX_PARAMETER_BYTES);
    }
}

/// `allowedTopologies`: each says something, and something else than those before it.
fn topologies(list: &Field<'_>, errors: &mut Errors) {
    let mut terms = HashSet::new();
    for term in list.items() {
        let expressions = term.get("matchLabelExpressions");
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            values.not_empty(errors);
            let mut seen = BTreeSet::new();
            for value in values.items() {
                if !seen.insert(value.text()) {
                    value.duplicate(errors);
                }
            }
            key.faulty(errors, format::qualified_name(key.text()));
            if keys.insert(key.text(), seen).is_some() {
                key.duplicate(errors);
            }
        }
        if keys.is_empty() || !terms.insert(keys) {
            expressions.duplicate_as(errors, "\"\"");
        }
    }
}

fn class_name(class: &Value) -> Value {
    let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    let name = text(class, "metadata.name");
    if default { format!("{name} (default)").into() } else { name.into() }
}
