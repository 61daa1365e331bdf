//! clone3(2).

use std::ffi::c_int;

use super::system::{Result, syscall};

/// `struct clone_args`.
#[repr(C, align(8))]
#[derive(Default)]
pub struct CloneArguments {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

impl CloneArguments {
    /// Flags of clone(2), and a control group of version 2 that the child begins in.
    pub fn new(flags: c_int, group: Option<c_int>) -> Self {
        let mut arguments = Self { flags: u64::from(flags.cast_unsigned()), ..Self::default() };
        if let Some(group) = group {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = u64::from(group.cast_unsigned());
        }
        arguments
    }
}

/// Linux 5.7 and later.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// proc(5), `prctl`: where the kernel clears a thread's id when it ends; the C library keeps the id there.
pub const PR_GET_TID_ADDRESS: usize = 40;

/// Forks the calling thread into a new namespace of processes; the copy is a child of this process's parent, as any VMM. Gives 0
/// in the copy, its pid here.
pub fn fork(group: Option<c_int>) -> Result<i32> {
    let mut id_address = 0u64;
    // SAFETY: the kernel writes one word.
    unsafe { syscall!(libc::SYS_prctl, PR_GET_TID_ADDRESS, &raw mut id_address) }?;
    let flags = libc::CLONE_NEWPID | libc::CLONE_PARENT | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    let arguments = CloneArguments { child_tid: id_address, ..CloneArguments::new(flags, group) };
    // SAFETY: without CLONE_VM and with no stack given it is a fork: both go on here, each with its own memory.
    unsafe { syscall!(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) }.map(|pid| pid as i32)
}
