//! What can be wrong with an image, its registry or its store.

use std::{io, path::PathBuf};

use crate::InvalidReference;

/// The messages begin as the kubelet's users know them; those of [`ImageError::Unavailable`] and
/// [`ImageError::Signature`] begin with the words by which the kubelet tells these errors apart.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The registry or archive has no such image.
    #[error("failed to pull image {reference:?}: {reference}: not found")]
    NotFound { reference: String },
    #[error(
        "failed to pull image {reference:?}: pull access denied, repository does not exist or may require \
         authorization: {reason}"
    )]
    Unauthorized { reference: String, reason: String },
    /// The credentials are good, and not enough.
    #[error("failed to pull image {reference:?}: the registry forbids it: {reason}")]
    Denied { reference: String, reason: String },
    #[error("failed to pull image {reference:?}: {reason}")]
    Pull { reference: String, reason: String },
    /// It cannot be reached, or answers that it is overloaded or broken. Worth another try later.
    #[error("RegistryUnavailable: failed to pull image {reference:?}: {reason}")]
    Unavailable { reference: String, reason: String },
    /// This host's image policy refuses the image.
    #[error("SignatureValidationFailed: image {reference:?}: {reason}")]
    Signature { reference: String, reason: String },
    /// The image itself is wrong: a lying digest or size, a path that escapes, a limit exceeded.
    #[error("the image is not acceptable: {0}")]
    Invalid(String),
    #[error("reading the archive {path}: {reason}")]
    Archive { path: PathBuf, reason: String },
    /// Who pulls has as much as they may.
    #[error(
        "exceeded quota: tenant, requested: imageBytes={requested}, used: imageBytes={used}, limited: imageBytes={limit}"
    )]
    Quota { requested: u64, used: u64, limit: u64 },
    #[error("no room for the image: {0}; free some space or remove unused images (crictl rmi --prune)")]
    NoSpace(String),
    /// Configuration of registries or of the image policy.
    #[error("the configuration {path}: {reason}")]
    Configuration { path: PathBuf, reason: String },
    #[error("the image store at {path}: {source}")]
    Store { path: PathBuf, source: io::Error },
}

pub(crate) fn invalid(why: impl Into<String>) -> ImageError {
    ImageError::Invalid(why.into())
}

/// A full disk is told apart from a broken one.
pub(crate) fn store_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.into();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ImageError::NoSpace(format!("{}: {source}", path.display()))
        }
        _ => ImageError::Store { path, source },
    }
}
