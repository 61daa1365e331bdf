//! `ConfigMap`: keys, which become names of files, and how much it may hold.

use k8s_openapi::api::core::v1::ConfigMap;

use crate::{
    columns::{Cell, between, column, data_count},
    field::{Errors, Field, Path},
    format,
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<ConfigMap>("configmaps")
        .short_names(&["cm"])
        .columns(between([column("Data", Cell::Of(|o| data_count(o, &["data", "binaryData"])))]))
        .check(check)
        .on_update(update)
        .change_first()
}

/// The most bytes that the values of a config map, or of a secret, have together.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// How many bytes a base64 text stands for; what is none has been refused by the schema.
pub(crate) fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(crate) fn check(map: &Field<'_>, errors: &mut Errors) {
    let (data, binary) = (map.get("data"), map.get("binaryData"));
    let mut bytes = 0;
    for (key, value) in data.entries() {
        format::config_key(key).into_iter().for_each(|fault| value.invalid_quoted(errors, key, fault));
        if binary.key(key).is_set() {
            value.invalid_quoted(errors, key, "duplicate of key present in binaryData");
        }
        bytes += value.text().len();
    }
    for (key, value) in binary.entries() {
        format::config_key(key).into_iter().for_each(|fault| value.invalid_quoted(errors, key, fault));
        bytes += decoded_length(value.text());
    }
    if bytes > MAX_BYTES {
        // The whole object is meant: its path is empty.
        Field::at(map.value, Path::default()).too_long(errors, MAX_BYTES);
    }
}

pub(crate) fn update(map: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    frozen(map, old, &["data", "binaryData"], errors);
}

/// What has been made immutable stays so, and so does what is in it.
pub(crate) fn frozen(object: &Field<'_>, old: &Field<'_>, fields: &[&'static str], errors: &mut Errors) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !old.get("immutable").is_true() {
        return;
    }
    if !object.get("immutable").is_true() {
        object.get("immutable").change_forbidden(errors, WHY);
    }
    for name in fields {
        let (new, before) = (object.get(name), old.get(name));
        if new.value != before.value && !(new.is_empty() && before.is_empty()) {
            new.change_forbidden(errors, WHY);
        }
    }
}
