//! System calls on what lies beneath an open directory's descriptor; none of them follows a link.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use hypernetes_beneath::Links;
use rustix::{
    fs::{AtFlags, Dir, Gid, Mode, OFlags, fchmod, fchown, fstat, unlinkat},
    io::Errno,
    mount::{UnmountFlags, unmount},
};

/// Directories of a pod's own: nobody but root looks in.
pub(super) const PRIVATE: u32 = 0o700;
/// File systems that are mounted on each other.
const MAX_MOUNTS: usize = 64;

pub(super) fn beneath(directory: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    Ok(hypernetes_beneath::open(directory, path, flags | OFlags::NOFOLLOW, mode, Links::None)?)
}

/// A name of an open directory for system calls that take none.
pub(super) fn descriptor_path(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

pub(super) fn write_all(file: &OwnedFd, mut content: &[u8]) -> io::Result<()> {
    while !content.is_empty() {
        match rustix::io::write(file, content) {
            Ok(written) => content = &content[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The group first: changing it takes the set-group-id bit away.
pub(super) fn own(file: &OwnedFd, mode: u32, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        fchown(file, None, Some(Gid::from_raw(group)))?;
    }
    Ok(fchmod(file, Mode::from_raw_mode(mode))?)
}

pub(super) fn list(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// The directory without file systems in memory that are mounted on it: they go as a whole, at the latest with their last
/// descriptor.
pub(super) fn unmounted(above: &OwnedFd, name: &OsStr, mut directory: OwnedFd) -> io::Result<OwnedFd> {
    let device = fstat(above)?.st_dev;
    for _ in 0..MAX_MOUNTS {
        if fstat(&directory)?.st_dev == device {
            break;
        }
        unmount(descriptor_path(&directory), UnmountFlags::DETACH)?;
        directory = beneath(above, Path::new(name), OFlags::DIRECTORY, Mode::empty())?;
    }
    Ok(directory)
}

/// Depth is bounded by that of items: nothing but the kubelet writes here.
pub(super) fn remove(above: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(above, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM | Errno::BUSY) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = match beneath(above, Path::new(name), OFlags::DIRECTORY, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let directory = unmounted(above, name, directory)?;
    for inner in list(&directory)? {
        remove(&directory, &inner)?;
    }
    match unlinkat(above, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
