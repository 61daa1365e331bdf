//! What the new process does before it is the VMM.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        resource::{Resource, setrlimit},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, chdir, execve, pivot_root, setgid, setgroups, setsid, setuid},
};

use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::{BOUNDED, Bind, FORK_SERVER_FD, Jail, SYSTEM};

/// Descriptors: disks, sockets, events.
const MAX_FILES: u64 = 1024;

/// What an original needs to lock its copies in: namespaces, users.
const ORIGINALS: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SETUID).union(CapabilitySet::SETGID);

#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct JailError {
    what: &'static str,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError { what, source: source.into() }
}

/// Becomes the VMM.
pub fn enter(jail: &Jail, line: &[OsString]) -> Result<Infallible, JailError> {
    // By a descriptor: where it lies is not in the new root.
    let library = jail.original.as_ref().map(File::open).transpose().map_err(failed("opening the library"))?;
    // hyperd makes what is root's alone; what is made here, the VMM's user has to pass.
    umask(Mode::from_bits_truncate(0o022));
    build_root(jail).map_err(failed("making its root"))?;
    umask(Mode::from_bits_truncate(0o077));
    limit().map_err(failed("limiting what it may take"))?;
    // What the kernel sends to a session, or to a group of processes that has lost its parent, is not for it.
    setsid().map_err(failed("leaving the session"))?;
    if let Some(fd) = jail.view.output {
        output(fd).map_err(failed("its standard output"))?;
    }
    let mut environment = Vec::new();
    match &library {
        Some(library) => {
            setgroups(&[]).map_err(failed("leaving groups"))?;
            keep_only(ORIGINALS).map_err(failed("giving up capabilities"))?;
            // For the program that is executed.
            fcntl(library, FcntlArg::F_SETFD(FdFlag::empty())).map_err(failed("keeping the library"))?;
            environment.push(format!("LD_PRELOAD=/proc/self/fd/{}", library.as_raw_fd()));
            environment.push(format!("{}={FORK_SERVER_FD}", hypernetes_fork::SERVER_VARIABLE));
        }
        None => become_user(jail)?,
    }
    nix::sys::prctl::set_no_new_privs().map_err(failed("giving up new privileges"))?;
    let text = |word: &OsString| CString::new(word.as_bytes()).map_err(io::Error::other);
    let line: Vec<CString> = line.iter().map(text).collect::<io::Result<_>>().map_err(failed("its command line"))?;
    let program = line.first().ok_or(io::ErrorKind::InvalidInput).map_err(failed("its command line"))?;
    let environment: Vec<CString> =
        environment.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(failed("its environment"))?;
    execve(program, &line, &environment).map_err(failed("running the VMM"))
}

fn become_user(jail: &Jail) -> Result<(), JailError> {
    let groups: Vec<Gid> = jail.view.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(failed("leaving groups"))?;
    setgid(Gid::from_raw(jail.gid)).map_err(failed("changing the group"))?;
    // With it go all capabilities.
    setuid(Uid::from_raw(jail.uid)).map_err(failed("changing the user"))
}

/// A program that root executes has what is left in the bounding set, and no more (capabilities(7)).
fn keep_only(kept: CapabilitySet) -> rustix::io::Result<()> {
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // This kernel is older than the capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn build_root(jail: &Jail) -> io::Result<()> {
    let root = jail.root.as_path();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("root"), root, Some("tmpfs"), BOUNDED, Some("size=64k,mode=0755"))?;
    for path in SYSTEM {
        let (path, target) = (Path::new(path), root.join(path.trim_start_matches('/')));
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(path)?, &target)?,
            Ok(metadata) if metadata.is_dir() => {
                fs::create_dir(&target)?;
                bind(path, &target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
            }
            _ => {}
        }
    }
    fs::create_dir(root.join("proc"))?;
    mount(Some("proc"), &root.join("proc"), Some("proc"), BOUNDED, None::<&str>)?;
    let inside = |path: &Path| path.strip_prefix("/").map(|path| root.join(path)).map_err(io::Error::other);
    for device in &jail.view.devices {
        let target = inside(device)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(&target)?;
        bind(device, &target, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    }
    for Bind { source, target, writable } in &jail.view.binds {
        let target = inside(target)?;
        if source.is_dir() {
            fs::create_dir(&target)?;
        } else {
            fs::File::create(&target)?;
        }
        if *writable {
            mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            mount(None::<&str>, &target, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | BOUNDED, None::<&str>)?;
        } else {
            // It may be the VMM's program.
            bind(source, &target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
        }
    }
    for place in &jail.view.places {
        fs::File::create(inside(place)?)?;
    }
    mount(None::<&str>, root, None::<&str>, BOUNDED | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)?;
    chdir(root)?;
    pivot_root(".", ".")?;
    // The old root lies over the new one now.
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

fn output(fd: i32) -> io::Result<()> {
    let file = fs::File::options().read(true).write(true).open(format!("/proc/self/fd/{fd}"))?;
    Ok(nix::unistd::dup2_stdout(file)?)
}

fn bind(source: &Path, target: &Path, flags: MsFlags) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    // A device is written to whatever its mount says.
    mount(None::<&str>, target, None::<&str>, read_only | flags, None::<&str>)?;
    Ok(())
}

fn limit() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES)
}
