//! A VM on disk: two files that Firecracker writes, and maps and reads when it makes the VM again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::{
    Shared,
    requests::{CreateSnapshot, VmState},
    start::{self, MEMORY, STATE, patience},
    vm::recall,
};
use crate::{HypervisorError, VmRecord, jail, launch::uid_of, space};

/// Stops a VM and saves it. It stays there, stopped.
///
/// # Errors
/// `NoSpace` when the disk has no room for all of its memory. Nothing is left then of what was written.
pub async fn save(shared: &Shared, vm: &VmRecord) -> Result<(), HypervisorError> {
    shared.saved.remove(&vm.spec.id);
    let saved = write(shared, vm, &shared.saved.directory(&vm.spec.id)).await;
    if saved.is_err() {
        shared.saved.remove(&vm.spec.id);
    }
    saved
}

/// Stops a VM and writes it to files in a directory, which is made. They are the VM's user's.
pub async fn write(shared: &Shared, vm: &VmRecord, directory: &Path) -> Result<(), HypervisorError> {
    let id = &vm.spec.id;
    let failed = |reason: String| HypervisorError::Hibernate { id: id.clone(), reason };
    let length = u64::from(vm.spec.memory_mib) << 20;
    let file_error = |error: io::Error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => HypervisorError::NoSpace { id: id.clone(), bytes: length },
        _ => failed(format!("writing it to {}: {error}", directory.display())),
    };
    let process = recall(vm).ok_or_else(|| HypervisorError::Gone { id: id.clone() })?;
    fs::DirBuilder::new().mode(0o700).create(directory).map_err(file_error)?;
    let create = |name: &str| -> io::Result<File> {
        let path = directory.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        // Firecracker opens it by its name, as the VM's user. Nobody else's does.
        fchown(&file, Some(uid_of(id)), None)?;
        Ok(file)
    };
    let (memory, state) = (create("memory").map_err(file_error)?, create("state").map_err(file_error)?);
    // Firecracker begins with an empty file; at least there was room.
    space::reserve(&memory, length).map_err(file_error)?;

    let api = start::api(shared, &vm.directory);
    api.patch("/vm", &VmState { state: "Paused" }).await.map_err(|e| failed(e.to_string()))?;
    let lent = |error: io::Error| failed(format!("among the VMM's mounts: {error}"));
    let places = vec![PathBuf::from(MEMORY), PathBuf::from(STATE)];
    // What an earlier attempt may have left.
    jail::take(&process, places.clone()).await.map_err(lent)?;
    let copy = |file: &File| file.try_clone().map(OwnedFd::from).map_err(file_error);
    jail::lend(&process, vec![(copy(&memory)?, MEMORY.into()), (copy(&state)?, STATE.into())]).await.map_err(lent)?;
    let files = CreateSnapshot { snapshot_type: "Full", snapshot_path: STATE, mem_file_path: MEMORY };
    let written = api.put_within("/snapshot/create", &files, patience(shared, vm.spec.memory_mib)).await;
    jail::take(&process, places).await.map_err(lent)?;
    written.map_err(|error| {
        let text = error.to_string();
        // It has words for it, and no code.
        let full = text.contains("No space left on device") || text.contains("os error 28");
        if full { HypervisorError::NoSpace { id: id.clone(), bytes: length } } else { failed(text) }
    })?;
    let written = memory.metadata().map_err(file_error)?.len();
    if written < length {
        return Err(failed(format!("Firecracker wrote {written} bytes of a memory of {length}")));
    }
    let released = tokio::task::spawn_blocking(move || space::release_empty(&memory, length)).await;
    released.map_err(io::Error::other).flatten().map_err(file_error)
}

/// The files of a VM that is saved, with the places where Firecracker expects them.
pub fn open(shared: &Shared, id: &str) -> Result<Vec<(OwnedFd, PathBuf)>, HypervisorError> {
    let directory = shared.saved.directory(id);
    open_in(&directory).map_err(|error| HypervisorError::Resume {
        id: id.to_owned(),
        reason: format!("{}: {error}", directory.display()),
    })
}

pub fn open_in(directory: &Path) -> io::Result<Vec<(OwnedFd, PathBuf)>> {
    let open = |(name, place): (&str, &str)| Ok((File::open(directory.join(name))?.into(), PathBuf::from(place)));
    [("memory", MEMORY), ("state", STATE)].into_iter().map(open).collect()
}
