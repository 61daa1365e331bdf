//! VMM drivers behind one trait: [`Hypervisor`] makes VMs, [`Vm`] is one of them.
//!
//! A driver owns the VMM process and the devices; it knows nothing of pods, and of what the guest's agent says only the
//! greeting.

mod agent;
mod boot;
pub mod cgroup;
pub mod firecracker;
mod greet;
pub mod jail;
mod kind;
mod launch;
mod pieces;
pub mod process;
pub mod qemu;
mod remains;
mod saved;
mod slots;
mod space;
mod sweep;
pub mod tap;
mod template;
mod temporary;
mod words;

use std::{collections::HashSet, path::PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::{
    agent::AgentAddress,
    boot::GuestFiles,
    cgroup::memory_of_all_vms,
    kind::{UnknownVmm, Vmm},
    template::TemplateLimits,
};

/// How the CPU of a VM is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    /// QEMU's translator: everywhere, slower.
    Tcg,
}

/// What a VM is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Unique on the host, `[a-z0-9-]{1,64}`; names the VM's files.
    pub id: String,
    /// Whom the VM belongs to; empty: not known. VMs of one owner may be copies of one booted VM, and share what its kernel
    /// has decided by then; those of two owners never, nor those of an unknown one.
    #[serde(default)]
    pub tenant: String,
    pub cpus: u32,
    pub memory_mib: u32,
    /// The VM's network interface, if it has one.
    pub nic: Option<Nic>,
    /// Number of placeholder disks for later [`Vm::attach_disk`].
    pub disk_slots: u32,
}

/// A tap device that exists already, in a network namespace that need not be the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub tap: String,
    /// Path of the network namespace that the tap is in; none: the caller's.
    pub netns: Option<PathBuf>,
    /// What the guest's interface shall have, e.g. `52:54:00:…`.
    pub mac: String,
}

/// A file or device of the host that becomes a block device of the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSource {
    pub path: PathBuf,
    pub read_only: bool,
}

/// Index of a placeholder disk, as the agent's `Disk.slot` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiskSlot(pub u32);

/// All that a restarted process needs to find a running VM again. Stored by the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    pub spec: VmSpec,
    pub pid: i32,
    /// The process's start time (field 22 of `/proc/<pid>/stat`), because pids are used again.
    pub start_time_ticks: u64,
    pub directory: PathBuf,
    /// What each slot holds.
    pub disks: Vec<Option<DiskSource>>,
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmExit {
    /// What a person should know, e.g. the VMM's last words.
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    #[error("starting the VM {id}: {reason}")]
    Start { id: String, reason: String },
    #[error("starting the VM {id}: {reason}: make room on the disk that VMs have their files on")]
    DiskFull { id: String, reason: String },
    #[error("the VM {id} is gone")]
    Gone { id: String },
    #[error("attaching a disk to the VM {id}: {reason}")]
    AttachDisk { id: String, reason: String },
    #[error(
        "the VM {id} can have no more disks: one for each different image and volume of its containers, {slots} in all, of \
         which {writable} can be written to; remove containers first, or use fewer"
    )]
    NoFreeSlot { id: String, slots: u32, writable: u32 },
    #[error("detaching a disk of the VM {id}: {reason}")]
    DetachDisk { id: String, reason: String },
    #[error("hibernating the VM {id}: {reason}")]
    Hibernate { id: String, reason: String },
    #[error("hibernating the VM {id}: the disk has no room for its memory, {} MiB", .bytes >> 20)]
    NoSpace { id: String, bytes: u64 },
    #[error("resuming the VM {id}: {reason}")]
    Resume { id: String, reason: String },
    #[error("this hypervisor cannot {0}")]
    Unsupported(&'static str),
    /// Nothing can start on this host before the operator does what the message says.
    #[error("{0}")]
    Host(String),
}

/// A VMM driver.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// Boots a VM. It runs on when this process ends.
    async fn create(&self, spec: VmSpec) -> Result<Box<dyn Vm>, HypervisorError>;

    /// Takes over a VM that an earlier process made.
    ///
    /// # Errors
    /// `Gone` when its process is no more; its files are removed then.
    async fn adopt(&self, record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError>;

    /// Whether [`Hypervisor::create`] would copy a VM like this from a template, instead of booting it.
    fn would_copy(&self, _spec: &VmSpec) -> bool {
        false
    }

    /// Whether what was copied has run a container's life already, by way of its template.
    fn copies_are_rehearsed(&self) -> bool {
        false
    }

    /// Ends every VM whose id is not among the first, and removes what it left: an earlier process made it and had no time to
    /// say so. Removes what was saved of VMs that are not among the second. To be called before any is made.
    async fn sweep(&self, _keep: &HashSet<String>, _hibernated: &HashSet<String>) {}

    /// Stops a VM and saves all that it is, its memory included, on this host's disk. It stays there, stopped, so that the
    /// caller can put down that it is saved. Then it is ended by [`Vm::kill`]; or it goes on ([`Vm::go_on`]) and what was saved
    /// is of no use any more.
    ///
    /// # Errors
    /// After any the VM may be stopped, and nothing is saved. `NoSpace`: the disk is full.
    async fn hibernate(&self, _vm: &VmRecord) -> Result<(), HypervisorError> {
        Err(HypervisorError::Unsupported("hibernate VMs"))
    }

    /// Makes a VM again as it was saved, with the disks and on the tap that the record names. It stays stopped until
    /// [`Vm::go_on`]; until then it can be ended, and resumed again.
    async fn resume(&self, _record: VmRecord) -> Result<Box<dyn Vm>, HypervisorError> {
        Err(HypervisorError::Unsupported("resume VMs"))
    }

    /// Removes what was saved of a VM. That there is nothing is fine.
    async fn forget(&self, _id: &str) {}

    /// Ends what it keeps for VMs to come, to be called last. VMs run on.
    async fn close(&self) {}

    /// e.g. `("QEMU 7.2.22", Accelerator::Tcg, "KVM cannot boot this kernel: no output within 5 s")`
    fn describe(&self) -> HypervisorInfo;

    /// The templates that it has; none for a driver that copies no VMs.
    fn templates(&self) -> Vec<TemplateInfo> {
        Vec::new()
    }
}

/// A booted VM that is kept for others to be copies of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInfo {
    pub tenant: String,
    pub cpus: u32,
    pub memory_mib: u32,
    pub disk_slots: u32,
    pub has_nic: bool,
    /// What it takes of the host's memory.
    pub bytes: u64,
    /// VMs that were made of it.
    pub copies: u64,
}

#[derive(Debug, Clone)]
pub struct HypervisorInfo {
    pub vmm: String,
    pub accelerator: Accelerator,
    pub accelerator_reason: String,
    pub kernel: PathBuf,
    /// Most placeholder disks that one of its VMs can have.
    pub disk_slots: u32,
}

/// One running VM. Dropping it leaves the VM alone.
#[async_trait]
pub trait Vm: Send + Sync {
    fn record(&self) -> VmRecord;

    fn agent(&self) -> AgentAddress;

    /// Puts a file or device into a free slot.
    async fn attach_disk(&self, source: DiskSource) -> Result<DiskSlot, HypervisorError>;

    /// Frees a slot; the guest must have unmounted it.
    async fn detach_disk(&self, slot: DiskSlot) -> Result<(), HypervisorError>;

    /// Makes the slots what [`Vm::record`] says of them, or the record what they are: an earlier process may have been killed
    /// while it changed them. To be called before any is changed.
    async fn settle_disks(&self) -> Result<(), HypervisorError> {
        Ok(())
    }

    /// Lets the VM's processors wait behind everything else on the host, or no longer.
    fn set_background(&self, _background: bool) {}

    /// Lets a VM run that is stopped. One that runs is left alone.
    async fn go_on(&self) -> Result<(), HypervisorError> {
        Ok(())
    }

    /// Returns when the VMM process has ended.
    async fn wait(&self) -> VmExit;

    /// Ends the VM at once and removes its files. Idempotent.
    async fn kill(&self) -> Result<(), HypervisorError>;

    /// The last bytes of the guest's console, for error messages.
    async fn console_tail(&self) -> String;
}

/// Of this host, in bytes; 0 when it does not say.
pub fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    total.and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
