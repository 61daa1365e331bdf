//! Why this node does not take a pod that is bound to it.

/// Why a pod is `Failed` without having run: words of its status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Rejection {
    pub reason: &'static str,
    pub message: String,
}

/// Where the specification is no pod's at all; not a reason of upstream's, whose API lets none through.
const INVALID: &str = "InvalidPod";

impl Rejection {
    /// The specification is no pod's.
    pub fn invalid(message: String) -> Self {
        Self { reason: INVALID, message }
    }

    /// The object is no pod.
    pub fn undecodable() -> Self {
        Self::invalid("the object is not a Pod".into())
    }

    pub fn predicate(reason: &'static str, why: &str) -> Self {
        Self { reason, message: format!("Predicate {reason} failed: {why}") }
    }

    pub fn short(reason: &'static str, resource: &str, requested: i64, used: i64, capacity: i64) -> Self {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Self { reason, message }
    }
}
