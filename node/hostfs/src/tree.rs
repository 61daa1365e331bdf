//! What is shared: a copy of the host's mounts at one path that no namespace has, held open by a descriptor.
//!
//! The kernel enforces on it what every request relies on: no device can be opened, no program run, no link followed, and
//! nothing written where it is read-only. A copy does not learn of later mounts; who wants these gets the host's own, and the
//! server alone enforces the same.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, fstat, openat2, statx},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    No,
    /// What is mounted below it stays as it is.
    Top,
    Recursive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The mounts of now.
    Private,
    /// And what the host mounts and unmounts below it later.
    FromHost,
}

/// A shared directory or file.
#[derive(Debug)]
pub struct Tree {
    pub(crate) root: OwnedFd,
    pub(crate) directory: bool,
    /// All of it, whatever its mounts say.
    pub(crate) read_only: bool,
}

impl Tree {
    /// Opens an absolute path in which nothing is a link. Needs `CAP_SYS_ADMIN`. With the host's later mounts it is read-only
    /// as a whole or not at all.
    ///
    /// # Errors
    /// `ELOOP` when a link has come into the path, `EINVAL` when it is neither a directory nor a regular file.
    pub fn open(path: &Path, read_only: ReadOnly, propagation: Propagation) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let place = openat2(CWD, path, flags, Mode::empty(), resolve)?;
        if propagation == Propagation::FromHost {
            return Self::of(place, read_only != ReadOnly::No);
        }
        let clone = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let root = open_tree(&place, "", clone)?;
        let everywhere = libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOSYMFOLLOW
            | if read_only == ReadOnly::Recursive { libc::MOUNT_ATTR_RDONLY } else { 0 };
        set_attributes(&root, everywhere, libc::MS_PRIVATE, true)?;
        if read_only == ReadOnly::Top {
            set_attributes(&root, libc::MOUNT_ATTR_RDONLY, 0, false)?;
        }
        Self::of(root, read_only == ReadOnly::Recursive)
    }

    /// Shares what a descriptor is open on.
    pub(crate) fn of(root: OwnedFd, read_only: bool) -> io::Result<Self> {
        match FileType::from_raw_mode(fstat(&root)?.st_mode) {
            FileType::Directory => Ok(Self { root, directory: true, read_only }),
            FileType::RegularFile => Ok(Self { root, directory: false, read_only }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a directory nor a regular file")),
        }
    }

    pub fn is_directory(&self) -> bool {
        self.directory
    }
}

/// mount_setattr(2), Linux 5.14 and later for all that is asked of it.
fn set_attributes(tree: impl AsFd, set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    #[allow(unsafe_code)]
    // SAFETY: the path is a string with its end, the structure outlives the call and its size is its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the directories of an absolute path that are not there yet; in what is there nothing may be a link.
///
/// # Errors
/// As mkdir(2), and `ENOTDIR` or `ELOOP` for a link.
pub fn make_directory(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::fs::open("/", flags, Mode::empty())?;
    for name in path.components().filter(|c| matches!(c, std::path::Component::Normal(_))) {
        let name = name.as_os_str();
        match rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            // On a read-only file system it may be there all the same.
            Err(Errno::ROFS) => {}
            Err(error) => return Err(error.into()),
        }
        here = rustix::fs::openat(&here, name, flags, Mode::empty())?;
    }
    Ok(())
}

/// Whether something is mounted at a path or above it, below `outer`.
pub fn is_mounted(path: &Path, outer: &Path) -> bool {
    path.ancestors().take_while(|above| *above != outer).any(|above| {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        statx(CWD, above, flags, StatxFlags::empty()).is_ok_and(|s| {
            // Kernels since 5.8 say it.
            s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        })
    })
}
