//! clone3(2), for what fork(2) cannot do.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

use nix::libc;

/// `struct clone_args`.
#[repr(C, align(8))]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Linux 5.7 and later.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks into new namespaces (and a control group of version 2, where moving a process into one waits for the whole
/// system). The child is one of this process's parent. Gives 0 in the child, its pid in the parent.
///
/// To be called by a process with one thread.
pub fn into_namespaces(namespaces: libc::c_int, group: Option<&File>) -> io::Result<i32> {
    let flags = u64::from(namespaces.cast_unsigned()) | u64::from(libc::CLONE_PARENT.cast_unsigned());
    let mut arguments = Arguments { flags, ..Default::default() };
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(RawFd::from(group.as_raw_fd())).map_err(io::Error::other)?;
    }
    #[allow(unsafe_code)]
    // SAFETY: the kernel reads one structure of the given size, which lives until the call returns. Without CLONE_VM the child
    // has its own copy of all memory, and the caller has one thread, so the child may do whatever the parent might.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<Arguments>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}
