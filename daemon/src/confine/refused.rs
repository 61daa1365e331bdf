//! System calls that no role which has to be root makes, nor a program that it executes.
//!
//! A list of what is refused, and not of what is allowed: beside our own code there run QEMU, `nft`, `mkfs.ext4` and the CNI
//! plugins of others. A VMM has a narrower filter of its own above this one.

use syscalls::Sysno;

/// Some calls, and why nobody misses them.
pub struct Refused {
    pub calls: &'static [Sysno],
    pub why: &'static str,
}

#[rustfmt::skip]
pub const REFUSED: &[Refused] = &[
    Refused {
        calls: &[
            Sysno::init_module, Sysno::finit_module, Sysno::delete_module, Sysno::create_module, Sysno::query_module,
            Sysno::get_kernel_syms,
        ],
        why: "the kernel asks for what it misses by itself (request_module); nothing here loads modules by name",
    },
    Refused {
        calls: &[Sysno::kexec_load, Sysno::kexec_file_load, Sysno::reboot],
        why: "the host's kernel is the operator's to change",
    },
    Refused {
        calls: &[Sysno::bpf],
        why: "packets are filtered by nft and redirected by tc, neither of which has programs of ours",
    },
    Refused { calls: &[Sysno::perf_event_open, Sysno::lookup_dcookie], why: "nothing is profiled from within" },
    Refused {
        calls: &[
            Sysno::ptrace, Sysno::process_vm_readv, Sysno::process_vm_writev, Sysno::process_madvise, Sysno::pidfd_getfd,
            Sysno::kcmp,
        ],
        why: "VMs are forked from within (node/fork), and the mounts of one are reached by setns(2); nobody looks into others",
    },
    Refused {
        calls: &[Sysno::userfaultfd],
        why: "copies of a template have its memory by mmap(2)",
    },
    Refused {
        calls: &[Sysno::io_uring_setup, Sysno::io_uring_enter, Sysno::io_uring_register],
        why: "it goes past filters of system calls; QEMU's disks are read by its threads, and forks would lose it (0022)",
    },
    Refused { calls: &[Sysno::add_key, Sysno::keyctl, Sysno::request_key], why: "the kernel keeps no keys for us" },
    Refused { calls: &[Sysno::swapon, Sysno::swapoff, Sysno::acct], why: "the operator's to decide" },
    Refused {
        calls: &[Sysno::settimeofday, Sysno::clock_settime, Sysno::clock_adjtime, Sysno::adjtimex],
        why: "the clock is the host's; what is left of certificates and tokens is told by it",
    },
    Refused {
        calls: &[Sysno::sethostname, Sysno::setdomainname],
        why: "a node's name is said by an option; VMMs keep the host's in a namespace of their own",
    },
    Refused { calls: &[Sysno::quotactl, Sysno::quotactl_fd], why: "what tenants may have is counted by us" },
    Refused {
        calls: &[Sysno::open_by_handle_at],
        why: "it opens any file of a file system, mounted or not, past what is beneath a directory",
    },
    Refused { calls: &[Sysno::fanotify_init, Sysno::fanotify_mark], why: "files are watched by inotify(7)" },
    Refused {
        calls: &[Sysno::fsopen, Sysno::fsconfig, Sysno::fsmount, Sysno::fspick],
        why: "file systems are mounted by mount(2), and what is mounted is moved by open_tree(2) and move_mount(2)",
    },
    Refused { calls: &[Sysno::iopl, Sysno::ioperm, Sysno::modify_ldt], why: "VMMs emulate hardware, and touch none" },
    Refused { calls: &[Sysno::syslog, Sysno::vhangup], why: "neither the kernel's log nor terminals are read" },
    Refused {
        calls: &[Sysno::nfsservctl, Sysno::uselib, Sysno::ustat, Sysno::sysfs, Sysno::_sysctl],
        why: "of other times: kernels of today have them as names at most",
    },
];

/// Of x32's table, what has a number there that it has nowhere else: ptrace, kexec_load, process_vm_readv and
/// process_vm_writev (arch/x86/entry/syscalls/syscall_64.tbl).
pub(super) const X32_ONLY: [i64; 4] = [521, 528, 539, 540];
