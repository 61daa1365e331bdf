//! clone3(2), for what fork(2) cannot do.

use std::{fs::File, io, os::fd::AsRawFd};

use hypernetes_fork::CloneArguments;
use nix::libc;

/// Forks into new namespaces (and a control group of version 2, where moving a process into one waits for the whole
/// system). The child is one of this process's parent. Gives 0 in the child, its pid in the parent.
///
/// To be called by a process with one thread.
pub fn into_namespaces(namespaces: libc::c_int, group: Option<&File>) -> io::Result<i32> {
    let arguments = CloneArguments::new(namespaces | libc::CLONE_PARENT, group.map(AsRawFd::as_raw_fd));
    #[allow(unsafe_code)]
    // SAFETY: the kernel reads one structure of the given size, which lives until the call returns. Without CLONE_VM the child
    // has its own copy of all memory, and the caller has one thread, so the child may do whatever the parent might.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}
