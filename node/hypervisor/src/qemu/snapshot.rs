//! A VM on disk: its memory, and everything else of its machine, in two files.
//!
//! ```text
//! the pod's VM ──its memory and state──▶ a receiver ──its state──▶ state
//!   (stopped)                               │ maps, shared
//!                                           ▼
//!                                         memory ◀── maps, privately ── the pod's VM, later
//! ```
//!
//! The memory goes through a second VMM that maps the file: so it lies there as a machine has it, and resuming reads nothing
//! but what the guest touches (docs/decisions/0019).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    },
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
    unistd::Uid,
};

use super::{
    Shared, command, disks,
    launch::uid_of,
    memory, migrate,
    qmp::Qmp,
    temporary::Temporary,
    vm::{Origin, generation_file},
    words,
};
use crate::{HypervisorError, VmRecord};

/// Of the memory, when it is looked for what is empty.
const PIECE: usize = 64 << 10;

/// A complete one, open.
pub struct Snapshot {
    pub memory: OwnedFd,
    pub state: OwnedFd,
}

fn directory(shared: &Shared, id: &str) -> PathBuf {
    shared.snapshots.join(id)
}

/// Stops a VM and saves it. It stays there, stopped.
///
/// # Errors
/// `NoSpace` when the disk has no room for all of its memory. Nothing is left then of what was written.
pub async fn save(shared: &Shared, vm: &VmRecord) -> Result<(), HypervisorError> {
    let saved = write(shared, vm).await;
    if saved.is_err() {
        remove(shared, &vm.spec.id);
    }
    saved
}

async fn write(shared: &Shared, vm: &VmRecord) -> Result<(), HypervisorError> {
    let id = &vm.spec.id;
    let failed = |reason: String| HypervisorError::Hibernate { id: id.clone(), reason };
    let length = u64::from(vm.spec.memory_mib) << 20;
    let file_error = |error: io::Error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => HypervisorError::NoSpace { id: id.clone(), bytes: length },
        _ => failed(format!("writing it to {}: {error}", shared.snapshots.display())),
    };
    remove(shared, id);
    let directory = directory(shared, id);
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(file_error)?;
    let create =
        |name| OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(directory.join(name));
    let memory = create("memory").map_err(file_error)?;
    reserve(&memory, length).map_err(file_error)?;

    let receiver_id = Temporary::id();
    own(&memory, &receiver_id).map_err(file_error)?;
    let memory = OwnedFd::from(memory);
    let spec = crate::VmSpec { id: receiver_id, ..vm.spec.clone() };
    let receiver = Temporary::start(shared, spec, Origin::Receiver(&memory)).await?;
    let state = memory::create("hypernetes-snapshot-state", 0).map_err(file_error)?;
    let transfer = async {
        let mut from = Qmp::connect(&command::monitor_socket(&vm.directory)).await?;
        let mut to = receiver.0.qmp().await?;
        empty_slots(&mut from, vm).await?;
        migrate::transfer(&mut from, &mut to, migrate::patience(vm.spec.memory_mib)).await?;
        migrate::save(&mut to, state.try_clone()?).await
    };
    if let Err(error) = transfer.await {
        // A machine that cannot be brought into it ends it.
        let words = words::last(&crate::Vm::record(&receiver.0).directory);
        return Err(failed(format!("{error}{}{words}", if words.is_empty() { "" } else { ": " })));
    }
    crate::Vm::kill(&receiver.0).await?;

    let memory = File::from(memory);
    own(&memory, id).map_err(file_error)?;
    let released = tokio::task::spawn_blocking(move || release_empty(&memory, length)).await;
    released.map_err(io::Error::other).flatten().map_err(file_error)?;
    let mut file = create("state").map_err(file_error)?;
    let mut state = File::from(memory::reader(&state).map_err(file_error)?);
    io::copy(&mut state, &mut file).map_err(file_error)?;
    Ok(())
}

/// Stops a VM and takes its images out: QEMU does not migrate with disks that are put together from pieces. [`crate::Vm::go_on`]
/// puts them back; it knows by the missing file.
async fn empty_slots(qmp: &mut Qmp, vm: &VmRecord) -> Result<(), migrate::MigrateError> {
    qmp.execute("stop", serde_json::json!({})).await?;
    for (slot, source) in (0u32..).zip(&vm.disks) {
        let file = generation_file(&vm.directory, slot);
        if source.as_ref().is_some_and(|source| source.read_only)
            && let Ok(generation) = fs::read_to_string(&file)
        {
            let generation = generation.trim().parse().map_err(io::Error::other)?;
            fs::remove_file(&file)?;
            disks::detach(qmp, disks::Slot::new(vm.spec.disk_slots, slot), generation).await?;
        }
    }
    Ok(())
}

/// The snapshot of a VM.
pub fn open(shared: &Shared, id: &str) -> Result<Snapshot, HypervisorError> {
    let directory = directory(shared, id);
    let open = |name: &str, write: bool| {
        let path = directory.join(name);
        OpenOptions::new().read(true).write(write).open(&path).map(OwnedFd::from).map_err(|error| {
            HypervisorError::Resume { id: id.to_owned(), reason: format!("{}: {error}", path.display()) }
        })
    };
    Ok(Snapshot { memory: open("memory", true)?, state: open("state", false)? })
}

/// Removes a snapshot, or what there is of it. A VM that was resumed from it goes on with the file, which has no name then.
pub fn remove(shared: &Shared, id: &str) {
    let directory = directory(shared, id);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(directory = %directory.display(), %error, "a VM's snapshot was left behind");
        }
        _ => {}
    }
}

/// Removes all but the wanted.
pub fn sweep(shared: &Shared, wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(&shared.snapshots).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if !wanted(&id) {
            remove(shared, &id);
        }
    }
}

/// Has the disk keep room for the whole file: a VMM that finds none when it writes to its memory is killed.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    // Some file systems give what there is before they say that it is too little.
    let space = fstatvfs(file)?;
    if space.blocks_available().saturating_mul(space.fragment_size()) < length {
        return Err(Errno::ENOSPC.into());
    }
    file.set_len(length)?;
    match fallocate(file, FallocateFlags::empty(), 0, offset(length)?) {
        // A file system without reservations.
        Err(Errno::EOPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

/// Gives back the parts that hold nothing but zeros, most of which were reserved and never written. Where the file system
/// says that there are holes is of no use: what was read of one counts as data.
fn release_empty(file: &File, length: u64) -> io::Result<()> {
    let mut block = vec![0; PIECE];
    let zeros = vec![0; PIECE];
    let mut empty_from = None;
    for at in (0..length).step_by(PIECE) {
        let block = &mut block[..usize::try_from(length - at).unwrap_or(PIECE).min(PIECE)];
        file.read_exact_at(block, at)?;
        if *block == zeros[..block.len()] {
            empty_from.get_or_insert(at);
        } else if let Some(from) = empty_from.take() {
            punch(file, from, at)?;
        }
    }
    empty_from.map_or(Ok(()), |from| punch(file, from, length))
}

fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, hole, offset(from)?, offset(to - from)?) {
        // A file system without holes.
        Err(Errno::EOPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

fn offset(length: u64) -> io::Result<i64> {
    i64::try_from(length).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Makes the file the VM's own: QEMU opens its memory once more, as the VM's user. Nobody else's reads it.
fn own(file: &File, id: &str) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let uid = uid_of(id);
    std::os::unix::fs::fchown(file, Some(uid), Some(uid))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn room_that_is_not_needed_is_given_back() {
        let file = tempfile::tempfile().unwrap();
        let length = 16 << 20;
        reserve(&file, length).unwrap();
        file.write_all_at(b"kept", 4 << 20).unwrap();
        file.write_all_at(b"last", length - 4).unwrap();
        file.read_exact_at(&mut [0; 4096], 8 << 20).unwrap();
        release_empty(&file, length).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), length);
        assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
        for (at, text) in [(4 << 20, b"kept"), (length - 4, b"last")] {
            let mut found = [0; 4];
            file.read_exact_at(&mut found, at).unwrap();
            assert_eq!(&found, text);
        }
    }

    #[test]
    fn a_full_disk_is_seen_before_anything_is_written() {
        let file = tempfile::tempfile().unwrap();
        let error = reserve(&file, 1 << 60).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
