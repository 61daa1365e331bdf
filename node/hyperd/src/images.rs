//! What hyperd needs of an image store; [`hypernetes_image::ImageStore`] is the one.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use hypernetes_image::{Collected, Credentials, Digest, Image, ImageError, ImageStore, Progress, PullStatus, Puller};
use tokio::sync::mpsc;

#[async_trait]
pub trait Images: Send + Sync + 'static {
    fn get(&self, reference_or_id: &str) -> Option<Image>;
    fn list(&self) -> Vec<Image>;
    async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        puller: &Puller,
    ) -> Result<Image, ImageError>;
    /// Whether a tenant's pods may have the image: it has pulled it, or anybody may.
    fn may_use(&self, id: &Digest, tenant: &str) -> bool;
    /// Tenants of whom it is kept what they have pulled.
    fn tenants(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
    /// Keeps nothing more of a tenant.
    async fn forget_tenant(&self, _tenant: &str) -> Result<(), ImageError> {
        Ok(())
    }
    async fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Image, ImageError>;
    async fn remove(&self, reference_or_id: &str) -> Result<(), ImageError>;
    /// Bytes and inodes.
    fn usage(&self) -> (u64, u64);

    /// The image's configuration document, for people to look at.
    fn config_document(&self, _id: &Digest) -> Option<String> {
        None
    }

    /// Whether nobody should collect it.
    fn is_pinned(&self, _image: &Image) -> bool {
        false
    }

    /// The pulls that are under way.
    fn pulls(&self) -> Vec<PullStatus> {
        Vec::new()
    }

    /// Removes images that are not in use, the longest unused first, until so many bytes are free again.
    async fn collect(
        &self,
        _bytes: u64,
        _in_use: &HashSet<Digest>,
        _min_age: Duration,
    ) -> Result<Collected, ImageError> {
        Ok(Collected::default())
    }
}

#[async_trait]
impl Images for ImageStore {
    fn get(&self, reference_or_id: &str) -> Option<Image> {
        ImageStore::get(self, reference_or_id)
    }

    fn list(&self) -> Vec<Image> {
        ImageStore::list(self)
    }

    async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        puller: &Puller,
    ) -> Result<Image, ImageError> {
        ImageStore::pull(self, reference, credentials, puller).await
    }

    fn may_use(&self, id: &Digest, tenant: &str) -> bool {
        ImageStore::may_use(self, id, tenant)
    }

    fn tenants(&self) -> BTreeSet<String> {
        self.pullers()
    }

    async fn forget_tenant(&self, tenant: &str) -> Result<(), ImageError> {
        self.forget_puller(tenant)
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

    fn config_document(&self, id: &Digest) -> Option<String> {
        ImageStore::config_document(self, id)
    }

    fn is_pinned(&self, image: &Image) -> bool {
        ImageStore::is_pinned(self, image)
    }

    fn pulls(&self) -> Vec<PullStatus> {
        ImageStore::pulls(self)
    }

    async fn collect(&self, bytes: u64, in_use: &HashSet<Digest>, min_age: Duration) -> Result<Collected, ImageError> {
        ImageStore::collect(self, bytes, in_use, min_age).await
    }
}
