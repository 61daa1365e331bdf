//! The system's own kinds, whose types are in `hypernetes_api::types`.

pub(crate) mod identity;
pub(crate) mod network;
pub(crate) mod volume;

use serde_json::Value;

use crate::columns::{at, text};

/// The pod that an object is for, as a cell.
fn pod_reference(object: &Value, path: &str) -> Value {
    match at(object, path) {
        Some(pod) if pod.is_object() => format!("{}/{}", text(pod, "namespace"), text(pod, "name")).into(),
        _ => "<none>".into(),
    }
}
