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
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
};

use nix::{errno::Errno, unistd::Uid};

use super::{
    Shared, command, disks, memory, migrate,
    qmp::Qmp,
    temporary::Temporary,
    vm::{Origin, generation_file},
};
use crate::{HypervisorError, VmRecord, launch::uid_of, slots::Slot, space, temporary, words};

/// A complete one, open.
pub struct Snapshot {
    pub memory: OwnedFd,
    pub state: OwnedFd,
}

/// Stops a VM and saves it. It stays there, stopped.
///
/// # Errors
/// `NoSpace` when the disk has no room for all of its memory. Nothing is left then of what was written.
pub async fn save(shared: &Shared, vm: &VmRecord) -> Result<(), HypervisorError> {
    let saved = write(shared, vm).await;
    if saved.is_err() {
        shared.saved.remove(&vm.spec.id);
    }
    saved
}

async fn write(shared: &Shared, vm: &VmRecord) -> Result<(), HypervisorError> {
    let id = &vm.spec.id;
    let failed = |reason: String| HypervisorError::Hibernate { id: id.clone(), reason };
    let length = u64::from(vm.spec.memory_mib) << 20;
    let file_error = |error: io::Error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => HypervisorError::NoSpace { id: id.clone(), bytes: length },
        _ => failed(format!("writing it to {}: {error}", shared.saved.root().display())),
    };
    shared.saved.remove(id);
    let directory = shared.saved.directory(id);
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(file_error)?;
    let create =
        |name| OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(directory.join(name));
    let memory = create("memory").map_err(file_error)?;
    space::reserve(&memory, length).map_err(file_error)?;

    let receiver_id = temporary::id();
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
    let released = tokio::task::spawn_blocking(move || space::release_empty(&memory, length)).await;
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
            disks::detach(qmp, Slot::new(vm.spec.disk_slots, slot), generation).await?;
        }
    }
    Ok(())
}

/// The snapshot of a VM.
pub fn open(shared: &Shared, id: &str) -> Result<Snapshot, HypervisorError> {
    let directory = shared.saved.directory(id);
    let open = |name: &str, write: bool| {
        let path = directory.join(name);
        OpenOptions::new().read(true).write(write).open(&path).map(OwnedFd::from).map_err(|error| {
            HypervisorError::Resume { id: id.to_owned(), reason: format!("{}: {error}", path.display()) }
        })
    };
    Ok(Snapshot { memory: open("memory", true)?, state: open("state", false)? })
}

/// Makes the file the VM's own: QEMU opens its memory once more, as the VM's user. Nobody else's reads it.
fn own(file: &File, id: &str) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let uid = uid_of(id);
    std::os::unix::fs::fchown(file, Some(uid), Some(uid))
}
