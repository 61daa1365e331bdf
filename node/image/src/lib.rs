//! OCI and Docker images: pulled or imported, verified, and turned into one read-only EROFS disk per container image.
//!
//! ```text
//! pull ──▶ registry (hosts, credentials, retries) ─┐
//! archive (OCI, Docker) ───────────────────────────┴─▶ layer (verify, unpack) ──▶ layers ──▶ assemble ──▶ a VM's disk
//! policy (signatures) ──▶ pull                                                store: which images there are
//! ```
//!
//! Tenant data is only ever streamed: no layer is unpacked onto the host's file system. An image becomes visible
//! (in [`ImageStore::list`]) by one atomic rename after everything of it is durable.
#![forbid(unsafe_code)]

mod archive;
mod assemble;
mod charge;
mod config;
mod digest;
mod durable;
mod erofs;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod layer;
mod layers;
mod manifest;
mod policy;
mod private;
mod pull;
mod record;
mod reference;
mod registry;
mod small;
mod store;
mod tarball;
mod tree;

use std::path::PathBuf;

pub use charge::Puller;
pub use config::ImageConfig;
pub use digest::Digest;
pub use error::ImageError;
pub use pull::PullStatus;
pub use reference::{InvalidReference, Reference};
pub use registry::{Credentials, Retries};
pub use small::small;
pub use store::{Collected, ImageStore, Options};

/// One image in the store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// Digest of the image's configuration, `sha256:…`: the CRI image id.
    pub id: Digest,
    /// Normalised references with a tag, e.g. `docker.io/library/busybox:1`.
    pub tags: Vec<String>,
    /// References with a manifest digest, e.g. `docker.io/library/busybox@sha256:…`.
    pub digests: Vec<String>,
    /// Bytes on disk, those included that it shares with other images.
    pub size_bytes: u64,
    pub config: ImageConfig,
    /// The read-only root file system, padded sparsely to [`DISK_BYTES`]: a raw disk, or, if its name ends in `.vmdk`, a
    /// descriptor of the pieces that make the disk.
    pub rootfs: PathBuf,
}

/// Every image's disk has this (sparse) length, so that a VM's placeholder disk can become any of them.
pub const DISK_BYTES: u64 = 64 << 30;

/// Limits that hostile images run into. The defaults fit real images.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one image's files, unpacked, holes included.
    pub unpacked_bytes: u64,
    pub entries: usize,
    /// Bytes of one layer's paths, link targets and extended attributes, all of which are held in memory.
    pub names_bytes: u64,
    pub layers: usize,
    /// Manifests, indexes and configurations.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 60 << 30,
            entries: 1_000_000,
            names_bytes: 128 << 20,
            layers: 256,
            metadata_bytes: 4 << 20,
        }
    }
}

/// Where an import is; told to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub step: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
}
