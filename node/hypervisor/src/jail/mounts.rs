//! What hyperd does among the mounts of a VMM that runs.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::{BOUNDED, SYSTEM};
use crate::process::Process;

/// Takes from a running VMM what it was started with. What it has mapped and open, it keeps.
///
/// # Errors
/// When it has ended, or its root is not what it was made.
pub async fn empty_root(vmm: &Process) -> io::Result<()> {
    within(vmm, take_system).await
}

fn take_system() -> io::Result<()> {
    for path in SYSTEM.iter().copied().chain(["/proc"]) {
        match umount2(Path::new(path), MntFlags::MNT_DETACH) {
            // A link to one of the others.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The same of a VMM that was given more than the system's programs: takes these paths as well, and lets what was bound to be
/// written to only be read from now on.
pub async fn strip_root(vmm: &Process, taken: Vec<PathBuf>, sealed: Vec<PathBuf>) -> io::Result<()> {
    within(vmm, move || {
        take_system()?;
        taken.iter().try_for_each(|path| umount2(path, MntFlags::MNT_DETACH))?;
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | BOUNDED;
        sealed.iter().try_for_each(|path| mount(None::<&str>, path, None::<&str>, read_only, None::<&str>))?;
        Ok(())
    })
    .await
}

/// Files and devices of the host that a VMM is to open by the names of its places: mounted there, until [`take`].
pub async fn lend(vmm: &Process, files: Vec<(OwnedFd, PathBuf)>) -> io::Result<()> {
    let copies = files.into_iter().map(|(file, place)| {
        // What the descriptor is open for does not matter: the VMM opens it anew, as its own user.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        Ok((open_tree(&file, "", flags)?, place))
    });
    let copies: Vec<(OwnedFd, PathBuf)> = copies.collect::<io::Result<_>>()?;
    within(vmm, move || {
        for (copy, place) in copies {
            move_mount(&copy, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        Ok(())
    })
    .await
}

/// Takes the files from these places again. What the VMM has open, it keeps.
pub async fn take(vmm: &Process, places: Vec<PathBuf>) -> io::Result<()> {
    within(vmm, move || {
        for place in &places {
            match umount2(place, MntFlags::MNT_DETACH) {
                // There is nothing.
                Ok(()) | Err(nix::Error::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    })
    .await
}

/// Does something among the mounts of a VMM.
async fn within(vmm: &Process, act: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let vmm = vmm.pidfd()?;
    let enter = move || {
        // Root and working directory are the process's, until a thread has its own.
        unshare(CloneFlags::CLONE_FS)?;
        Ok(setns(vmm, CloneFlags::CLONE_NEWNS)?)
    };
    // A thread that has changed its mount namespace is of no other use.
    std::thread::Builder::new().name("among-mounts".into()).spawn(move || {
        let _ = send.send(enter().and_then(|()| act()));
    })?;
    receive.await.map_err(io::Error::other)?
}
