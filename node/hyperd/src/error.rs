//! What can go wrong, and the gRPC code that each becomes.

use std::path::PathBuf;

use hypernetes_hypervisor::HypervisorError;
use hypernetes_image::ImageError;
use tonic::{Code, Status};

use crate::{agent::AgentError, cni::CniError};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    #[error("{0}")]
    AlreadyExists(String),
    #[error("{0}")]
    InvalidArgument(String),
    /// What was asked for cannot be done in this state or is against the rules of this runtime.
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("{0} is not supported by this runtime yet")]
    Unimplemented(&'static str),
    #[error("{what} did not end within {seconds} s")]
    Timeout { what: &'static str, seconds: u64 },
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error("setting up the pod's network: {0}")]
    Network(#[from] CniError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("{operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// Names no path of the host: tenants read it.
    #[error("preparing a volume: {reason}")]
    Volume { reason: String },
    /// Too much of something at once.
    #[error("{0}")]
    Exhausted(String),
}

impl Error {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::File { source, .. } if is_full(&source) => {
                Self::resource_exhausted(format!("{message}: make room on the disk that hyperd's directory is on"))
            }
            Error::Image(error) => Self::new(image_code(&error), message),
            Error::NotFound { .. } => Self::not_found(message),
            Error::AlreadyExists(_) => Self::already_exists(message),
            Error::InvalidArgument(_) => Self::invalid_argument(message),
            Error::FailedPrecondition(_) | Error::Volume { .. } => Self::failed_precondition(message),
            Error::Unimplemented(_) => Self::unimplemented(message),
            Error::Timeout { .. } | Error::Agent(AgentError::Timeout { .. }) => Self::deadline_exceeded(message),
            Error::Hypervisor(HypervisorError::Unsupported(_)) => Self::unimplemented(message),
            Error::Hypervisor(
                HypervisorError::NoFreeSlot { .. } | HypervisorError::NoSpace { .. } | HypervisorError::DiskFull { .. },
            )
            | Error::Exhausted(_) => Self::resource_exhausted(message),
            Error::Network(CniError::Pod(_)) => Self::failed_precondition(message),
            Error::Network(CniError::Timeout { .. }) => Self::deadline_exceeded(message),
            Error::Network(CniError::Missing { .. } | CniError::Config { .. }) => Self::failed_precondition(message),
            Error::Network(error) if error.is_temporary() => Self::unavailable(message),
            Error::Agent(AgentError::Unreachable { .. }) => Self::unavailable(message),
            _ => Self::unknown(message),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// The kubelet goes by the message's first word (see [`ImageError`]); others go by the code.
fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::Reference(_) | ImageError::Archive { .. } => Code::InvalidArgument,
        ImageError::NotFound { .. } => Code::NotFound,
        ImageError::Unauthorized { .. } => Code::Unauthenticated,
        ImageError::Denied { .. } | ImageError::Signature { .. } => Code::PermissionDenied,
        ImageError::Unavailable { .. } => Code::Unavailable,
        ImageError::NoSpace(_) | ImageError::Quota { .. } => Code::ResourceExhausted,
        ImageError::Invalid(_) | ImageError::Configuration { .. } => Code::FailedPrecondition,
        ImageError::Store { .. } => Code::Internal,
        ImageError::Pull { .. } => Code::Unknown,
    }
}
