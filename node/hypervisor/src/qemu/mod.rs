//! QEMU's microvm machine: on KVM where it works, on QEMU's own translator everywhere.

mod boot;
mod command;
mod disks;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod greet;
mod initrd;
mod kernel;
mod launch;
mod memory;
mod migrate;
mod original;
mod overlay;
mod pieces;
mod probe;
mod qmp;
mod snapshot;
mod sweep;
mod tap;
mod template;
mod temporary;
mod tsc;
mod vm;
mod words;

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

pub use self::{
    tap::{create as create_tap, open as open_tap, remove as remove_tap},
    template::TemplateLimits,
};
use crate::{
    Accelerator, Hypervisor, HypervisorError, HypervisorInfo, TemplateInfo, Vm, VmRecord, VmSpec,
    cgroup::{Cgroups, Group, Limits},
};

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

impl GuestFiles {
    /// For tests: what `make kernel` and `make build` have put into a checkout; the environment may name other places.
    ///
    /// # Panics
    /// When it is not there, with what to run.
    pub fn in_checkout(checkout: &Path) -> Self {
        let place = |variable: &str, usual: &str| {
            std::env::var_os(variable).map_or_else(|| checkout.join(usual), PathBuf::from)
        };
        let guest = place("HYPERNETES_GUEST", ".tools/guest");
        let files = Self {
            vmlinuz: guest.join("vmlinuz"),
            modules: guest.join("modules"),
            hyperstart: place("HYPERNETES_HYPERSTART", "target/release/hyperstart"),
        };
        assert!(files.vmlinuz.is_file(), "run scripts/guest-kernel.sh first");
        assert!(files.hyperstart.is_file(), "run scripts/build.sh first");
        files
    }
}

/// How VMs are made.
#[derive(Clone)]
pub struct QemuConfig {
    /// All state: prepared boot files, and a directory for each VM.
    pub directory: PathBuf,
    pub guest: GuestFiles,
    /// `hypernetes-vmm`, which locks VMMs in ([`crate::jail`]); none: they run as users of their own, and no more.
    pub jail: Option<PathBuf>,
    /// The library that emulated VMs are forked with ([`hypernetes_fork`]), for which they have to be locked in; none: templates
    /// are files, from which VMs are restored, as with KVM.
    pub fork: Option<PathBuf>,
    /// Use this accelerator without probing.
    pub accelerator: Option<Accelerator>,
    pub templates: TemplateLimits,
    /// What a template that VMs are forked from does before it is one.
    pub rehearsal: Option<Arc<dyn Rehearsal>>,
}

/// A template that VMs are forked from has translated what it once ran, for all of them.
#[async_trait]
pub trait Rehearsal: Send + Sync {
    /// Has a VM do what VMs do. It must not decide anything of the VM's identity, and be at rest afterwards.
    ///
    /// # Errors
    /// In words for people; there is no template then.
    async fn rehearse(&self, vm: &dyn Vm) -> Result<(), String>;
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
    snapshots: PathBuf,
    tsc_khz: u64,
    jail: Option<PathBuf>,
    /// With the control groups, if VMs are locked in and this process may make any.
    remains: Remains,
    fork: Option<PathBuf>,
    rehearsal: Option<Arc<dyn Rehearsal>>,
    accelerator: Accelerator,
    reason: String,
    templates: template::Templates,
}

impl Shared {
    /// The library that VMs are forked with, if they are: with KVM they cannot be, it knows the process that made a VM.
    fn forks_with(&self) -> Option<&Path> {
        self.fork.as_deref().filter(|_| self.accelerator == Accelerator::Tcg)
    }
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
        let snapshots = config.directory.join("snapshots");
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&snapshots)
            .map_err(|e| host("making the directory of snapshots", e))?;
        let boot = boot::prepare(&config.directory.join("boot"), &config.guest).await?;
        if let Some(jail) = config.jail.as_ref().filter(|jail| !jail.is_file()) {
            let what = "the VMMs' jailer is missing; make build makes it";
            return Err(HypervisorError::Host(format!("{}: {what}", jail.display())));
        }
        if let Some(library) = config.fork.as_ref().filter(|library| !library.is_file()) {
            let what = "what VMs are forked with is missing; make build makes it";
            return Err(HypervisorError::Host(format!("{}: {what}", library.display())));
        }
        // Only root can lock anybody in.
        let jail = config.jail.filter(|_| nix::unistd::geteuid().is_root());
        let mut shared = Shared {
            program,
            version,
            boot,
            machines,
            snapshots,
            tsc_khz: tsc::measure_khz(),
            remains: Remains { cgroups: jail.is_some().then(usable_cgroups).flatten().map(Arc::new) },
            fork: config.fork.filter(|_| jail.is_some()),
            rehearsal: config.rehearsal,
            jail,
            accelerator: Accelerator::Tcg,
            reason: String::new(),
            templates: template::Templates::new(config.templates),
        };
        sweep::sweep(&shared, |id| id.starts_with(temporary::ID_PREFIX)).await;
        (shared.accelerator, shared.reason) = match config.accelerator {
            Some(accelerator) => (accelerator, "chosen by the configuration".into()),
            None => probe::choose(&shared, &config.directory.join("accelerator.json")).await?,
        };
        tracing::info!(accelerator = ?shared.accelerator, reason = shared.reason, "VMs can be made");
        Ok(Self { shared: Arc::new(shared) })
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

    fn would_copy(&self, spec: &VmSpec) -> bool {
        template::Key::new(&self.shared, spec).is_some_and(|key| self.shared.templates.find(&key).is_some())
    }

    fn copies_are_rehearsed(&self) -> bool {
        self.shared.forks_with().is_some() && self.shared.rehearsal.is_some()
    }

    async fn sweep(&self, keep: &HashSet<String>, hibernated: &HashSet<String>) {
        // Templates that are being made are this process's own.
        sweep::sweep(&self.shared, |id| !id.starts_with(temporary::ID_PREFIX) && !keep.contains(id)).await;
        snapshot::sweep(&self.shared, |id| hibernated.contains(id));
    }

    async fn hibernate(&self, vm: &VmRecord) -> Result<(), HypervisorError> {
        snapshot::save(&self.shared, vm).await
    }

    async fn resume(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        let snapshot = snapshot::open(&self.shared, &record.spec.id)?;
        let origin = vm::Origin::Saved(&snapshot);
        let vm = vm::QemuVm::create_with(&self.shared, record.spec, self.shared.accelerator, origin).await?;
        if let Err(error) = vm.refill(record.disks).await {
            let _ = vm.kill().await;
            return Err(error);
        }
        Ok(Box::new(vm))
    }

    async fn forget(&self, id: &str) {
        snapshot::remove(&self.shared, id);
    }

    fn describe(&self) -> HypervisorInfo {
        HypervisorInfo {
            vmm: self.shared.version.clone(),
            accelerator: self.shared.accelerator,
            accelerator_reason: self.shared.reason.clone(),
            kernel: self.shared.boot.kernel.clone(),
        }
    }

    fn templates(&self) -> Vec<TemplateInfo> {
        self.shared.templates.list()
    }
}

/// What a VM leaves on the host: its control group, if VMs have any, and its directory.
#[derive(Clone)]
struct Remains {
    cgroups: Option<Arc<Cgroups>>,
}

impl Remains {
    /// Makes a VM's control group, where VMs have any.
    fn group(&self, id: &str, limits: Limits) -> std::io::Result<Group> {
        match &self.cgroups {
            Some(cgroups) => cgroups.make(id, limits),
            None => Ok(Group { join: Vec::new(), directory: None }),
        }
    }

    /// Removes it all, of a VM that has ended. That it is gone is fine.
    fn remove(&self, directory: &Path) {
        if let (Some(cgroups), Some(id)) = (&self.cgroups, directory.file_name().and_then(|id| id.to_str())) {
            cgroups.remove(id);
        }
        if let Err(error) = fs::remove_dir_all(directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), %error, "a VM's directory was left behind");
        }
    }
}

/// What a group's name begins with that only tries whether there can be any; the pid of who tries it follows.
const PROBE: &str = "probe-";

/// The control groups, if this process may make any: in a container it often may not.
fn usable_cgroups() -> Option<Cgroups> {
    let cgroups = Cgroups::find()?;
    for id in cgroups.ids() {
        // Of a process that was killed while it looked.
        let pid = id.strip_prefix(PROBE).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            cgroups.remove(&id);
        }
    }
    let id = format!("{PROBE}{}", std::process::id());
    match cgroups.make(&id, Limits { memory_bytes: 1 << 30, cpus: 1 }) {
        Ok(_) => {
            cgroups.remove(&id);
            Some(cgroups)
        }
        Err(error) => {
            tracing::warn!(%error, "VMs have no control groups: nothing limits what their VMMs take of this host");
            None
        }
    }
}
