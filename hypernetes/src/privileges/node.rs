//! What the node keeps of root's capabilities: kubelet, network agent and CSI driver of one host, in one process.

use std::path::Path;

use hypernetes_daemon::confine::{self, ConfineError, Kept, mounts::Touched};
use rustix::thread::CapabilitySet as Capability;

/// The node executes one program, `nft`, which needs nothing that is not here.
const KEEPS: &[Kept] = &[
    (Capability::CHOWN, "to give files of a pod to the pod's group (fsGroup)"),
    (Capability::FSETID, "to let what is made in such a directory be that group's, too"),
    (Capability::DAC_READ_SEARCH, "to reach its directory where that lies in a user's"),
    (Capability::NET_ADMIN, "to make taps, addresses, routes and packet filters in networks' namespaces"),
    (Capability::SYS_ADMIN, "to make, name and enter networks' namespaces, and to mount memory for pods' secrets"),
];

/// Gives up the rest. Before anything else of the process begins. It mounts memory for pods' secrets in its directory, and
/// networks' namespaces; it writes in hyperd's directory where that looks for plugins.
///
/// # Errors
/// When the host does not give one of these, or its kernel cannot do this.
pub fn apply(root: &Path, hyperd_root: &Path) -> Result<(), ConfineError> {
    let shares = vec![root.into(), hypernetes_netagent::NAMESPACES.into()];
    let touched = Touched { shares, writes: vec![hyperd_root.into()], reads: programs() };
    confine::apply("the node", KEEPS, &touched)
}

/// This one, and those beside it.
fn programs() -> Vec<std::path::PathBuf> {
    std::env::current_exe().into_iter().collect()
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
