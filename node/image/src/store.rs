//! The images on this host.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::{Credentials, Image, ImageError, Limits, Progress};

/// All images under one directory. Cheap to share behind an `Arc`.
pub struct ImageStore {
    directory: PathBuf,
    limits: Limits,
}

impl ImageStore {
    /// Opens or makes the store; what an interrupted import or pull left is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub async fn open(directory: PathBuf, limits: Limits) -> Result<Self, ImageError>;
    /// By id (`sha256:…` or its hex digits), or by reference (tag or digest; normalised as Docker does).
    pub fn get(&self, reference_or_id: &str) -> Option<Image>;
    pub fn list(&self) -> Vec<Image>;
    /// Pulls from a registry; concurrent pulls of one reference do the work once.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, ImageError>;
    /// Imports an OCI or Docker archive (tar), or an OCI layout directory.
    pub async fn import(&self, path: &Path, name: Option<&str>, progress: mpsc::Sender<Progress>) -> Result<Image, ImageError>;
    /// Removes a tag or, by id, the whole image. Removing what is absent does nothing.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError>;
    /// Bytes and inodes that the store uses.
    pub fn usage(&self) -> (u64, u64);
}
