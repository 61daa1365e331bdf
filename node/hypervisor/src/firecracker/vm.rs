//! One virtual machine: a Firecracker process that outlives this one.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use hypernetes_guest_protocol::VSOCK_PORT;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::sync::watch;

use super::{
    Shared, console,
    disks::{self, DiskError},
    requests::VmState,
    start::{self, Origin},
    template::{self, Files},
};
use crate::{
    AgentAddress, DiskSlot, DiskSource, HypervisorError, Vm, VmExit, VmRecord, VmSpec,
    launch::Failure,
    process::{self, Process},
    slots, words,
};

/// Largest console text in messages.
const CONSOLE_BYTES: usize = 2048;
/// Firecracker's own limit.
const MAX_CPUS: u32 = 32;
/// What a VM has interrupts for, beside a network, the vsock and what tells it that it was copied.
pub const MAX_DISKS: u32 = 15;

pub struct FirecrackerVm {
    shared: Arc<Shared>,
    spec: VmSpec,
    directory: PathBuf,
    process: Arc<Process>,
    start_time_ticks: u64,
    disks: Mutex<Vec<Option<DiskSource>>>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    console: Mutex<String>,
    ended: watch::Receiver<bool>,
}

impl FirecrackerVm {
    /// A copy of a template where there is one, else one that boots.
    pub async fn create(shared: &Arc<Shared>, spec: VmSpec) -> Result<Self, HypervisorError> {
        let Some(key) = template::key(shared, &spec) else { return Self::boot(shared, spec).await };
        let template = shared.templates.find(&key);
        if let Some(template) = &template {
            match Self::copy(shared, spec.clone(), &template.form).await {
                Ok(vm) => {
                    template.was_copied();
                    return Ok(vm);
                }
                Err(error) => {
                    tracing::warn!(vm = spec.id, %error, "a VM could not be copied from its template, and boots instead");
                }
            }
        }
        let vm = Self::boot(shared, spec).await?;
        if let Some(template) = &template {
            // What kept the copy from starting was nothing that it has in common with a VM that boots.
            shared.templates.remove(template);
        }
        template::want(shared, key);
        Ok(vm)
    }

    pub async fn boot(shared: &Arc<Shared>, spec: VmSpec) -> Result<Self, HypervisorError> {
        let disks = vec![None; spec.disk_slots as usize];
        Self::make(shared, spec, disks, Origin::Kernel).await
    }

    /// One that runs from where a template stopped.
    pub async fn copy(shared: &Arc<Shared>, spec: VmSpec, template: &Files) -> Result<Self, HypervisorError> {
        let disks = vec![None; spec.disk_slots as usize];
        let files =
            template.open().map_err(|e| HypervisorError::Start { id: spec.id.clone(), reason: e.to_string() })?;
        let vm = Self::make(shared, spec, disks, Origin::Saved(files)).await?;
        if let Err(error) = vm.go_on().await {
            let _ = vm.kill().await;
            return Err(error);
        }
        Ok(vm)
    }

    /// Ends the VM, for destructors, and removes its files.
    pub fn abandon(&self) {
        if !*self.ended.borrow() {
            self.process.kill_now();
        }
        self.shared.remains.remove(&self.directory);
    }

    /// Makes one that is on the disk, with what was in its slots.
    pub async fn load(
        shared: &Arc<Shared>,
        record: VmRecord,
        mut files: Vec<(OwnedFd, PathBuf)>,
    ) -> Result<Self, HypervisorError> {
        let id = record.spec.id.clone();
        for (slot, source) in (0..record.spec.disk_slots).zip(&record.disks) {
            if let Some(source) = source {
                let opened = disks::open(shared, &id, source).await;
                let opened = opened.map_err(|e| HypervisorError::Resume { id: id.clone(), reason: e.to_string() })?;
                files.push((opened, disks::place(slot)));
            }
        }
        Self::make(shared, record.spec, record.disks, Origin::Saved(files)).await
    }

    async fn make(
        shared: &Arc<Shared>,
        spec: VmSpec,
        disks: Vec<Option<DiskSource>>,
        origin: Origin,
    ) -> Result<Self, HypervisorError> {
        let id = spec.id.clone();
        let plain = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let possible = (1..=MAX_CPUS).contains(&spec.cpus) && spec.memory_mib >= 32 && spec.disk_slots <= MAX_DISKS;
        if !plain || !possible {
            return Err(Failure::from("its id, processors, memory or disks are not what a VM can have").of_vm(&id));
        }
        let directory = shared.machines.join(&id);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|e| Failure::of(format_args!("making {}", directory.display()), &e).of_vm(&id))?;
        let started = start::start(shared, &spec, &directory, origin).await;
        let running = started.and_then(|process| {
            Self::running(shared, spec, disks, directory.clone(), process)
                .map_err(|e| Failure::of("it ended at once", &e))
        });
        running.map_err(|failure| {
            shared.remains.remove(&directory);
            failure.of_vm(&id)
        })
    }

    /// Takes over a VM that another process has made.
    pub fn adopt(shared: &Arc<Shared>, record: VmRecord) -> Result<Self, HypervisorError> {
        let gone = || HypervisorError::Gone { id: record.spec.id.clone() };
        let Some(process) = recall(&record) else {
            shared.remains.remove(&record.directory);
            return Err(gone());
        };
        // It is a child of this process's if a driver before this one made it here.
        let process = process.reaped_here();
        let (spec, disks, directory) = (record.spec.clone(), record.disks.clone(), record.directory.clone());
        Self::running(shared, spec, disks, directory, process).map_err(|_| gone())
    }

    fn running(
        shared: &Arc<Shared>,
        spec: VmSpec,
        mut disks: Vec<Option<DiskSource>>,
        directory: PathBuf,
        process: Process,
    ) -> io::Result<Self> {
        let start_time_ticks = process::started(process.pid).ok_or(io::ErrorKind::NotFound)?;
        let process = Arc::new(process);
        let (sender, ended) = watch::channel(false);
        let watched = process.clone();
        let log = directory.clone();
        tokio::spawn(async move {
            words::keep_bounded(&log, watched.ended()).await;
            let _ = sender.send(true);
        });
        disks.resize(spec.disk_slots as usize, None);
        Ok(Self {
            shared: shared.clone(),
            spec,
            directory,
            process,
            start_time_ticks,
            disks: Mutex::new(disks),
            turn: tokio::sync::Mutex::default(),
            console: Mutex::default(),
            ended,
        })
    }

    async fn fill(&self, slot: DiskSlot, source: &DiskSource) -> Result<(), DiskError> {
        let file = disks::open(&self.shared, &self.spec.id, source).await?;
        let attached = disks::attach(&start::api(&self.shared, &self.directory), &self.process, slot.0, file).await;
        if attached.is_err() {
            disks::give_back(source);
        }
        attached
    }

    /// What is in no slot of any VM any more.
    fn give_back_all(&self) {
        self.disks.lock().iter().flatten().for_each(disks::give_back);
    }
}

/// The process of a VM, if it is still that one.
pub fn recall(record: &VmRecord) -> Option<Process> {
    Process::recall(&record.directory.join("pid"))
        .filter(|process| process.pid == record.pid && process::started(record.pid) == Some(record.start_time_ticks))
}

#[async_trait]
impl Vm for FirecrackerVm {
    fn record(&self) -> VmRecord {
        VmRecord {
            spec: self.spec.clone(),
            pid: self.process.pid,
            start_time_ticks: self.start_time_ticks,
            directory: self.directory.clone(),
            disks: self.disks.lock().clone(),
        }
    }

    fn agent(&self) -> AgentAddress {
        AgentAddress::Vsock { socket: start::agent_socket(&self.directory), port: VSOCK_PORT }
    }

    fn set_background(&self, background: bool) {
        self.process.set_background(background);
    }

    async fn attach_disk(&self, source: DiskSource) -> Result<DiskSlot, HypervisorError> {
        let id = &self.spec.id;
        let _turn = self.turn.lock().await;
        let slot = slots::free(&self.disks.lock(), source.read_only, false);
        let slot = slot.ok_or_else(|| slots::none_left(id, self.spec.disk_slots))?;
        let filled = self.fill(slot, &source).await;
        filled.map_err(|e| HypervisorError::AttachDisk { id: id.clone(), reason: e.to_string() })?;
        if let Some(held) = self.disks.lock().get_mut(slot.0 as usize) {
            *held = Some(source);
        }
        Ok(slot)
    }

    async fn detach_disk(&self, slot: DiskSlot) -> Result<(), HypervisorError> {
        let _turn = self.turn.lock().await;
        let held = self.disks.lock().get(slot.0 as usize).cloned().flatten();
        let Some(source) = held else { return Ok(()) };
        let detached = disks::detach(&start::api(&self.shared, &self.directory), slot.0).await;
        detached.map_err(|e| HypervisorError::DetachDisk { id: self.spec.id.clone(), reason: e.to_string() })?;
        disks::give_back(&source);
        if let Some(held) = self.disks.lock().get_mut(slot.0 as usize) {
            *held = None;
        }
        Ok(())
    }

    async fn settle_disks(&self) -> Result<(), HypervisorError> {
        let _turn = self.turn.lock().await;
        let held = self.disks.lock().clone();
        let api = start::api(&self.shared, &self.directory);
        for (slot, source) in (0..).map(DiskSlot).zip(&held) {
            // To say again what is so already changes nothing.
            let settled = match source {
                Some(source) => self.fill(slot, source).await,
                None => disks::detach(&api, slot.0).await,
            };
            settled.map_err(|e| HypervisorError::DetachDisk { id: self.spec.id.clone(), reason: e.to_string() })?;
        }
        Ok(())
    }

    async fn go_on(&self) -> Result<(), HypervisorError> {
        let _turn = self.turn.lock().await;
        let resumed = start::api(&self.shared, &self.directory).patch("/vm", &VmState { state: "Resumed" }).await;
        resumed.map_err(|e| HypervisorError::Resume { id: self.spec.id.clone(), reason: e.to_string() })
    }

    async fn wait(&self) -> VmExit {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
        let words = words::last(&self.directory);
        let console = self.console_tail().await;
        let last = |text: &str| text.trim().lines().last().map(|line| line.chars().take(512).collect::<String>());
        VmExit { reason: last(&words).or_else(|| last(&console)).unwrap_or_else(|| "the VM has ended".into()) }
    }

    async fn kill(&self) -> Result<(), HypervisorError> {
        if !*self.ended.borrow() {
            let _ = self.process.signal(Signal::KILL);
            let mut ended = self.ended.clone();
            let _ = ended.wait_for(|ended| *ended).await;
        }
        self.give_back_all();
        self.shared.remains.remove(&self.directory);
        Ok(())
    }

    async fn console_tail(&self) -> String {
        let mut console = self.console.lock();
        console::read(&self.directory, &mut console);
        let start = console.len().saturating_sub(CONSOLE_BYTES);
        let start = (start..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(console.len());
        console[start..].to_owned()
    }
}
