//! Firecracker: KVM only, by its API over a Unix socket (docs/decisions/0021).

mod api;
mod console;
mod disks;
mod host;
mod joined;
mod requests;
mod snapshot;
mod start;
mod template;
mod vm;

use std::{collections::HashSet, fs, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Accelerator, GuestFiles, Hypervisor, HypervisorError, HypervisorInfo, TemplateInfo, TemplateLimits, Vm, VmRecord,
    VmSpec,
    boot::{self, BootFiles},
    launch,
    remains::{self, Remains},
    saved::Saved,
    sweep, temporary,
};

/// How VMs are made.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// All state: prepared boot files, and a directory for each VM.
    pub directory: PathBuf,
    pub guest: GuestFiles,
    /// `hypernetes-vmm`, which locks VMMs in ([`crate::jail`]).
    pub jail: PathBuf,
    /// Firecracker; none: what the PATH has.
    pub program: Option<PathBuf>,
    /// `/dev/kvm`, unless a test has something else in its place.
    pub kvm: PathBuf,
    pub templates: TemplateLimits,
    /// For any answer of Firecracker's that takes no time on a machine that works at all.
    pub patience: Duration,
}

impl FirecrackerConfig {
    pub fn new(directory: PathBuf, guest: GuestFiles, jail: PathBuf) -> Self {
        let patience = Duration::from_secs(20);
        let (kvm, templates) = (launch::KVM.into(), TemplateLimits::default());
        Self { directory, guest, jail, program: None, kvm, templates, patience }
    }
}

/// The driver.
pub struct Firecracker {
    shared: Arc<Shared>,
}

/// What every VM of the driver needs.
struct Shared {
    program: PathBuf,
    version: String,
    kvm: PathBuf,
    patience: Duration,
    jail: PathBuf,
    boot: BootFiles,
    machines: PathBuf,
    saved: Saved,
    joined: Arc<joined::Joined>,
    /// Where templates are.
    originals: PathBuf,
    templates: Arc<template::Templates>,
    remains: Remains,
}

impl Firecracker {
    /// Prepares the kernel and the initial memory.
    ///
    /// # Errors
    /// `Host` with what to do when Firecracker, KVM, the kernel or the agent is missing.
    pub async fn new(config: FirecrackerConfig) -> Result<Self, HypervisorError> {
        let host = |what: &str, error: std::io::Error| HypervisorError::Host(format!("{what}: {error}"));
        let program = match config.program {
            Some(program) => program,
            None => host::find_program()?,
        };
        let version = host::version(&program).await?;
        host::check_kvm(&config.kvm)?;
        if !nix::unistd::geteuid().is_root() {
            return Err(HypervisorError::Host("VMs of Firecracker are locked in, which only root can do".into()));
        }
        if !config.jail.is_file() {
            let what = "the VMMs' jailer is missing; make build makes it";
            return Err(HypervisorError::Host(format!("{}: {what}", config.jail.display())));
        }
        let directory = |name: &str| -> Result<PathBuf, HypervisorError> {
            let path = config.directory.join(name);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|e| host(&format!("making {}", path.display()), e)).map(|()| path)
        };
        let joined = joined::Joined::open(directory("joined")?);
        let shared = Shared {
            version,
            kvm: config.kvm.clone(),
            patience: config.patience,
            jail: config.jail.clone(),
            machines: directory("machines")?,
            saved: Saved::new(directory("snapshots")?),
            originals: directory("templates")?,
            templates: Arc::new(template::Templates::new(config.templates)),
            joined: Arc::new(joined.map_err(|e| host("the directory of joined images", e))?),
            boot: boot::prepare(&config.directory.join("boot"), &config.guest, "vmw_vsock_virtio_transport").await?,
            remains: Remains { cgroups: remains::usable_cgroups().map(Arc::new) },
            program,
        };
        shared.joined.collect();
        let unfinished = |id: &str| id.starts_with(temporary::ID_PREFIX);
        sweep::sweep(&shared.machines, &shared.remains, start::is_named, unfinished).await;
        template::clear(&shared.originals);
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl Hypervisor for Firecracker {
    async fn create(&self, spec: VmSpec) -> Result<Box<dyn Vm>, HypervisorError> {
        Ok(Box::new(vm::FirecrackerVm::create(&self.shared, spec).await?))
    }

    async fn adopt(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        Ok(Box::new(vm::FirecrackerVm::adopt(&self.shared, record)?))
    }

    fn would_copy(&self, spec: &VmSpec) -> bool {
        template::key(&self.shared, spec).is_some_and(|key| self.shared.templates.find(&key).is_some())
    }

    async fn sweep(&self, keep: &HashSet<String>, hibernated: &HashSet<String>) {
        // Templates that are being made are this process's own.
        let unwanted = |id: &str| !id.starts_with(temporary::ID_PREFIX) && !keep.contains(id);
        sweep::sweep(&self.shared.machines, &self.shared.remains, start::is_named, unwanted).await;
        self.shared.saved.sweep(|id| hibernated.contains(id));
    }

    async fn hibernate(&self, vm: &VmRecord) -> Result<(), HypervisorError> {
        snapshot::save(&self.shared, vm).await
    }

    async fn resume(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        let files = snapshot::open(&self.shared, &record.spec.id)?;
        Ok(Box::new(vm::FirecrackerVm::load(&self.shared, record, files).await?))
    }

    async fn forget(&self, id: &str) {
        self.shared.saved.remove(id);
    }

    fn templates(&self) -> Vec<TemplateInfo> {
        self.shared.templates.list()
    }

    fn describe(&self) -> HypervisorInfo {
        HypervisorInfo {
            vmm: self.shared.version.clone(),
            accelerator: Accelerator::Kvm,
            accelerator_reason: "Firecracker has no other".into(),
            kernel: self.shared.boot.kernel.clone(),
            disk_slots: vm::MAX_DISKS,
        }
    }
}
