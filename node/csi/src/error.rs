//! Why a call is refused, and the code that CSI has for it: the caller acts on the code.

use std::io;

use hypernetes_api::{TenantId, types::network::PodReference};
use tonic::Status;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Invalid(String),
    #[error("there is no volume {volume:?} in the tenant {tenant}")]
    NotFound { tenant: TenantId, volume: String },
    #[error("the volume {volume:?} is {phase}{}{message}", if message.is_empty() { "" } else { ": " })]
    NotReady { volume: String, phase: String, message: String },
    /// In upstream's words, which users search for.
    #[error("Volume is already used by pod(s) {}/{} on node {node}", pod.namespace, pod.name)]
    InUse { pod: PodReference, node: String },
    #[error("the volume {volume:?} was not attached within {seconds} s; it is waited for on")]
    Slow { volume: String, seconds: u64 },
    #[error("the attachment of the volume {0:?} was removed while it was waited for")]
    Lost(String),
    #[error("another call for this mount is under way")]
    UnderWay,
    #[error("the mount holds another volume already: {held:?}")]
    Occupied { held: String },
    #[error("the volume {volume:?} is held by the backend {driver:?}, which this node does not know")]
    UnknownBackend { volume: String, driver: String },
    #[error("{doing}: {source}")]
    Api { doing: &'static str, source: Box<kube::Error> },
    /// Without the path: its message reaches the pod's tenant.
    #[error("{doing} the mount's directory: {source}")]
    File { doing: &'static str, source: io::Error },
    #[error("the work was lost: {0}")]
    Task(tokio::task::JoinError),
}

/// Says what an API call was for.
pub(crate) trait During<T> {
    fn during(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure::Api { doing, source: Box::new(source) })
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            Failure::Invalid(_) => Self::invalid_argument(message),
            Failure::NotFound { .. } => Self::not_found(message),
            // "The volume cannot be published at several nodes": only for this, so that a caller may rely on it.
            Failure::InUse { .. } => Self::failed_precondition(message),
            Failure::Slow { .. } => Self::deadline_exceeded(message),
            Failure::UnderWay => Self::aborted(message),
            Failure::Occupied { .. } => Self::already_exists(message),
            Failure::NotReady { .. } | Failure::Lost(_) | Failure::Api { .. } => Self::unavailable(message),
            Failure::UnknownBackend { .. } | Failure::File { .. } | Failure::Task(_) => Self::internal(message),
        }
    }
}
