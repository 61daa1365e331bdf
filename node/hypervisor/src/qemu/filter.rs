//! What a forked VMM may ask the kernel for.
//!
//! QEMU's own filter (`-sandbox`) names what is forbidden, and is there from its start, when more is needed than later: an
//! original could not fork with it. This one names what a QEMU that runs already, with the devices that ours have, does.
//! Everything else is as if the kernel did not have it.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Operator, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule, TargetArch,
};
use syscalls::Sysno;

/// Allowed, whatever the arguments.
const ALLOWED: &[Sysno] = &[
    // Files and sockets that are open, and those of the monitor, which come to it.
    Sysno::accept4,
    Sysno::close,
    Sysno::dup,
    Sysno::dup2,
    Sysno::dup3,
    Sysno::fadvise64,
    Sysno::fallocate,
    Sysno::fcntl,
    Sysno::fdatasync,
    Sysno::flock,
    Sysno::fstat,
    Sysno::fstatfs,
    Sysno::fsync,
    Sysno::ftruncate,
    Sysno::getpeername,
    Sysno::getsockname,
    Sysno::getsockopt,
    Sysno::lseek,
    Sysno::pread64,
    Sysno::preadv,
    Sysno::pwrite64,
    Sysno::pwritev,
    Sysno::read,
    Sysno::readv,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::sendmsg,
    Sysno::sendto,
    Sysno::setsockopt,
    Sysno::shutdown,
    Sysno::sync_file_range,
    Sysno::write,
    Sysno::writev,
    // By name: there is nothing in its root.
    Sysno::access,
    Sysno::getcwd,
    Sysno::newfstatat,
    Sysno::openat,
    Sysno::readlink,
    Sysno::statfs,
    // Waiting.
    Sysno::clock_nanosleep,
    Sysno::epoll_create1,
    Sysno::epoll_ctl,
    Sysno::epoll_pwait,
    Sysno::epoll_wait,
    Sysno::eventfd2,
    Sysno::futex,
    Sysno::nanosleep,
    Sysno::pipe2,
    Sysno::poll,
    Sysno::ppoll,
    Sysno::restart_syscall,
    Sysno::sched_yield,
    // Memory.
    Sysno::brk,
    Sysno::madvise,
    Sysno::membarrier,
    Sysno::memfd_create,
    Sysno::mmap,
    Sysno::mprotect,
    Sysno::mremap,
    Sysno::msync,
    Sysno::munmap,
    // Threads and signals, its own.
    Sysno::exit,
    Sysno::exit_group,
    Sysno::getpid,
    Sysno::gettid,
    Sysno::pause,
    Sysno::rseq,
    Sysno::rt_sigaction,
    Sysno::rt_sigprocmask,
    Sysno::rt_sigreturn,
    Sysno::rt_sigtimedwait,
    Sysno::sched_getaffinity,
    Sysno::set_robust_list,
    Sysno::sigaltstack,
    Sysno::tgkill,
    // What it is told.
    Sysno::clock_getres,
    Sysno::clock_gettime,
    Sysno::getegid,
    Sysno::geteuid,
    Sysno::getgid,
    Sysno::getrandom,
    Sysno::getrusage,
    Sysno::gettimeofday,
    Sysno::getuid,
    Sysno::sysinfo,
    Sysno::uname,
];

/// Of ioctl(2): those of taps and of disks, from linux/if_tun.h and linux/fs.h.
const CONTROLS: &[u32] = &[
    0x0000_5421, // FIONBIO
    0x0000_541b, // FIONREAD
    0x4004_54d0, // TUNSETOFFLOAD
    0x4004_54d8, // TUNSETVNETHDRSZ
    0x4004_54dc, // TUNSETVNETLE
    0x4004_54de, // TUNSETVNETBE
    0x400454d9,  // TUNSETQUEUE
    0x4004_54d4, // TUNSETSNDBUF
    0x8004_54d2, // TUNGETIFF
    0x8004_54cf, // TUNGETFEATURES
    0x0000_1268, // BLKSSZGET
    0x0000_127b, // BLKPBSZGET
    0x0000_125e, // BLKROGET
    0x8008_1272, // BLKGETSIZE64
    0x0000_1277, // BLKDISCARD
    0x0000_127f, // BLKZEROOUT
    0xc020_660b, // FS_IOC_FIEMAP
];

fn equals(argument: u8, value: u64) -> Result<Rule, seccompiler::BackendError> {
    Rule::new(vec![Condition::new(argument, Length::Dword, Operator::Eq, value)?])
}

/// The program: `struct sock_filter`s, as the kernel reads them.
pub fn program() -> Result<Vec<u8>, seccompiler::BackendError> {
    let thread = libc::CLONE_THREAD.cast_unsigned().into();
    let only_threads = Rule::new(vec![Condition::new(0, Length::Dword, Operator::MaskedEq(thread), thread)?])?;
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_TIMERSLACK];
    let mut rules: BTreeMap<i64, Vec<Rule>> = BTreeMap::new();
    let mut allow = |call: Sysno, conditions: Vec<Rule>| drop(rules.insert(i64::from(call.id()), conditions));
    for call in ALLOWED {
        allow(*call, Vec::new());
    }
    // Where there is no clone3, the C library takes clone, which can be looked into.
    allow(Sysno::clone, vec![only_threads]);
    let numbers = CONTROLS.iter().map(|number| equals(1, u64::from(*number)));
    allow(Sysno::ioctl, numbers.collect::<Result<_, _>>()?);
    let names = names.iter().map(|name| equals(0, u64::from(name.cast_unsigned())));
    allow(Sysno::prctl, names.collect::<Result<_, _>>()?);
    // A process's own limits, read only: pid 0, nothing new.
    let read_only =
        vec![Condition::new(0, Length::Dword, Operator::Eq, 0)?, Condition::new(2, Length::Qword, Operator::Eq, 0)?];
    allow(Sysno::prlimit64, vec![Rule::new(read_only)?]);
    allow(Sysno::socketpair, vec![equals(0, libc::AF_UNIX.cast_unsigned().into())?]);
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let program: BpfProgram =
        SeccompFilter::new(rules, missing, SeccompAction::Allow, TargetArch::x86_64)?.try_into()?;
    let bytes = program.iter().flat_map(|instruction| {
        let [code, k] = [instruction.code.to_ne_bytes().to_vec(), instruction.k.to_ne_bytes().to_vec()];
        [code, vec![instruction.jt, instruction.jf], k].concat()
    });
    Ok(bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_fits_into_a_request() {
        let program = program().unwrap();
        println!("{} instructions", program.len() / 8);
        assert_eq!(program.len() % 8, 0);
        assert!(program.len() < hypernetes_fork::MAX_BYTES);
    }

    #[test]
    fn what_leads_out_is_not_allowed() {
        for call in [
            Sysno::execve,
            Sysno::execveat,
            Sysno::fork,
            Sysno::vfork,
            Sysno::clone3,
            Sysno::ptrace,
            Sysno::mount,
            Sysno::setns,
            Sysno::unshare,
            Sysno::setuid,
            Sysno::bpf,
            Sysno::socket,
            Sysno::connect,
            Sysno::bind,
            Sysno::process_vm_writev,
            Sysno::io_uring_setup,
            Sysno::userfaultfd,
            Sysno::keyctl,
            Sysno::kill,
        ] {
            assert!(!ALLOWED.contains(&call), "{call}");
        }
    }
}
