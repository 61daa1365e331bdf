//! QEMU's microvm machine: on KVM where it works, on QEMU's own translator everywhere.

mod boot;
mod command;
mod disks;
mod greet;
mod initrd;
mod kernel;
mod memory;
mod migrate;
mod pieces;
mod probe;
mod qmp;
mod tap;
mod template;
mod tsc;
mod vm;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

pub use self::template::TemplateLimits;
use crate::{Accelerator, Hypervisor, HypervisorError, HypervisorInfo, Vm, VmRecord, VmSpec};

/// What goes into a VM.
#[derive(Debug, Clone)]
pub struct GuestFiles {
    /// The kernel as Debian packages it (bzImage), or an ELF `vmlinux` with a PVH entry.
    pub vmlinuz: PathBuf,
    /// Directory of its modules; searched by file name. Need not exist for a kernel that has everything built in.
    pub modules: PathBuf,
    /// The static agent.
    pub hyperstart: PathBuf,
}

/// How VMs are made.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// All state: prepared boot files, and a directory for each VM.
    pub directory: PathBuf,
    pub guest: GuestFiles,
    /// Use this accelerator without probing.
    pub accelerator: Option<Accelerator>,
    pub templates: TemplateLimits,
}

/// The driver.
pub struct Qemu {
    shared: Arc<Shared>,
}

/// What every VM of the driver needs.
struct Shared {
    program: PathBuf,
    version: String,
    boot: boot::BootFiles,
    machines: PathBuf,
    tsc_khz: u64,
    accelerator: Accelerator,
    reason: String,
    templates: template::Templates,
}

impl Qemu {
    /// Prepares the kernel and the initial memory, and finds out which accelerator boots them.
    ///
    /// # Errors
    /// `Host` with what to do when QEMU, the kernel or the agent is missing.
    pub async fn new(config: QemuConfig) -> Result<Self, HypervisorError> {
        let program = find_program()?;
        let version = command::version(&program).await?;
        let host = |what: &str, error: std::io::Error| HypervisorError::Host(format!("{what}: {error}"));
        let machines = config.directory.join("machines");
        // VMs run as users of their own, and have to reach their directories.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o711).create(&machines).map_err(|e| host("making the directory of VMs", e))?;
        for directory in [&config.directory, &machines] {
            let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o711));
        }
        let boot = boot::prepare(&config.directory.join("boot"), &config.guest).await?;
        let mut shared = Shared {
            program,
            version,
            boot,
            machines,
            tsc_khz: tsc::measure_khz(),
            accelerator: Accelerator::Tcg,
            reason: String::new(),
            templates: template::Templates::new(config.templates),
        };
        template::sweep(&shared.machines).await;
        (shared.accelerator, shared.reason) = match config.accelerator {
            Some(accelerator) => (accelerator, "chosen by the configuration".into()),
            None => probe::choose(&shared, &config.directory.join("accelerator.json")).await?,
        };
        tracing::info!(accelerator = ?shared.accelerator, reason = shared.reason, "VMs can be made");
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether a VM like this would be a copy of a template now.
    pub fn has_template(&self, spec: &VmSpec) -> bool {
        template::Key::new(&self.shared, spec).is_some_and(|key| self.shared.templates.find(&key).is_some())
    }
}

fn find_program() -> Result<PathBuf, HypervisorError> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|directory| directory.join("qemu-system-x86_64"))
        .find(|program| program.is_file())
        .ok_or_else(|| HypervisorError::Host("qemu-system-x86_64 is missing: apt-get install qemu-system-x86".into()))
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn create(&self, spec: VmSpec) -> Result<Box<dyn Vm>, HypervisorError> {
        Ok(Box::new(vm::QemuVm::create(&self.shared, spec).await?))
    }

    async fn adopt(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        Ok(Box::new(vm::QemuVm::adopt(&self.shared, record)?))
    }

    fn describe(&self) -> HypervisorInfo {
        HypervisorInfo {
            vmm: self.shared.version.clone(),
            accelerator: self.shared.accelerator,
            accelerator_reason: self.shared.reason.clone(),
            kernel: self.shared.boot.kernel.clone(),
        }
    }
}

/// Removes a directory of a VM; that it is gone already is fine.
fn remove_directory(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "a VM's directory was left behind");
    }
}
