//! `PersistentVolumeClaim`, and the templates of claims in pods and stateful sets.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Map, Value, json};

use super::{
    resources,
    volume_columns::{class, shown_phase},
};
use crate::{
    columns::{self, Cell, between, column, path_or, text, wide},
    field::{ErrorKind, Errors, Field, quote, same, shown},
    format,
    resource::Resource,
    selector,
    subresource::Subresource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<PersistentVolumeClaim>("persistentvolumeclaims")
        .short_names(&["pvc"])
        .subresources([Subresource::status()])
        .columns(
            between([
                column("Status", Cell::Of(shown_phase)),
                column("Volume", path_or("spec.volumeName", "")),
                column("Capacity", Cell::Of(|o| of_bound(o, text(o, "status.capacity.storage").into()))),
                column("Access Modes", Cell::Of(|o| of_bound(o, columns::access_modes(o, "status.accessModes")))),
                column("StorageClass", Cell::Of(class)),
                column("VolumeAttributesClass", path_or("spec.volumeAttributesClassName", "<unset>")),
            ])
            .into_iter()
            .chain([wide("VolumeMode", path_or("spec.volumeMode", "<unset>"))])
            .collect(),
        )
        .defaults(data_sources)
        .first_status(|_| json!({"phase": "Pending"}))
        .check(check)
        .on_update(update)
}

pub(crate) const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub(crate) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

pub(crate) fn check(claim: &Field<'_>, errors: &mut Errors) {
    spec(&claim.get("spec"), errors);
}

/// Modes of access: at least one, all known, and the one for a single pod alone.
pub(crate) fn access_modes(modes: &Field<'_>, missing: &str, errors: &mut Errors) {
    if modes.is_empty() {
        modes.required(errors, missing);
    }
    for mode in modes.items().filter(|mode| !ACCESS_MODES.contains(&mode.text())) {
        modes.not_supported_as(errors, quote(mode.text()), ACCESS_MODES);
    }
    let known = modes.items().filter(|mode| ACCESS_MODES.contains(&mode.text()));
    let (single, others): (Vec<_>, Vec<_>) = known.partition(|mode| mode.text() == "ReadWriteOncePod");
    if !single.is_empty() && !others.is_empty() {
        modes.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The spec of a claim, or of a claim's template.
pub(crate) fn spec(spec: &Field<'_>, errors: &mut Errors) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        modes.required(errors, "at least 1 access mode is required");
    }
    selector::check(&spec.get("selector"), errors);
    if !modes.is_empty() {
        access_modes(&modes, "", errors);
    }
    let size = spec.walk(["resources", "requests"]).key("storage");
    let at = Field::at(size.value, spec.get("resources").path.key("storage"));
    match resources::quantity(size.value) {
        None => at.required(errors, ""),
        Some(size) if size.is_negative() || size.is_zero() => {
            at.invalid_quoted(errors, &size.to_string(), "must be greater than zero");
        }
        Some(_) => {}
    }
    spec.get("storageClassName").optional_text(errors, format::subdomain);
    spec.get("volumeMode").optional_one_of(errors, VOLUME_MODES);
    spec.get("volumeName").optional_text(errors, format::reference);
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for from in [&source, &reference] {
        data_source(from, errors);
    }
    reference.get("namespace").optional_text(errors, format::label);
    if source.is_set() && reference.is_set() {
        if !reference.get("namespace").is_empty() {
            spec.invalid_as(errors, "{}", "may not be specified when dataSourceRef.namespace is specified");
        } else if ["apiGroup", "kind", "name"].iter().any(|name| source.get(name).text() != reference.get(name).text())
        {
            spec.invalid_as(errors, "{}", "must match dataSourceRef");
        }
    }
    spec.get("volumeAttributesClassName").optional_text(errors, format::subdomain);
}

fn data_source(from: &Field<'_>, errors: &mut Errors) {
    if !from.is_set() {
        return;
    }
    from.get("name").not_empty(errors);
    from.get("kind").not_empty(errors);
    let (group, kind) = (from.get("apiGroup"), from.get("kind").text());
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        from.invalid_quoted(errors, kind, why);
    }
    group.optional_text(errors, format::subdomain);
}

/// The old field for what a claim is filled from and the new one tell the same. The old one knows claims and snapshots alone;
/// what else stands there is left out.
fn data_sources(claim: &mut Map<String, Value>) {
    let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let text = |source: &Value, name: &str| source.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let known = |source: &Value| {
        let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
        matches!(
            (group.as_str(), kind.as_str()),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if spec.get("dataSourceRef").is_none() && spec.get("dataSource").is_some_and(|source| !known(source)) {
        spec.remove("dataSource");
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => drop(spec.insert("dataSourceRef".into(), source)),
        (None, Some(reference)) if text(&reference, "namespace").is_empty() => {
            drop(spec.insert("dataSource".into(), reference));
        }
        _ => {}
    }
}

/// What a change of a claim may not do: it is what was asked for, but for its size.
pub(crate) fn update(claim: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    // One that is stored from before may have its source in one field alone.
    let mut stored = old.value.clone();
    if let Some(fields) = stored.as_object_mut() {
        data_sources(fields);
    }
    let old = &Field::root(&stored);
    let (spec, before) = (claim.get("spec"), old.get("spec"));
    let bound = old.walk(["status", "phase"]).text() == "Bound";
    let mut rest = spec.value.clone();
    let mut open = vec![];
    if before.get("volumeName").is_empty() {
        open.push("volumeName");
    }
    if !before.get("storageClassName").is_set() {
        open.push("storageClassName");
    }
    if bound && spec.get("volumeAttributesClassName").is_set() {
        open.push("volumeAttributesClassName");
    }
    if let Some(fields) = rest.as_object_mut() {
        for name in open {
            match before.value.get(name) {
                Some(value) => drop(fields.insert(name.to_owned(), value.clone())),
                None => drop(fields.remove(name)),
            }
        }
    }
    let size = |spec: &Field<'_>| resources::quantity(spec.walk(["resources", "requests"]).key("storage").value);
    if bound
        && let Some(asked) = rest.pointer_mut("/resources/requests/storage")
        && let Some(was) = before.value.pointer("/resources/requests/storage")
    {
        *asked = was.clone();
    }
    if !same(&rest, before.value) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
        spec.change_forbidden(errors, why);
    }
    if let (Some(new), Some(was)) = (size(&spec), size(&before))
        && new < was
    {
        let has = resources::quantity(old.walk(["status", "capacity"]).key("storage").value);
        if has.is_some_and(|has| new <= has) {
            let at = spec.walk(["resources", "requests", "storage"]);
            at.change_forbidden(errors, "field can not be less than status.capacity");
        }
    }
    let (mode, was) = (spec.get("volumeMode"), before.get("volumeMode"));
    if mode.value != was.value {
        // Upstream's path leaves `spec` out.
        let at = Field::at(mode.value, claim.path.child("volumeMode"));
        at.changed(errors, ErrorKind::Invalid, shown(mode.value), "field is immutable");
    }
    let (class, was) = (spec.get("volumeAttributesClassName"), before.get("volumeAttributesClassName"));
    if was.is_set() && class.is_empty() {
        let why = match class.value {
            Value::Null => "update from non-nil value to nil is forbidden",
            _ => "update from non-nil value to an empty string is forbidden",
        };
        class.change_forbidden(errors, why);
    }
}

/// What a claim has of its volume, once it has one.
fn of_bound(claim: &Value, shown: Value) -> Value {
    if text(claim, "spec.volumeName").is_empty() { "".into() } else { shown }
}
