//! The pod's status: what it is, and how it comes to the API.

mod generate;
mod manager;

use k8s_openapi::api::core::v1::Pod;

pub use manager::StatusManager;

/// Whether a pod is over, so that nothing of it runs or will.
pub fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}
