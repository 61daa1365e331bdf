//! The driver of the VMM that runs the pods' VMs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use hypernetes_hypervisor::{
    GuestFiles, Hypervisor, Vmm,
    firecracker::{Firecracker, FirecrackerConfig},
    process::Process,
    qemu::{Qemu, QemuConfig, TemplateLimits},
};

/// What a VMM's VMs have on this host, below hyperd's directory.
fn directory(vmm: Vmm, root: &Path) -> PathBuf {
    root.join(match vmm {
        Vmm::Qemu => "vmm",
        Vmm::Firecracker => "firecracker",
    })
}

/// `jail` and `fork` are what locks VMMs in, and the library that QEMU forks VMs by.
///
/// # Errors
/// When the other one's VMs are here: a driver takes over its own only.
pub async fn new(
    vmm: Vmm,
    root: &Path,
    guest: GuestFiles,
    jail: PathBuf,
    fork: PathBuf,
) -> Result<Arc<dyn Hypervisor>> {
    let other = match vmm {
        Vmm::Qemu => Vmm::Firecracker,
        Vmm::Firecracker => Vmm::Qemu,
    };
    if has_vms(&directory(other, root)) {
        let directory = directory(other, root);
        bail!(
            "pods are running or hibernated on VMs of {other} ({}): remove them, or go on with --vmm {other}",
            directory.display()
        );
    }
    let directory = directory(vmm, root);
    Ok(match vmm {
        Vmm::Qemu => {
            std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
            let rehearsal = Some(hypernetes_hyperd::rehearsal::of_templates(&guest.hyperstart, &directory)?);
            let (jail, fork, templates) = (Some(jail), Some(fork), TemplateLimits::default());
            let config = QemuConfig { directory, guest, jail, fork, accelerator: None, templates, rehearsal };
            Arc::new(Qemu::new(config).await?)
        }
        Vmm::Firecracker => Arc::new(Firecracker::new(FirecrackerConfig::new(directory, guest, jail)).await?),
    })
}

/// Whether there are any that run or that are saved.
fn has_vms(directory: &Path) -> bool {
    let entries = |name: &str| std::fs::read_dir(directory.join(name)).into_iter().flatten().flatten();
    entries("machines").any(|machine| Process::recall(&machine.path().join("pid")).is_some())
        || entries("snapshots").next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn vms_of_the_other_vmm_are_not_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory(Vmm::Firecracker, root.path());
        assert!(!has_vms(&directory));
        let machine = directory.join("machines/one");
        std::fs::create_dir_all(&machine).unwrap();
        assert!(!has_vms(&directory), "one that has ended is none");
        Process::remember(std::process::id(), machine.join("pid")).unwrap();
        assert!(has_vms(&directory));
        let guest = GuestFiles { vmlinuz: "/none".into(), modules: "/none".into(), hyperstart: "/none".into() };
        let refused =
            new(Vmm::Qemu, root.path(), guest.clone(), "/none".into(), "/none".into()).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("--vmm firecracker"), "{refused}");
        std::fs::remove_dir_all(&machine).unwrap();
        std::fs::create_dir_all(directory.join("snapshots/two")).unwrap();
        assert!(has_vms(&directory));
        // Its own are no hindrance.
        let missing =
            new(Vmm::Firecracker, root.path(), guest, "/none".into(), "/none".into()).await.map(drop).unwrap_err();
        assert!(!missing.to_string().contains("go on with"), "{missing}");
    }
}
