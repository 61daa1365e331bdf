//! One virtual machine: a QEMU process that outlives this one.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::sync::watch;

use super::{
    Shared, command,
    disks::{self, MAX_SLOTS},
    memory,
    migrate::{self, MigrateError},
    original::{Copy, Original},
    qmp::{Qmp, QmpError},
    snapshot::Snapshot,
    template::{self, Form, Template},
};
use crate::{
    Accelerator, AgentAddress, DiskSlot, DiskSource, HypervisorError, Vm, VmExit, VmRecord, VmSpec,
    cgroup::Limits,
    jail::{self, View},
    launch::{self, Failure, Launch},
    process::{self, Process},
    remains::Remains,
    slots::{self, Slot},
    tap, words,
};

/// From the start of QEMU until its monitor answers.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// What QEMU itself may take: its heap, translated code, and what is under way to and from disks.
const VMM_BYTES: u64 = 256 << 20;
/// The machine has 24 virtio devices.
/// Largest console text in messages.
const CONSOLE_BYTES: usize = 2048;

/// Where a VM's memory comes from.
pub enum Origin<'a> {
    /// It boots.
    Cold,
    /// It boots in memory that is kept, to be copied; its network leads nowhere.
    Original(&'a OwnedFd),
    /// It boots to be forked: by that library, and by requests that come by that descriptor; its network leads nowhere.
    Forkable(&'a Path, &'a OwnedFd),
    /// It goes on where the template stopped, each page its own once it is written to.
    Copy(&'a Template),
    /// The same without a network, to see whether it works.
    Trial(&'a Template),
    /// It waits for another VM to be brought into it, into memory that is kept; its network leads nowhere.
    Receiver(&'a OwnedFd),
    /// It goes on where it was saved, once it is told to.
    Saved(&'a Snapshot),
}

impl Origin<'_> {
    fn memory(&self) -> Option<&OwnedFd> {
        match self {
            Self::Cold | Self::Forkable(..) => None,
            Self::Original(memory) | Self::Receiver(memory) => Some(memory),
            Self::Saved(snapshot) => Some(&snapshot.memory),
            Self::Copy(template) | Self::Trial(template) => match &template.form {
                Form::Saved { memory, .. } => Some(memory),
                Form::Standing(_) => None,
            },
        }
    }

    /// The running VM that it is forked from, if it is.
    fn original(&self) -> Option<&Arc<Original>> {
        match self {
            Self::Copy(template) | Self::Trial(template) => match &template.form {
                Form::Standing(original) => Some(original),
                Form::Saved { .. } => None,
            },
            _ => None,
        }
    }

    /// Whether what the guest writes reaches the memory that it is given; none when it is given none.
    pub fn shares_memory(&self) -> Option<bool> {
        self.memory().map(|_| matches!(self, Self::Original(_) | Self::Receiver(_)))
    }

    /// Makes a VM what it was, and lets it run where it is not to wait for more.
    async fn restore(&self, monitor: &mut Qmp) -> Result<(), MigrateError> {
        match self {
            Self::Cold | Self::Original(_) | Self::Forkable(..) | Self::Receiver(_) => Ok(()),
            Self::Saved(snapshot) => migrate::restore(monitor, memory::reader(&snapshot.state)?).await,
            Self::Copy(template) | Self::Trial(template) => {
                if let Form::Saved { state, .. } = &template.form {
                    migrate::restore(monitor, memory::reader(state)?).await?;
                }
                monitor.execute("cont", serde_json::json!({})).await?;
                Ok(())
            }
        }
    }

    pub fn is_restored(&self) -> bool {
        !matches!(self, Self::Cold | Self::Original(_) | Self::Forkable(..))
    }
}

pub struct QemuVm {
    spec: VmSpec,
    directory: PathBuf,
    process: Arc<Process>,
    remains: Remains,
    start_time_ticks: u64,
    disks: Mutex<Vec<Option<DiskSource>>>,
    /// One conversation with the monitor at a time.
    monitor: tokio::sync::Mutex<()>,
    /// Makes node names that were not used before, by an earlier process neither.
    generation: AtomicU64,
    console: Mutex<String>,
    ended: watch::Receiver<bool>,
}

/// The slot's use is in the names of its nodes, so it has to be found again after a restart.
pub fn generation_file(directory: &Path, slot: u32) -> PathBuf {
    directory.join(format!("slot{slot}"))
}

impl QemuVm {
    /// A copy of a template where there is one, else one that boots.
    pub async fn create(shared: &Arc<Shared>, spec: VmSpec) -> Result<Self, HypervisorError> {
        let Some(key) = template::key(shared, &spec) else {
            return Self::create_with(shared, spec, shared.accelerator, Origin::Cold).await;
        };
        let template = shared.templates.find(&key);
        if let Some(template) = &template {
            match Self::create_with(shared, spec.clone(), shared.accelerator, Origin::Copy(template)).await {
                Ok(vm) => {
                    template.was_copied();
                    return Ok(vm);
                }
                Err(error) => {
                    tracing::warn!(vm = spec.id, %error, "a VM could not be copied from its template, and boots instead");
                }
            }
        }
        let vm = Self::create_with(shared, spec, shared.accelerator, Origin::Cold).await?;
        if let Some(template) = &template {
            // What kept the copy from starting was nothing that it has in common with a VM that boots.
            shared.templates.remove(template);
        }
        template::want(shared, key);
        Ok(vm)
    }

    pub async fn create_with(
        shared: &Shared,
        spec: VmSpec,
        accelerator: Accelerator,
        origin: Origin<'_>,
    ) -> Result<Self, HypervisorError> {
        let id = spec.id.clone();
        let plain = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain || spec.cpus == 0 || spec.memory_mib < 32 || spec.disk_slots > MAX_SLOTS {
            return Err(Failure::from("its id, processors, memory or disks are not what a VM can have").of_vm(&id));
        }
        let directory = shared.machines.join(&id);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|e| Failure::of(format_args!("making {}", directory.display()), &e).of_vm(&id))?;
        let started = Self::start(shared, &spec, accelerator, &origin, &directory).await;
        let running = started
            .and_then(|(process, monitor)| Ok((Self::running(shared, spec, directory.clone(), process)?, monitor)));
        let (vm, mut monitor) = match running {
            Ok(running) => running,
            Err(error) => {
                shared.remains.remove(&directory);
                return Err(error.of_vm(&id));
            }
        };
        if let Err(error) = origin.restore(&mut monitor).await {
            let _ = vm.kill().await;
            return Err(Failure::from(format!("restoring its state: {error}")).of_vm(&id));
        }
        Ok(vm)
    }

    /// Stops the VM.
    pub async fn stop(&self) -> Result<(), MigrateError> {
        let _turn = self.monitor.lock().await;
        self.qmp().await?.execute("stop", serde_json::json!({})).await?;
        Ok(())
    }

    /// Stops the VM and writes what is not in its memory to a file.
    pub async fn save(&self, state: OwnedFd) -> Result<(), MigrateError> {
        let _turn = self.monitor.lock().await;
        migrate::save(&mut self.qmp().await?, state).await
    }

    async fn start(
        shared: &Shared,
        spec: &VmSpec,
        accelerator: Accelerator,
        origin: &Origin<'_>,
        directory: &Path,
    ) -> Result<(Process, Qmp), Failure> {
        let listen = |path: PathBuf| std::os::unix::net::UnixListener::bind(path).map(OwnedFd::from);
        let open = |path: &Path| fs::File::open(path).map(OwnedFd::from);
        let mut descriptors = vec![
            (listen(command::monitor_socket(directory))?, command::MONITOR_FD),
            (listen(command::agent_socket(directory))?, command::AGENT_FD),
        ];
        if !origin.is_restored() {
            descriptors.push((open(&shared.boot.kernel)?, command::KERNEL_FD));
            descriptors.push((open(&shared.boot.initrd)?, command::INITRD_FD));
        }
        if let Some(memory) = origin.memory() {
            descriptors.push((memory.try_clone()?, command::MEMORY_FD));
        }
        if let Some(nic) = &spec.nic {
            let tap = match origin {
                Origin::Cold | Origin::Copy(_) | Origin::Saved(_) => tap::open(nic).await,
                Origin::Original(_) | Origin::Forkable(..) | Origin::Trial(_) | Origin::Receiver(_) => {
                    tap::idle().await
                }
            };
            let tap = tap.map_err(|e| Failure::of(format_args!("opening the tap {}", nic.tap), &e))?;
            if origin.original().is_some() {
                tap::as_guests_have_it(&tap)
                    .map_err(|e| Failure::of(format_args!("preparing the tap {}", nic.tap), &e))?;
            }
            descriptors.push((tap, command::TAP_FD));
        }
        let limits = Limits {
            // A tenant that is none in its form shares with those of none.
            tenant: spec.tenant.parse().ok(),
            memory_bytes: (u64::from(spec.memory_mib) << 20) + VMM_BYTES,
            cpus: spec.cpus,
        };
        let process = match origin.original() {
            Some(original) => {
                let group = shared.remains.group(&spec.id, limits)?;
                let uid = launch::uid_of(&spec.id);
                original.copy(Copy { directory: directory.to_owned(), uid, group, descriptors }).await?
            }
            None => {
                let mut library = None;
                if let Origin::Forkable(path, requests) = origin {
                    library = Some(*path);
                    descriptors.push((requests.try_clone()?, jail::FORK_SERVER_FD));
                }
                let kvm = Path::new(launch::KVM);
                let (gid, devices) = match accelerator {
                    Accelerator::Kvm => (launch::gid_for(kvm, &spec.id), vec![kvm.to_owned()]),
                    // Everything that it uses, it is handed open.
                    Accelerator::Tcg => (launch::uid_of(&spec.id), Vec::new()),
                };
                let launch = Launch {
                    directory,
                    id: &spec.id,
                    program: &shared.program,
                    jail: shared.jail.as_deref(),
                    remains: &shared.remains,
                    gid,
                    view: View { devices, ..View::default() },
                    descriptors,
                    original: library,
                };
                launch.start(command::arguments(shared, spec, accelerator, origin), limits).await?
            }
        };
        // The socket is there already; its greeting says that QEMU has made the machine.
        let monitor = command::monitor_socket(directory);
        let monitor = tokio::select! {
            answer = Qmp::connect(&monitor) => match answer {
                Ok(monitor) => monitor,
                Err(error) => {
                    process.kill().await;
                    return Err(format!("QEMU's monitor: {error}: {}", words::last(directory)).into());
                }
            },
            () = process.ended() => return Err(format!("QEMU ended: {}", words::last(directory)).into()),
            () = tokio::time::sleep(START_TIMEOUT) => {
                process.kill().await;
                return Err(format!("QEMU's monitor did not answer: {}", words::last(directory)).into());
            }
        };
        if shared.jail.is_some() && origin.original().is_none() {
            let emptied = jail::empty_root(&process).await;
            if let Err(error) = emptied {
                process.kill().await;
                return Err(Failure::of("emptying the VMM's root", &error));
            }
        }
        Ok((process, monitor))
    }

    /// Takes over a VM that another process has made.
    pub fn adopt(shared: &Shared, record: VmRecord) -> Result<Self, HypervisorError> {
        let gone = || HypervisorError::Gone { id: record.spec.id.clone() };
        let process = Process::recall(&record.directory.join("pid")).filter(|process| {
            process.pid == record.pid && process::started(record.pid) == Some(record.start_time_ticks)
        });
        // It is a child of this process's if a driver before this one made it here.
        let process = process.map(|process| if shared.jail.is_some() { process.reaped_here() } else { process });
        let Some(process) = process else {
            shared.remains.remove(&record.directory);
            return Err(gone());
        };
        let vm = Self::running(shared, record.spec.clone(), record.directory.clone(), process).map_err(|_| gone())?;
        *vm.disks.lock() = record.disks.clone();
        Ok(vm)
    }

    fn running(shared: &Shared, spec: VmSpec, directory: PathBuf, process: Process) -> io::Result<Self> {
        let start_time_ticks = process::started(process.pid).ok_or(io::ErrorKind::NotFound)?;
        let process = Arc::new(process);
        let (sender, ended) = watch::channel(false);
        let watched = process.clone();
        let log = directory.clone();
        tokio::spawn(async move {
            words::keep_bounded(&log, watched.ended()).await;
            let _ = sender.send(true);
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            disks: Mutex::new(vec![None; spec.disk_slots as usize]),
            remains: shared.remains.clone(),
            spec,
            directory,
            process,
            start_time_ticks,
            monitor: tokio::sync::Mutex::default(),
            generation: AtomicU64::new(now.as_millis() as u64),
            console: Mutex::default(),
            ended,
        })
    }

    /// Ends the VM without waiting for it; its files are removed behind it.
    pub fn abandon(&self) {
        if !*self.ended.borrow() {
            self.process.kill_now();
        }
        let (mut ended, remains, directory) = (self.ended.clone(), self.remains.clone(), self.directory.clone());
        match tokio::runtime::Handle::try_current() {
            // A control group cannot be removed before its processes have ended.
            Ok(runtime) => drop(runtime.spawn(async move {
                let _ = ended.wait_for(|ended| *ended).await;
                remains.remove(&directory);
            })),
            Err(_) => remains.remove(&directory),
        }
    }

    /// Gives a VM that was restored the disks that it had.
    pub async fn refill(&self, disks: Vec<Option<DiskSource>>) -> Result<(), HypervisorError> {
        let _turn = self.monitor.lock().await;
        for (slot, source) in (0..self.spec.disk_slots).zip(disks) {
            if let Some(source) = source {
                self.fill(slot, source).await?;
            }
        }
        Ok(())
    }

    /// Puts something into a slot that is empty. For whoever has the monitor.
    async fn fill(&self, slot: u32, source: DiskSource) -> Result<(), HypervisorError> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) % 10_000_000;
        let attach = async {
            fs::write(generation_file(&self.directory, slot), generation.to_string())?;
            let mut qmp = self.qmp().await?;
            disks::attach(&mut qmp, Slot::new(self.spec.disk_slots, slot), generation, &source).await
        };
        let failed = |e: QmpError| HypervisorError::AttachDisk { id: self.spec.id.clone(), reason: e.to_string() };
        attach.await.map_err(failed)?;
        if let Some(held) = self.disks.lock().get_mut(slot as usize) {
            *held = Some(source);
        }
        Ok(())
    }

    pub async fn qmp(&self) -> Result<Qmp, QmpError> {
        Qmp::connect(&command::monitor_socket(&self.directory)).await
    }

    /// The guest's console, read from QEMU's bounded buffer.
    pub async fn read_console(&self) -> String {
        let _turn = self.monitor.lock().await;
        let read = async {
            let mut qmp = self.qmp().await?;
            qmp.execute("ringbuf-read", serde_json::json!({"device": command::CONSOLE, "size": 65536})).await
        };
        if let Ok(text) = read.await {
            // Reading takes it out of the buffer.
            let mut console = self.console.lock();
            console.push_str(text.as_str().unwrap_or_default());
            let excess = console.len().saturating_sub(8 * CONSOLE_BYTES);
            let cut = (excess..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(0);
            console.drain(..cut);
        }
        self.console.lock().clone()
    }
}

#[async_trait]
impl Vm for QemuVm {
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
        AgentAddress::Unix(command::agent_socket(&self.directory))
    }

    fn set_background(&self, background: bool) {
        self.process.set_background(background);
    }

    async fn attach_disk(&self, source: DiskSource) -> Result<DiskSlot, HypervisorError> {
        let id = &self.spec.id;
        let _turn = self.monitor.lock().await;
        // What is only read goes upon a disk that can be written to when the others are taken.
        let slot = slots::free(&self.disks.lock(), source.read_only, true);
        let slot = slot.ok_or_else(|| slots::none_left(id, self.spec.disk_slots))?;
        self.fill(slot.0, source).await?;
        Ok(slot)
    }

    async fn detach_disk(&self, slot: DiskSlot) -> Result<(), HypervisorError> {
        let id = &self.spec.id;
        let _turn = self.monitor.lock().await;
        let held = self.disks.lock().get(slot.0 as usize).cloned().flatten();
        if held.is_none() {
            return Ok(());
        }
        let detach = async {
            let generation = fs::read_to_string(generation_file(&self.directory, slot.0))?;
            let generation = generation.trim().parse().map_err(io::Error::other)?;
            disks::detach(&mut self.qmp().await?, Slot::new(self.spec.disk_slots, slot.0), generation).await
        };
        let detached: Result<(), QmpError> = detach.await;
        detached.map_err(|e| HypervisorError::DetachDisk { id: id.clone(), reason: e.to_string() })?;
        if let Some(held) = self.disks.lock().get_mut(slot.0 as usize) {
            *held = None;
        }
        Ok(())
    }

    async fn go_on(&self) -> Result<(), HypervisorError> {
        let _turn = self.monitor.lock().await;
        let disks = self.disks.lock().clone();
        let gone = |slot: &u32| !generation_file(&self.directory, *slot).exists();
        for (slot, source) in (0..self.spec.disk_slots).zip(disks).filter(|(slot, _)| gone(slot)) {
            // It was taken out while the VM was stopped (see `snapshot`).
            if let Some(source) = source {
                self.fill(slot, source).await?;
            }
        }
        let go_on = async { migrate::go_on(&mut self.qmp().await?).await };
        go_on.await.map_err(|e| HypervisorError::Resume { id: self.spec.id.clone(), reason: e.to_string() })
    }

    async fn settle_disks(&self) -> Result<(), HypervisorError> {
        let _turn = self.monitor.lock().await;
        let held: Vec<bool> = self.disks.lock().iter().map(Option::is_some).collect();
        let settle = async { disks::settle(&mut self.qmp().await?, &held).await };
        let settled: Result<Vec<u32>, QmpError> = settle.await;
        let emptied =
            settled.map_err(|e| HypervisorError::DetachDisk { id: self.spec.id.clone(), reason: e.to_string() })?;
        let mut disks = self.disks.lock();
        for slot in emptied {
            if let Some(held) = disks.get_mut(slot as usize) {
                *held = None;
            }
        }
        Ok(())
    }

    async fn wait(&self) -> VmExit {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
        let log = words::last(&self.directory);
        let last = log.trim().lines().last().unwrap_or("the VM has ended").chars().take(512).collect();
        VmExit { reason: last }
    }

    async fn kill(&self) -> Result<(), HypervisorError> {
        if !*self.ended.borrow() {
            let _ = self.process.signal(Signal::KILL);
            let mut ended = self.ended.clone();
            let _ = ended.wait_for(|ended| *ended).await;
        }
        self.remains.remove(&self.directory);
        Ok(())
    }

    async fn console_tail(&self) -> String {
        let console = self.read_console().await;
        let start = console.len().saturating_sub(CONSOLE_BYTES);
        let start = (start..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(console.len());
        console[start..].to_owned()
    }
}
