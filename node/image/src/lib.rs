//! OCI and Docker images: pulled or imported, verified, and turned into one read-only EROFS image per container image.
//!
//! Tenant data is only ever streamed: no layer is unpacked onto the host's file system. An image becomes visible
//! (in [`ImageStore::list`]) by one atomic rename after everything of it is durable.
#![forbid(unsafe_code)]

mod archive;
mod config;
mod digest;
mod erofs;
mod layer;
mod pull;
mod reference;
mod store;
mod tree;

use std::path::PathBuf;

pub use config::ImageConfig;
pub use digest::Digest;
pub use pull::Credentials;
pub use reference::{InvalidReference, Reference};
pub use store::ImageStore;

/// One image in the store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// Digest of the image's configuration, `sha256:…`: the CRI image id.
    pub id: Digest,
    /// Normalised references with a tag, e.g. `docker.io/library/busybox:1`.
    pub tags: Vec<String>,
    /// References with a manifest digest, e.g. `docker.io/library/busybox@sha256:…`.
    pub digests: Vec<String>,
    /// Bytes of the EROFS image on disk.
    pub size_bytes: u64,
    pub config: ImageConfig,
    /// The read-only root file system, padded sparsely to [`DISK_BYTES`].
    pub rootfs: PathBuf,
}

/// Every image file has this (sparse) length, so that a VM's placeholder disk can become any of them.
pub const DISK_BYTES: u64 = 64 << 30;

/// Limits that hostile images run into. The defaults fit real images.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one image's files, unpacked.
    pub unpacked_bytes: u64,
    pub entries: usize,
    pub layers: usize,
    /// Manifests, indexes and configurations.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unpacked_bytes: 60 << 30, entries: 2_000_000, layers: 256, metadata_bytes: 4 << 20 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The registry or archive has no such image.
    #[error("{reference}: not found")]
    NotFound { reference: String },
    #[error("pulling {reference}: the registry refused the credentials: {reason}")]
    Unauthorized { reference: String, reason: String },
    #[error("pulling {reference}: {reason}")]
    Pull { reference: String, reason: String },
    /// The image itself is wrong: a lying digest or size, a path that escapes, a limit exceeded.
    #[error("the image is not acceptable: {0}")]
    Invalid(String),
    #[error("reading the archive {path}: {reason}")]
    Archive { path: PathBuf, reason: String },
    #[error("no room for the image: {0}")]
    NoSpace(String),
    #[error("the image store at {path}: {source}")]
    Store { path: PathBuf, source: std::io::Error },
}

/// Where an import is; told to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub step: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
}
