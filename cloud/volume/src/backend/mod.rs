//! Where the bytes of volumes are: the contract that every backend keeps, tested once for all of them.

mod file;

use std::{io, path::PathBuf};

use async_trait::async_trait;
use hypernetes_api::TenantId;
use uuid::Uuid;

pub use file::FileBackend;

/// A volume as backends know it: no other tenant can have it, and it never comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeId {
    pub tenant: TenantId,
    /// `metadata.uid` of the Volume.
    pub uid: Uuid,
}

/// Makes and removes the bytes of volumes. Every call may be repeated: after a crash nobody knows whether it was done.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// As `status.driver` says it.
    fn driver(&self) -> &'static str;

    /// Makes the volume, all zeros; when it returns, the volume survives a power failure. A volume of that size that is
    /// there already is left as it is.
    ///
    /// # Errors
    /// [`BackendError::SizeDiffers`] rather than touching data that is there.
    async fn create(&self, volume: &VolumeId, size_bytes: u64) -> Result<(), BackendError>;

    /// Removes the volume and its data. One that is not there is as good as removed.
    ///
    /// # Errors
    /// When the data may still be there.
    async fn delete(&self, volume: &VolumeId) -> Result<(), BackendError>;
}

#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("there is no room for {0} bytes")]
    NoRoom(u64),
    #[error("{0} bytes are more than a volume can have")]
    TooLarge(u64),
    #[error("the volume has {is} bytes, not {wanted}")]
    SizeDiffers { is: u64, wanted: u64 },
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the backend's work was lost: {0}")]
    Lost(String),
}

impl BackendError {
    /// Whether trying again later can help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::SizeDiffers { .. })
    }

    /// What the tenant is told: nothing about the host.
    pub fn message(&self) -> String {
        match self {
            Self::Io { .. } | Self::Lost(_) => "the storage failed; the operator's log says how".into(),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(tenant: &str) -> VolumeId {
        VolumeId { tenant: tenant.parse().unwrap(), uid: Uuid::new_v4() }
    }

    /// What every backend must do.
    async fn contract(backend: &dyn Backend) {
        const SIZE: u64 = 3 << 30;
        let one = volume("acme");
        backend.create(&one, SIZE).await.unwrap();
        backend.create(&one, SIZE).await.unwrap();
        assert!(matches!(
            backend.create(&one, SIZE * 2).await,
            Err(BackendError::SizeDiffers { is: SIZE, wanted }) if wanted == SIZE * 2
        ));
        // The same uid in another tenant is another volume.
        let other = VolumeId { tenant: "globex".parse().unwrap(), ..one.clone() };
        backend.delete(&other).await.unwrap();
        backend.create(&one, SIZE).await.unwrap();
        assert!(matches!(backend.create(&volume("acme"), u64::MAX).await, Err(BackendError::TooLarge(u64::MAX))));
        // A tenant's volumes come and go at the same time, and the last one's end is in nobody's way.
        let churn = (0..16).map(|_| async {
            let passing = volume("acme");
            for _ in 0..8 {
                backend.create(&passing, 1).await.unwrap();
                backend.delete(&passing).await.unwrap();
            }
        });
        futures::future::join_all(churn).await;
        backend.delete(&one).await.unwrap();
        backend.delete(&one).await.unwrap();
        backend.create(&one, SIZE * 2).await.unwrap();
        backend.delete(&one).await.unwrap();
        let many: Vec<VolumeId> = (0..16).map(|_| volume("acme")).collect();
        for result in futures::future::join_all(many.iter().map(|v| backend.create(v, SIZE))).await {
            result.unwrap();
        }
        for result in futures::future::join_all(many.iter().map(|v| backend.delete(v))).await {
            result.unwrap();
        }
    }

    #[tokio::test]
    async fn files_keep_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        contract(&FileBackend::new(directory.path().join("volumes")).unwrap()).await;
        let left: Vec<_> = std::fs::read_dir(directory.path().join("volumes")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
