//! Volumes as sparse files, `<directory>/<tenant>/<uid>.raw`, for root alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use hypernetes_api::TenantId;

use super::{Backend, BackendError, VolumeId};

/// Files cannot be longer (`off_t`).
const MAX_BYTES: u64 = i64::MAX as u64;
const ATTEMPTS: usize = 16;

/// See the module.
pub struct FileBackend {
    directory: PathBuf,
}

impl FileBackend {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// [`BackendError::Io`]
    pub fn new(directory: PathBuf) -> Result<Self, BackendError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|source| BackendError::Io { operation: "making", path: directory.clone(), source })?;
        Ok(Self { directory })
    }

    /// The file of a volume: also what a node of this machine attaches.
    pub fn path(&self, volume: &VolumeId) -> PathBuf {
        self.tenant_directory(&volume.tenant).join(format!("{}.raw", volume.uid))
    }

    /// A tenant's id is a DNS label, and so a plain file name.
    fn tenant_directory(&self, tenant: &TenantId) -> PathBuf {
        self.directory.join(tenant.as_str())
    }
}

#[async_trait]
impl Backend for FileBackend {
    fn driver(&self) -> &'static str {
        "file"
    }

    async fn create(&self, volume: &VolumeId, size_bytes: u64) -> Result<(), BackendError> {
        if size_bytes > MAX_BYTES {
            return Err(BackendError::TooLarge(size_bytes));
        }
        let path = self.path(volume);
        blocking(move || create(&path, size_bytes)).await
    }

    async fn delete(&self, volume: &VolumeId) -> Result<(), BackendError> {
        let path = self.path(volume);
        blocking(move || delete(&path)).await
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), BackendError> + Send + 'static) -> Result<(), BackendError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| BackendError::Lost(error.to_string()))?
}

fn failed(operation: &'static str, path: &Path, size: u64) -> impl FnOnce(io::Error) -> BackendError {
    let path = path.to_owned();
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => BackendError::NoRoom(size),
        ErrorKind::FileTooLarge => BackendError::TooLarge(size),
        _ => BackendError::Io { operation, path, source },
    }
}

fn create(path: &Path, size: u64) -> Result<(), BackendError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == size => return Ok(()),
        Ok(metadata) => return Err(BackendError::SizeDiffers { is: metadata.len(), wanted: size }),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("looking at", path, size)(error)),
    }
    // The end of the tenant's last volume may take the directory away just when another is about to be made in it.
    for _ in 0..ATTEMPTS {
        match create_in_directory(path, size) {
            Err(BackendError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
    }
    create_in_directory(path, size)
}

fn create_in_directory(path: &Path, size: u64) -> Result<(), BackendError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => sync_directory(directory.parent().unwrap_or(Path::new("/")))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("making", directory, size)(error)),
    }
    // Under another name until it has its size: a crash leaves no volume that is too short.
    let unfinished = path.with_extension("new");
    let made = make(&unfinished, size).and_then(|()| {
        fs::rename(&unfinished, path).map_err(failed("naming", path, size))?;
        sync_directory(directory)
    });
    if made.is_err() {
        let _ = fs::remove_file(&unfinished);
        let _ = fs::remove_dir(directory);
    }
    made
}

fn make(path: &Path, size: u64) -> Result<(), BackendError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(failed("making", path, size))?;
    file.set_len(size).map_err(failed("sizing", path, size))?;
    file.sync_all().map_err(failed("writing", path, size))
}

fn delete(path: &Path) -> Result<(), BackendError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    for path in [path, &path.with_extension("new")] {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("removing", path, 0)(error)),
        }
    }
    match sync_directory(directory) {
        Err(BackendError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    // The tenant's last volume takes the tenant's directory with it; any other leaves it, because it is not empty.
    let _ = fs::remove_dir(directory);
    Ok(())
}

/// Makes the names in a directory durable.
fn sync_directory(directory: &Path) -> Result<(), BackendError> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(failed("writing", directory, 0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn files_are_sparse_and_for_root_alone() {
        let directory = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(directory.path().to_owned()).unwrap();
        let volume = VolumeId { tenant: "acme".parse().unwrap(), uid: Uuid::new_v4() };
        backend.create(&volume, 5 << 30).await.unwrap();
        let metadata = fs::metadata(backend.path(&volume)).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (5 << 30, 0o600));
        assert!(metadata.blocks() < 128, "{} blocks", metadata.blocks());
        assert_eq!(fs::metadata(directory.path().join("acme")).unwrap().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_crash_in_the_middle_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(directory.path().to_owned()).unwrap();
        let volume = VolumeId { tenant: "acme".parse().unwrap(), uid: Uuid::new_v4() };
        let path = backend.path(&volume);
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(path.with_extension("new"), "half").unwrap();
        backend.create(&volume, 4096).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![0; 4096]);
        assert!(!path.with_extension("new").exists());
    }

    #[tokio::test]
    async fn data_that_is_there_is_never_touched() {
        let directory = tempfile::tempdir().unwrap();
        let backend = FileBackend::new(directory.path().to_owned()).unwrap();
        let volume = VolumeId { tenant: "acme".parse().unwrap(), uid: Uuid::new_v4() };
        backend.create(&volume, 4).await.unwrap();
        fs::write(backend.path(&volume), "data").unwrap();
        backend.create(&volume, 4).await.unwrap();
        assert!(backend.create(&volume, 5).await.is_err());
        assert_eq!(fs::read(backend.path(&volume)).unwrap(), b"data");
    }
}
