//! What every object has: names, labels, annotations, owners, finalizers (`apimachinery/pkg/api/validation`), and label
//! selectors (`apis/meta/v1/validation`).

use std::collections::HashSet;

use crate::{
    field::{self, Errors, Field},
    format,
    resource::Resource,
};

/// The most bytes that keys and values of an object's annotations may have together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The fields of an owner reference in upstream's order.
const OWNER: &[&str] = &["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];

/// `metadata` of an object of a kind, whatever it was before.
pub fn metadata(resource: &Resource, object: &Field<'_>, errors: &mut Errors) {
    let (metadata, names) = (object.get("metadata"), resource.names);
    let name = metadata.get("name");
    if name.is_empty() {
        name.required(errors, "name or generateName is required");
    } else {
        name.faulty(errors, names(name.text()));
    }
    let namespace = metadata.get("namespace");
    match (resource.ty.namespaced, namespace.is_empty()) {
        (true, true) => namespace.required(errors, ""),
        (true, false) => namespace.faulty(errors, format::label(namespace.text())),
        (false, true) => {}
        (false, false) => namespace.forbidden(errors, "not allowed on this type"),
    }
    labels(&metadata.get("labels"), errors);
    annotations(&metadata.get("annotations"), errors);
    owners(&metadata.get("ownerReferences"), errors);
    let finalizers = metadata.get("finalizers");
    finalizer_names(&finalizers, errors);
    if !resource.rules.plain_finalizers {
        finalizers.items().for_each(|item| standard_or_qualified(&item, item.text(), errors));
    }
}

/// What the name of a new object begins with.
pub fn generated_name(resource: &Resource, object: &Field<'_>, errors: &mut Errors) {
    let base = object.walk(["metadata", "generateName"]);
    if !base.is_empty() {
        // Letters are put after a dash at the end.
        let made = base.text().strip_suffix('-').map(|start| format!("{start}a"));
        base.faulty(errors, (resource.names)(made.as_deref().unwrap_or(base.text())));
    }
}

/// Labels, and what else has their keys and values.
pub fn labels(field: &Field<'_>, errors: &mut Errors) {
    for (key, value) in field.entries() {
        format::qualified_name(key).into_iter().for_each(|fault| field.invalid_quoted(errors, key, fault));
        let value = value.text();
        format::label_value(value).into_iter().for_each(|fault| field.invalid_quoted(errors, value, fault));
    }
}

/// Annotations: keys as labels have them, but for case; the sum of their lengths is bounded.
pub fn annotations(field: &Field<'_>, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in field.entries() {
        let faults = format::qualified_name(&key.to_lowercase());
        faults.into_iter().for_each(|fault| field.invalid_quoted(errors, key, fault));
        bytes += key.len() + value.text().len();
    }
    if bytes > MAX_ANNOTATIONS {
        field.too_long(errors, MAX_ANNOTATIONS);
    }
}

/// What an object that is made by a template has besides what makes it one.
pub fn template(metadata: &Field<'_>, errors: &mut Errors) {
    annotations(&metadata.get("annotations"), errors);
    labels(&metadata.get("labels"), errors);
    for (key, value) in metadata.value.as_object().into_iter().flatten() {
        // Defaulting makes an empty creation time of an object's metadata.
        if !matches!(key.as_str(), "annotations" | "labels") && !value.is_null() {
            Field::at(value, metadata.path.named(key)).forbidden(errors, "cannot be set");
        }
    }
}

fn owners(field: &Field<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in field.items() {
        // Upstream's paths here have no index.
        let at = |name: &'static str| Field::at(owner.get(name).value, field.path.child(name));
        let version = at("apiVersion");
        if version.text().is_empty() || version.text().ends_with('/') || version.text().matches('/').count() > 1 {
            version.invalid_text(errors, "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if at(name).is_empty() {
                at(name).invalid_text(errors, "must not be empty");
            }
        }
        if version.text() == "v1" && at("kind").text() == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            field.invalid_as(errors, field::json_in_order(owner.value, OWNER), why);
        }
        if owner.get("controller").is_true() {
            let this = format!("{}/{}", at("kind").text(), at("name").text());
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    field.invalid_as(errors, field::json_in_order(field.value, OWNER), why);
                }
            }
        }
    }
}

fn finalizer_names(field: &Field<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for item in field.items() {
        let name = item.text();
        format::qualified_name(name).into_iter().for_each(|fault| field.invalid_quoted(errors, name, fault));
        names.insert(name);
    }
    if names.contains("orphan") && names.contains("foregroundDeletion") {
        field.invalid(errors, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// An error, said of `field`, of a finalizer's name that has no domain and is not Kubernetes' own.
pub fn standard_or_qualified(field: &Field<'_>, name: &str, errors: &mut Errors) {
    if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
        field.invalid_quoted(errors, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// What an update of metadata may not change.
pub fn metadata_update(object: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (metadata, before) = (object.get("metadata"), old.get("metadata"));
    if before.get("deletionTimestamp").is_set() {
        let had: HashSet<&str> = before.get("finalizers").items().map(|f| f.text()).collect();
        let mut new: Vec<&str> =
            metadata.get("finalizers").items().map(|f| f.text()).filter(|f| !had.contains(f)).collect();
        new.sort_unstable();
        if !new.is_empty() {
            let quoted: Vec<String> = new.iter().map(|name| field::quote(name)).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            metadata.get("finalizers").change_forbidden(errors, why);
        }
    }
    for name in ["name", "namespace", "uid", "creationTimestamp"] {
        let was = before.get(name);
        if was.is_set() {
            metadata.get(name).kept(errors, &was);
        }
    }
}
