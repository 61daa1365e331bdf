//! What hyperd needs of an image store; [`hypernetes_image::ImageStore`] is the one.

use std::path::Path;

use async_trait::async_trait;
use hypernetes_image::{Credentials, Image, ImageError, ImageStore, Progress};
use tokio::sync::mpsc;

#[async_trait]
pub trait Images: Send + Sync + 'static {
    fn get(&self, reference_or_id: &str) -> Option<Image>;
    fn list(&self) -> Vec<Image>;
    async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, ImageError>;
    async fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Image, ImageError>;
    async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError>;
    /// Bytes and inodes.
    fn usage(&self) -> (u64, u64);
}

#[async_trait]
impl Images for ImageStore {
    fn get(&self, reference_or_id: &str) -> Option<Image> {
        ImageStore::get(self, reference_or_id)
    }

    fn list(&self) -> Vec<Image> {
        ImageStore::list(self)
    }

    async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, ImageError> {
        ImageStore::pull(self, reference, credentials).await
    }

    async fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        ImageStore::import(self, path, name, progress).await
    }

    async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError> {
        ImageStore::remove(self, reference_or_id).await
    }

    fn usage(&self) -> (u64, u64) {
        ImageStore::usage(self)
    }
}
