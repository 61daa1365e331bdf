//! QEMU's microvm machine: on KVM where it works, on QEMU's own translator everywhere.

mod command;
mod disks;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod memory;
mod migrate;
mod original;
mod overlay;
mod probe;
mod qmp;
mod snapshot;
mod template;
mod temporary;
mod tsc;
mod vm;

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

pub use self::template::TemplateLimits;
use crate::{
    Accelerator, GuestFiles, Hypervisor, HypervisorError, HypervisorInfo, TemplateInfo, Vm, VmRecord, VmSpec,
    boot::{self, BootFiles},
    remains::{self, Remains},
    saved::Saved,
    sweep,
};

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
    boot: BootFiles,
    machines: PathBuf,
    saved: Saved,
    tsc_khz: u64,
    jail: Option<PathBuf>,
    /// With the control groups, if VMs are locked in and this process may make any.
    remains: Remains,
    fork: Option<PathBuf>,
    rehearsal: Option<Arc<dyn Rehearsal>>,
    accelerator: Accelerator,
    reason: String,
    templates: Arc<template::Templates>,
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
        let boot = boot::prepare(&config.directory.join("boot"), &config.guest, "virtio_console").await?;
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
            saved: Saved::new(snapshots),
            tsc_khz: tsc::measure_khz(),
            remains: Remains { cgroups: jail.is_some().then(remains::usable_cgroups).flatten().map(Arc::new) },
            fork: config.fork.filter(|_| jail.is_some()),
            rehearsal: config.rehearsal,
            jail,
            accelerator: Accelerator::Tcg,
            reason: String::new(),
            templates: Arc::new(template::Templates::new(config.templates)),
        };
        sweep::sweep(&shared.machines, &shared.remains, command::is_named, |id| {
            id.starts_with(crate::temporary::ID_PREFIX)
        })
        .await;
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
        template::key(&self.shared, spec).is_some_and(|key| self.shared.templates.find(&key).is_some())
    }

    fn copies_are_rehearsed(&self) -> bool {
        self.shared.forks_with().is_some() && self.shared.rehearsal.is_some()
    }

    async fn sweep(&self, keep: &HashSet<String>, hibernated: &HashSet<String>) {
        // Templates that are being made are this process's own.
        let unwanted = |id: &str| !id.starts_with(crate::temporary::ID_PREFIX) && !keep.contains(id);
        sweep::sweep(&self.shared.machines, &self.shared.remains, command::is_named, unwanted).await;
        self.shared.saved.sweep(|id| hibernated.contains(id));
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
        self.shared.saved.remove(id);
    }

    async fn close(&self) {
        for template in self.shared.templates.take_all() {
            if let template::Form::Standing(original) = &template.form {
                original.end().await;
            }
        }
    }

    fn describe(&self) -> HypervisorInfo {
        HypervisorInfo {
            vmm: self.shared.version.clone(),
            accelerator: self.shared.accelerator,
            accelerator_reason: self.shared.reason.clone(),
            kernel: self.shared.boot.kernel.clone(),
            disk_slots: disks::MAX_SLOTS,
        }
    }

    fn templates(&self) -> Vec<TemplateInfo> {
        self.shared.templates.list()
    }
}
