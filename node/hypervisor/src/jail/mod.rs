//! What a VMM is locked into: namespaces of its own for mounts, processes, networks, IPC and the host's name, a root with
//! nothing in it, a user of its own, and control groups with limits.
//!
//! ```text
//! hyperd ──spawn──▶ hypernetes-vmm (joins the control groups) ──clone──▶ the VMM, process 1 of its namespaces
//!    ▲                    │ "PID", ends                                    │ builds its root, becomes its user, exec
//!    └────────────────────┴──────────── its log, if something fails ───────┘
//! ```
//!
//! Until it runs, a VMM needs its own program and libraries, and `/proc` for the descriptors that it is handed. When it has
//! started, these mounts are taken from it ([`empty_root`]): what is left is an empty directory.

mod clone;
mod inside;
mod program;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns, unshare},
};

pub use self::program::main;

/// What VMMs are started with, read-only: programs, libraries, firmware.
const SYSTEM: [&str; 4] = ["/usr", "/lib", "/lib64", "/bin"];

/// How one VMM is locked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    /// An empty directory that its root is made upon.
    pub root: PathBuf,
    pub uid: u32,
    pub gid: u32,
    /// Files that a process joins control groups by writing to: `tasks`, version 1.
    pub join: Vec<PathBuf>,
    /// A control group of version 2.
    pub group: Option<PathBuf>,
    /// Device files that it may open by name, while it starts and later.
    pub devices: Vec<PathBuf>,
    /// It is an original that VMs are forked from ([`hypernetes_fork`]), by this library. It remains root, with what locking
    /// its copies in takes, and in the processes' namespace of its parent: copies must outlive it. No guest's program runs in
    /// it that is not part of this system.
    pub original: Option<PathBuf>,
}

/// Number of the descriptor that an original is asked for copies by.
pub const FORK_SERVER_FD: i32 = 9;

impl Jail {
    /// What the program is told, in front of the VMM's own command line.
    pub fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut line = Vec::new();
        let mut add = |name: &str, value: std::ffi::OsString| line.extend([name.into(), value]);
        add("--root", self.root.clone().into());
        add("--uid", self.uid.to_string().into());
        add("--gid", self.gid.to_string().into());
        self.join.iter().for_each(|file| add("--join", file.clone().into()));
        self.group.iter().for_each(|group| add("--group", group.clone().into()));
        self.devices.iter().for_each(|device| add("--device", device.clone().into()));
        self.original.iter().for_each(|library| add("--original", library.clone().into()));
        line.push("--".into());
        line
    }
}

/// Takes from a running VMM what it was started with. What it has mapped and open, it keeps.
///
/// # Errors
/// When it has ended, or its root is not what it was made.
pub async fn empty_root(pid: i32) -> io::Result<()> {
    let (send, receive) = tokio::sync::oneshot::channel();
    // A thread that has changed its mount namespace is of no other use.
    std::thread::Builder::new().name("empty-root".into()).spawn(move || {
        let _ = send.send(empty_root_here(pid));
    })?;
    receive.await.map_err(io::Error::other)?
}

fn empty_root_here(pid: i32) -> io::Result<()> {
    let namespace = OwnedFd::from(File::open(format!("/proc/{pid}/ns/mnt"))?);
    // Root and working directory are the process's, until a thread has its own.
    unshare(CloneFlags::CLONE_FS)?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    for path in SYSTEM.iter().copied().chain(["/proc"]) {
        match umount2(Path::new(path), MntFlags::MNT_DETACH) {
            // A link to one of the others.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
