//! Which accelerator boots the guest's kernel here. `/dev/kvm` being there does not mean that it can: on nested machines there
//! is one that hangs a stock kernel. So a VM is booted with it, once; the verdict is remembered.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Shared,
    vm::{Origin, QemuVm},
};
use crate::{Accelerator, HypervisorError, Vm, VmSpec};

const KVM: &str = "/dev/kvm";
/// With KVM a guest is up within half a second.
const KVM_PATIENCE: Duration = Duration::from_secs(5);
/// What the agent says on the console when it runs.
const SIGN_OF_LIFE: &str = "hyperstart";

#[derive(Serialize, Deserialize)]
struct Verdict {
    /// What it was found with: host kernel, QEMU, guest, and who may open the device.
    key: String,
    accelerator: Accelerator,
    reason: String,
}

pub async fn choose(shared: &Shared, remembered: &Path) -> Result<(Accelerator, String), HypervisorError> {
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let key = format!("{} {} {} {}", host.trim(), shared.version, shared.boot.key, device(Path::new(KVM)));
    if let Ok(bytes) = std::fs::read(remembered)
        && let Ok(verdict) = serde_json::from_slice::<Verdict>(&bytes)
        && verdict.key == key
    {
        return Ok((verdict.accelerator, verdict.reason));
    }
    let (accelerator, reason) = match std::fs::OpenOptions::new().read(true).write(true).open(KVM) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (Accelerator::Tcg, "there is no /dev/kvm: VMs are emulated".to_owned())
        }
        Err(error) => (Accelerator::Tcg, format!("/dev/kvm cannot be opened ({error}): VMs are emulated")),
        Ok(_) => match boots(shared, Accelerator::Kvm).await {
            Ok(took) => (Accelerator::Kvm, format!("a VM booted with KVM in {} ms", took.as_millis())),
            Err(why) => (Accelerator::Tcg, format!("KVM cannot boot the guest's kernel ({why}): VMs are emulated")),
        },
    };
    let verdict = Verdict { key, accelerator, reason: reason.clone() };
    let written =
        serde_json::to_vec_pretty(&verdict).map_err(io::Error::other).and_then(|b| std::fs::write(remembered, b));
    if let Err(error) = written {
        tracing::warn!(%error, "the accelerator's verdict is not remembered: the next start probes again");
    }
    Ok((accelerator, reason))
}

/// Who may open a device, if it is there: when that changes, so may what can be done with it.
fn device(path: &Path) -> String {
    let seen = std::fs::metadata(path).map(|d| format!("{}:{:o}:{}:{}", d.rdev(), d.mode(), d.uid(), d.gid()));
    seen.unwrap_or_else(|error| error.kind().to_string())
}

/// Boots a VM until its agent gives a sign of life.
async fn boots(shared: &Shared, accelerator: Accelerator) -> Result<Duration, String> {
    tracing::info!("probing whether KVM boots the guest's kernel");
    let spec = VmSpec {
        id: format!("probe-{}", std::process::id()),
        tenant: String::new(),
        cpus: 1,
        memory_mib: 128,
        nic: None,
        disk_slots: 0,
    };
    let began = Instant::now();
    let vm = QemuVm::create_with(shared, spec, accelerator, Origin::Cold).await.map_err(|e| e.to_string())?;
    let outcome = loop {
        if vm.read_console().await.contains(SIGN_OF_LIFE) {
            break Ok(began.elapsed());
        }
        if began.elapsed() > KVM_PATIENCE {
            break Err(format!("no sign of life within {} s", KVM_PATIENCE.as_secs()));
        }
        tokio::select! {
            exit = vm.wait() => break Err(exit.reason),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    };
    let _ = vm.kill().await;
    outcome
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_device_that_others_may_open_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvm");
        let mut seen = vec![device(&path)];
        std::fs::write(&path, "").unwrap();
        for mode in [0o600, 0o660, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            seen.push(device(&path));
            assert_eq!(device(&path), *seen.last().unwrap());
        }
        seen.dedup();
        assert_eq!(seen.len(), 4, "{seen:?}");
    }
}
