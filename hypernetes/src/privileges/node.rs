//! What the node keeps of root's capabilities: kubelet, network agent and CSI driver of one host, in one process.

use hypernetes_daemon::confine::{self, ConfineError, Kept};
use rustix::thread::CapabilitySet as Capability;

/// The node executes one program, `nft`, which needs nothing that is not here.
const KEEPS: &[Kept] = &[
    (Capability::CHOWN, "to give files of a pod to the pod's group (fsGroup)"),
    (Capability::FSETID, "to let what is made in such a directory be that group's, too"),
    (Capability::DAC_READ_SEARCH, "to reach its directory where that lies in a user's"),
    (Capability::NET_ADMIN, "to make taps, addresses, routes and packet filters in networks' namespaces"),
    (Capability::SYS_ADMIN, "to make, name and enter networks' namespaces, and to mount memory for pods' secrets"),
];

/// Gives up the rest. Before anything else of the process begins.
///
/// # Errors
/// When the host does not give one of these, or its kernel cannot do this.
pub fn apply() -> Result<(), ConfineError> {
    confine::apply("the node", KEEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It reads what tenants write: of what would make it the host's kernel, it has nothing.
    #[test]
    fn it_keeps_each_for_a_reason_and_nothing_of_the_kernels() {
        let kept = confine::set(KEEPS);
        assert_eq!(kept.iter().count(), KEEPS.len(), "none is there twice");
        assert!(KEEPS.iter().all(|(_, reason)| !reason.is_empty()));
        let others = Capability::SYS_MODULE
            | Capability::SYS_RAWIO
            | Capability::SYS_BOOT
            | Capability::SYS_TIME
            | Capability::SYS_PTRACE
            | Capability::MKNOD
            | Capability::SETUID
            | Capability::SETPCAP
            | Capability::BPF;
        assert!(!kept.intersects(others), "{kept:?}");
    }
}
