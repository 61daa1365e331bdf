//! Placeholder disks: an empty slot is a drive upon `/dev/null`, which has no length. A drive's file can be another while the VM
//! runs; the guest is told that its length has changed.
//!
//! Firecracker opens files by name, as its VM's user. So a file is put among its mounts, for as long as it takes to open it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown},
    },
    path::PathBuf,
};

use super::{
    Shared,
    api::{Api, ApiError},
    requests::{CacheType, Drive, DriveUpdate},
};
use crate::{DiskSource, jail, launch::uid_of, process::Process, slots};

/// What is in an empty slot.
pub const EMPTY: &str = "/dev/null";
/// The group of all VMMs, and of what they may read: what they are lent they reach, and nothing else.
pub const READERS: u32 = 0x6fff_ffff;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("among the VMM's mounts: {0}")]
    Lend(io::Error),
}

fn id(slot: u32) -> String {
    format!("slot{slot}")
}

/// Where the VMM finds a slot's file while it opens it.
pub fn place(slot: u32) -> PathBuf {
    PathBuf::from(format!("/disk{slot}"))
}

/// The empty drive that a slot begins as.
pub fn drive(slot: u32, slots: u32) -> (String, Drive) {
    let is_read_only = slot < slots::first_writable(slots);
    let cache_type = if is_read_only { CacheType::Unsafe } else { CacheType::Writeback };
    let drive =
        Drive { drive_id: id(slot), is_root_device: false, is_read_only, path_on_host: EMPTY.into(), cache_type };
    (format!("/drives/{}", id(slot)), drive)
}

/// The source, open, and such that the VM of that id may open it.
pub async fn open(shared: &Shared, vm: &str, source: &DiskSource) -> Result<OwnedFd, DiskError> {
    let (joined, uid, wanted) = (shared.joined.clone(), uid_of(vm), source.clone());
    let open = move || {
        let path = if slots::is_in_pieces(&wanted) { joined.file(&wanted.path)? } else { wanted.path };
        let file = OpenOptions::new().read(true).write(!wanted.read_only).open(path)?;
        permit(&file, uid, wanted.read_only)?;
        Ok(file.into())
    };
    let opened = tokio::task::spawn_blocking(open).await.map_err(io::Error::other).flatten();
    opened.map_err(|error| DiskError::File { path: source.path.clone(), source: error })
}

/// A volume becomes the VM's own for as long as it has it. What is only read is the VMMs' group's, for many may have it.
fn permit(file: &File, uid: u32, read_only: bool) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a block device"));
    }
    if !read_only {
        return fchown(file, Some(uid), None);
    }
    if metadata.gid() != READERS {
        fchown(file, None, Some(READERS))?;
    }
    let mode = metadata.permissions().mode();
    if mode & 0o040 == 0 {
        file.set_permissions(std::fs::Permissions::from_mode(mode | 0o040))?;
    }
    Ok(())
}

/// Takes a volume from a VM that has it no more. One that has gone is fine.
pub fn give_back(source: &DiskSource) {
    if !source.read_only
        && let Err(error) = std::os::unix::fs::chown(&source.path, Some(0), None)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(volume = %source.path.display(), %error, "a volume stays its last VM's user's");
    }
}

/// Points a slot at a file.
pub async fn attach(api: &Api, vmm: &Process, slot: u32, file: OwnedFd) -> Result<(), DiskError> {
    let place = place(slot);
    // What an earlier attempt may have left.
    jail::take(vmm, vec![place.clone()]).await.map_err(DiskError::Lend)?;
    jail::lend(vmm, vec![(file, place.clone())]).await.map_err(DiskError::Lend)?;
    let attached = point(api, slot, &place.to_string_lossy()).await;
    jail::take(vmm, vec![place]).await.map_err(DiskError::Lend)?;
    attached
}

/// Points a slot at nothing; its file is closed.
pub async fn detach(api: &Api, slot: u32) -> Result<(), DiskError> {
    point(api, slot, EMPTY).await
}

async fn point(api: &Api, slot: u32, path: &str) -> Result<(), DiskError> {
    let update = DriveUpdate { drive_id: id(slot), path_on_host: path.into() };
    Ok(api.patch(&format!("/drives/{}", id(slot)), &update).await?)
}
