//! What the VMs of all pods may have of the host's memory together.
//!
//! The kubelet has admitted a pod by what it requests; a VM is as large as what its pod may take. A control group ends VMs when
//! they take more than the host has: that should not come to pass because somebody asked hyperd for VMs without end.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    error::{Error, Result},
    records::SandboxState,
    runtime::Runtime,
    sandbox::Sandbox,
};

/// How much larger VMs are together than what the host has for them, unless the operator says otherwise: most use a part of
/// what they may, and copies of a template share what they do not change.
const OVERCOMMIT: u64 = 4;

/// In MiB, for this host; no limit when it does not say what it has.
pub(crate) fn of_this_host() -> u64 {
    hypernetes_hypervisor::memory_of_all_vms().map_or(u64::MAX, |bytes| (bytes >> 20).saturating_mul(OVERCOMMIT))
}

/// While it lives, a hibernated sandbox has the memory that it is resumed with.
pub(crate) struct Resuming(Arc<Sandbox>);

impl Drop for Resuming {
    fn drop(&mut self) {
        self.0.resuming.store(false, Ordering::Relaxed);
    }
}

impl Sandbox {
    /// What its VM has of the host's memory, or is about to have, in MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        self.look(|record| match record.state {
            SandboxState::Stopped { .. } => 0,
            SandboxState::Hibernated if !self.resuming.load(Ordering::Relaxed) => 0,
            _ => {
                let vm = record.vm.as_ref().map(|vm| vm.spec.memory_mib);
                vm.or_else(|| self.kind.get().map(|kind| kind.memory_mib)).unwrap_or(0).into()
            }
        })
    }
}

impl Runtime {
    /// # Errors
    /// [`Error::Exhausted`] when a sandbox's VM and those of the others would be more than the host has for them.
    pub(crate) fn has_memory_for<'a>(
        &self,
        sandbox: &Sandbox,
        others: impl Iterator<Item = &'a Arc<Sandbox>>,
    ) -> Result<()> {
        let held: u64 = others.filter(|other| other.id != sandbox.id).map(|other| other.memory_mib()).sum();
        let (wanted, limit) = (sandbox.memory_mib(), self.config.vm_memory_mib);
        if held.saturating_add(wanted) <= limit {
            return Ok(());
        }
        Err(Error::Exhausted(format!(
            "the pod needs a virtual machine of {wanted} MiB, and those of this host's pods, which may have {limit} MiB \
             together, have {held} MiB: try again when some have ended"
        )))
    }

    /// Takes the memory that a hibernated sandbox is to be resumed with.
    pub(crate) fn take_memory_again(&self, sandbox: &Arc<Sandbox>) -> Result<Resuming> {
        self.exclusively(|sandboxes| {
            sandbox.resuming.store(true, Ordering::Relaxed);
            let resuming = Resuming(sandbox.clone());
            self.has_memory_for(sandbox, sandboxes.values()).map(|()| resuming)
        })
    }
}
