//! What hyperd keeps of root's capabilities, for itself and for the programs that it executes.

use hypernetes_daemon::confine::{self, ConfineError, Kept, mounts::Touched};
use rustix::thread::CapabilitySet as Capability;

/// Those programs are the VMMs' jailer and through it QEMU or Firecracker, `mkfs.ext4`, `xz`, and the CNI plugins.
const KEEPS: &[Kept] = &[
    (Capability::CHOWN, "to give VMMs their files, and files of host paths to whom a guest says"),
    (Capability::DAC_OVERRIDE, "to work on volumes, which are the server's user's, on VMMs' files and on host paths"),
    (Capability::FOWNER, "to change modes and times of files of host paths, as root in a guest does"),
    (Capability::KILL, "to end VMMs, which are users of their own"),
    (Capability::SETUID, "to make a VMM a user of its own"),
    (Capability::SETGID, "to make a VMM a user of its own"),
    (Capability::SETPCAP, "to leave VMMs that others are forked from less than this"),
    (Capability::NET_ADMIN, "to make taps, and for CNI plugins"),
    (Capability::NET_RAW, "for CNI plugins, which announce addresses"),
    (Capability::SYS_ADMIN, "to make namespaces and VMMs' roots, and to mount among what a VMM sees"),
    (Capability::SYS_CHROOT, "to enter the mounts of a VMM (setns(2))"),
    (Capability::SYS_PTRACE, "to enter the mounts of a VMM, which is another user, and to see what memory it takes"),
    (Capability::SYS_NICE, "to put templates that are being made behind everything else, and beside it again"),
];

/// Gives up the rest. Before anything else of the process begins.
///
/// # Errors
/// When the host does not give one of these, or its kernel cannot do this.
pub fn apply(touched: &Touched) -> Result<(), ConfineError> {
    confine::apply("hyperd", KEEPS, touched)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside tenants' VMs: of what would make it the host's kernel, it has nothing.
    #[test]
    fn it_keeps_each_for_a_reason_and_nothing_of_the_kernels() {
        let kept = confine::set(KEEPS);
        assert_eq!(kept.iter().count(), KEEPS.len(), "none is there twice");
        assert!(KEEPS.iter().all(|(_, reason)| !reason.is_empty()));
        let others = Capability::SYS_MODULE
            | Capability::SYS_RAWIO
            | Capability::SYS_BOOT
            | Capability::SYS_TIME
            | Capability::SYS_RESOURCE
            | Capability::MKNOD
            | Capability::SETFCAP
            | Capability::LINUX_IMMUTABLE
            | Capability::SYSLOG
            | Capability::BPF;
        assert!(!kept.intersects(others), "{kept:?}");
    }
}
