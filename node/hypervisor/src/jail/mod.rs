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
mod mounts;
mod program;

use std::path::PathBuf;

use nix::mount::MsFlags;

pub use self::{
    mounts::{empty_root, lend, strip_root, take},
    program::main,
};

/// What VMMs are started with, read-only: programs, libraries, firmware.
const SYSTEM: [&str; 4] = ["/usr", "/lib", "/lib64", "/bin"];

/// How everything is mounted that is no device.
const BOUNDED: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

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
    pub view: View,
    /// It is an original that VMs are forked from ([`hypernetes_fork`]), by this library. It remains root, with what locking
    /// its copies in takes, and in the processes' namespace of its parent: copies must outlive it. No guest's program runs in
    /// it that is not part of this system.
    pub original: Option<PathBuf>,
}

/// What a VMM sees of the host, beside what it is handed open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Device files that it may open by name.
    pub devices: Vec<PathBuf>,
    pub binds: Vec<Bind>,
    /// Groups that it is in beside its own.
    pub groups: Vec<u32>,
    /// Empty files in its root, absolute, upon which something can be mounted later ([`lend`]).
    pub places: Vec<PathBuf>,
    /// The network namespace that it is in; none: an empty one of its own.
    pub netns: Option<PathBuf>,
    /// The descriptor that becomes its standard output; none: it has the jailer's.
    pub output: Option<i32>,
}

/// A file or directory of the host in the VMM's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute.
    pub target: PathBuf,
    pub writable: bool,
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
        let view = &self.view;
        view.devices.iter().for_each(|device| add("--device", device.clone().into()));
        view.groups.iter().for_each(|group| add("--supplementary", group.to_string().into()));
        view.places.iter().for_each(|place| add("--place", place.clone().into()));
        view.netns.iter().for_each(|netns| add("--netns", netns.clone().into()));
        view.output.iter().for_each(|fd| add("--output", fd.to_string().into()));
        for Bind { source, target, writable } in &view.binds {
            add(if *writable { "--bind-writable" } else { "--bind" }, source.clone().into());
            add("--at", target.clone().into());
        }
        self.original.iter().for_each(|library| add("--original", library.clone().into()));
        line.push("--".into());
        line
    }
}
