//! What hyperd does among the mounts of a VMM that runs.

use std::{
    fs::File,
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

use super::{BOUNDED, SYSTEM, View};

/// Takes from a running VMM what it was started with. What it has mapped and open, it keeps.
///
/// # Errors
/// When it has ended, or its root is not what it was made.
pub async fn empty_root(pid: i32) -> io::Result<()> {
    within(pid, take_system).await
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

/// The same of a VMM that was given more than the system's programs: its devices and its binds are taken as well. It can
/// write to nothing then: what was bound to be written to stays, and can only be read.
pub async fn empty_view(pid: i32, view: View) -> io::Result<()> {
    within(pid, move || {
        take_system()?;
        view.devices.iter().try_for_each(|device| umount2(device.as_path(), MntFlags::MNT_DETACH))?;
        for bind in &view.binds {
            if bind.writable {
                let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | BOUNDED;
                mount(None::<&str>, &bind.target, None::<&str>, read_only, None::<&str>)?;
            } else {
                umount2(&bind.target, MntFlags::MNT_DETACH)?;
            }
        }
        Ok(())
    })
    .await
}

/// Files and devices of the host that a VMM is to open by the names of its places: mounted there, until [`take`].
pub async fn lend(pid: i32, files: Vec<(OwnedFd, PathBuf)>) -> io::Result<()> {
    let copies = files.into_iter().map(|(file, place)| {
        // What the descriptor is open for does not matter: the VMM opens it anew, as its own user.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        Ok((open_tree(&file, "", flags)?, place))
    });
    let copies: Vec<(OwnedFd, PathBuf)> = copies.collect::<io::Result<_>>()?;
    within(pid, move || {
        for (copy, place) in copies {
            move_mount(&copy, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        Ok(())
    })
    .await
}

/// Takes the files from these places again. What the VMM has open, it keeps.
pub async fn take(pid: i32, places: Vec<PathBuf>) -> io::Result<()> {
    within(pid, move || {
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
async fn within(pid: i32, act: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let enter = move || {
        let namespace = OwnedFd::from(File::open(format!("/proc/{pid}/ns/mnt"))?);
        // Root and working directory are the process's, until a thread has its own.
        unshare(CloneFlags::CLONE_FS)?;
        Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
    };
    // A thread that has changed its mount namespace is of no other use.
    std::thread::Builder::new().name("among-mounts".into()).spawn(move || {
        let _ = send.send(enter().and_then(|()| act()));
    })?;
    receive.await.map_err(io::Error::other)?
}
