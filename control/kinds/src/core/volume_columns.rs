//! What tables of volumes and of claims have in common.

use serde_json::Value;

use crate::columns::{at, text};

/// What is being deleted says so.
pub(super) fn shown_phase(object: &Value) -> Value {
    match text(object, "metadata.deletionTimestamp") {
        "" => text(object, "status.phase").into(),
        _ => "Terminating".into(),
    }
}

/// Named by the field, or by the annotation that there was before.
pub(super) fn class(object: &Value) -> Value {
    let annotations = at(object, "metadata.annotations");
    let before = annotations.and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"));
    match before.and_then(Value::as_str) {
        Some(class) => class.into(),
        None => text(object, "spec.storageClassName").into(),
    }
}
