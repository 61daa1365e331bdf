//! Pod sandboxes: each is a VM.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{Nic, Vm};
use hypernetes_names::{DnsLabel, ObjectName, Uid};
use k8s_cri::v1 as cri;
use parking_lot::{Mutex, RwLock};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT, Greeting},
    cni::{Choice, CniError, Pod, PodNetwork},
    container::{STOP_PATIENCE, ended_with_vm},
    error::{Error, Result},
    host_paths::Served,
    identity,
    mounts::is_clean_absolute,
    pool::{Kind, Ready, STILL_THERE},
    records::{Records, SandboxRecord, SandboxState},
    resources,
    runtime::{Runtime, new_id, now_nanos},
    stats::CpuRate,
};

/// How long the guest has to write its file systems and power off.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it has to say that it is there, before it is asked to.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
const MAX_CPUS: u64 = 64;
const MAX_MEMORY_MIB: u64 = 1 << 20;

/// One pod's VM, dead or alive.
pub(crate) struct Sandbox {
    pub id: String,
    record: Mutex<SandboxRecord>,
    saving: tokio::sync::Mutex<()>,
    /// Its record is no more: whoever still knows it writes nothing.
    removed: AtomicBool,
    live: RwLock<Option<Arc<Live>>>,
    /// What its VM has in common with others; not known of one that an earlier hyperd made.
    pub kind: OnceLock<Kind>,
    /// It is hibernated, and about to have its VM again.
    pub resuming: AtomicBool,
    /// Serialises what changes the sandbox as a whole.
    pub operation: tokio::sync::Mutex<()>,
    pub cpu_rate: CpuRate,
}

/// What a sandbox has while its VM runs and its agent has been greeted.
pub(crate) struct Live {
    pub vm: Arc<dyn Vm>,
    pub agent: Agent,
    /// Ends all that follows the VM.
    pub cancel: CancellationToken,
    /// It does not run just now, and cannot answer.
    pub stopped: AtomicBool,
    /// Who brings containers' output into their logs.
    pub pumps: TaskTracker,
    /// Serialises attaching and detaching.
    pub disks: tokio::sync::Mutex<()>,
    /// File sets in the guest, with what stops following each.
    pub followed: Mutex<std::collections::HashMap<String, CancellationToken>>,
    /// Set when the guest has the kernel's modules.
    pub modules: tokio::sync::OnceCell<()>,
    /// Host paths in the guest, by name.
    pub host_paths: tokio::sync::Mutex<std::collections::HashMap<String, Served>>,
    /// Ends what the guest needs until it has powered off.
    pub gone: CancellationToken,
}

impl Live {
    pub(crate) fn new(vm: Arc<dyn Vm>, agent: Agent) -> Arc<Self> {
        Arc::new(Self {
            vm,
            agent,
            cancel: CancellationToken::new(),
            stopped: AtomicBool::new(false),
            pumps: TaskTracker::new(),
            disks: tokio::sync::Mutex::default(),
            followed: Mutex::default(),
            modules: tokio::sync::OnceCell::new(),
            host_paths: tokio::sync::Mutex::default(),
            gone: CancellationToken::new(),
        })
    }
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            record: Mutex::new(record),
            saving: tokio::sync::Mutex::default(),
            removed: AtomicBool::new(false),
            live: RwLock::default(),
            kind: OnceLock::new(),
            resuming: AtomicBool::new(false),
            operation: tokio::sync::Mutex::default(),
            cpu_rate: CpuRate::default(),
        })
    }

    /// How the pod's users are mapped, if they are.
    pub(crate) fn user_namespace(&self) -> Result<Option<v1::UserNamespace>> {
        let record = self.record.lock();
        check_namespaces(security_context(&record.config).and_then(|c| c.namespace_options.as_ref()))
    }

    /// Refuses what the pod's agent does not know.
    pub(crate) fn requires(&self, version: u32, what: &str) -> Result<()> {
        let known = self.record.lock().protocol_version;
        if known >= version {
            return Ok(());
        }
        Err(Error::FailedPrecondition(format!(
            "{what} is not possible in the sandbox {}: its agent is older than this hyperd; recreate the pod",
            self.id
        )))
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        self.look(SandboxRecord::clone)
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&SandboxRecord) -> T) -> T {
        look(&self.record.lock())
    }

    /// Changes the record and makes the change durable, unless it has been removed.
    pub(crate) async fn update(&self, records: &Records, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        // Whoever saves last saves the newest.
        let _saving = self.saving.lock().await;
        let snapshot = {
            let mut record = self.record.lock();
            change(&mut record);
            record.clone()
        };
        if self.removed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let records = records.clone();
        let saved = tokio::task::spawn_blocking(move || records.save_sandbox(&snapshot)).await;
        saved.map_err(std::io::Error::other).flatten().map_err(Error::file("saving the record of sandbox", &self.id))
    }

    /// Removes the record for good.
    async fn remove_record(&self, records: &Records) -> Result<()> {
        let _saving = self.saving.lock().await;
        self.removed.store(true, Ordering::Relaxed);
        records.remove_sandbox(&self.id).map_err(Error::file("removing the record of sandbox", &self.id))
    }

    /// Changes the record here and not on the disk.
    pub(crate) fn set_record(&self, change: impl FnOnce(&mut SandboxRecord)) {
        change(&mut self.record.lock());
    }

    pub(crate) fn is_hibernated(&self) -> bool {
        self.record.lock().state == SandboxState::Hibernated
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.record.lock().state == SandboxState::Ready
    }

    /// The running VM.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is none, it is stopped, or hyperd is still finding it again.
    pub(crate) fn live(&self) -> Result<Arc<Live>> {
        self.live.read().clone().ok_or_else(|| {
            let why = match &self.record.lock().state {
                SandboxState::Ready => "is being hibernated or connected to again: try again soon".to_owned(),
                SandboxState::Hibernated => "is hibernated: resume it first".to_owned(),
                SandboxState::Starting => "is starting".to_owned(),
                SandboxState::NotReady { reason } | SandboxState::Stopped { reason } => format!("has ended: {reason}"),
            };
            Error::FailedPrecondition(format!("the sandbox {} {why}", self.id))
        })
    }

    pub(crate) fn set_live(&self, live: Option<Arc<Live>>) -> Option<Arc<Live>> {
        std::mem::replace(&mut *self.live.write(), live)
    }

    pub(crate) fn hostname(&self) -> String {
        identity::hostname(&self.record.lock().config)
    }

    pub(crate) fn status(&self) -> cri::PodSandboxStatus {
        let record = self.record();
        let ips: Vec<String> = match (&record.network, &record.state) {
            (Some(network), SandboxState::Ready | SandboxState::Hibernated | SandboxState::NotReady { .. }) => {
                network.addresses.iter().map(|a| a.ip.to_string()).collect()
            }
            _ => Vec::new(),
        };
        let mut ips = ips.into_iter();
        let options = security_context(&record.config).and_then(|c| c.namespace_options.clone());
        cri::PodSandboxStatus {
            id: record.id,
            metadata: record.config.metadata.clone(),
            state: state(&record.state) as i32,
            created_at: record.created_at,
            network: Some(cri::PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
            }),
            linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
            labels: record.config.labels,
            annotations: record.config.annotations,
            runtime_handler: record.runtime_handler,
        }
    }

    pub(crate) fn summary(&self) -> cri::PodSandbox {
        let record = self.record();
        cri::PodSandbox {
            id: record.id,
            metadata: record.config.metadata,
            state: state(&record.state) as i32,
            created_at: record.created_at,
            labels: record.config.labels,
            annotations: record.config.annotations,
            runtime_handler: record.runtime_handler,
        }
    }
}

fn state(state: &SandboxState) -> cri::PodSandboxState {
    match state {
        SandboxState::Ready => cri::PodSandboxState::SandboxReady,
        _ => cri::PodSandboxState::SandboxNotready,
    }
}

fn security_context(config: &cri::PodSandboxConfig) -> Option<&cri::LinuxSandboxSecurityContext> {
    config.linux.as_ref()?.security_context.as_ref()
}

/// Checks what namespaces are asked for. The pod's own are the guest's, and so are those of its "node": nothing leads
/// out of the VM (docs/decisions/0013).
///
/// Returns the mapping of users, if the pod is to have its own.
pub(crate) fn check_namespaces(options: Option<&cri::NamespaceOption>) -> Result<Option<v1::UserNamespace>> {
    use cri::NamespaceMode as Mode;
    let Some(options) = options else { return Ok(None) };
    let invalid = |text: &str| Err(Error::InvalidArgument(text.into()));
    for (what, mode) in [("network", options.network), ("ipc", options.ipc)] {
        if !matches!(Mode::try_from(mode), Ok(Mode::Pod | Mode::Node)) {
            return invalid(&format!("the {what} namespace is the pod's or the node's, nothing else"));
        }
    }
    if Mode::try_from(options.pid).is_err() {
        return invalid("the pid namespace's mode is unknown");
    }
    if options.pid() == Mode::Target && options.target_id.is_empty() {
        return invalid("to share the processes of one container, target_id has to name it");
    }
    let Some(user) = &options.userns_options else { return Ok(None) };
    match Mode::try_from(user.mode) {
        Ok(Mode::Node) => Ok(None),
        Ok(Mode::Pod) => mapping(user).map(Some),
        _ => invalid("the user namespace is the pod's or the node's, nothing else"),
    }
}

/// The one mapping of users and groups that Kubernetes makes.
fn mapping(user: &cri::UserNamespace) -> Result<v1::UserNamespace> {
    for (what, mappings) in [("uids", &user.uids), ("gids", &user.gids)] {
        let [mapping] = mappings.as_slice() else {
            return Err(Error::InvalidArgument(format!("a user namespace needs exactly one mapping of {what}")));
        };
        let last = mapping.host_id.checked_add(mapping.length);
        if mapping.container_id != 0 || mapping.length == 0 || last.is_none() {
            return Err(Error::InvalidArgument(format!(
                "the mapping of {what} has to begin at 0 in the container, and to have an end"
            )));
        }
    }
    if user.uids != user.gids {
        return Err(Error::InvalidArgument("users and groups have to be mapped in the same way".into()));
    }
    let first = &user.uids[0];
    Ok(v1::UserNamespace { host_id: first.host_id, length: first.length })
}

/// Whose the pod is, as the kubelet says; none: nobody's, which is given nothing of a tenant's.
pub(crate) fn tenant_of(config: &cri::PodSandboxConfig) -> Result<Option<DnsLabel>> {
    let tenant = config.annotations.get(crate::TENANT_ANNOTATION).filter(|tenant| !tenant.is_empty());
    let parsed = tenant.map(|tenant| DnsLabel::new(tenant)).transpose();
    parsed.map_err(|error| Error::InvalidArgument(format!("the annotation {}: {error}", crate::TENANT_ANNOTATION)))
}

fn check_config(config: &cri::PodSandboxConfig, runtime_handler: &str) -> Result<()> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let invalid = |what: &str, error| Error::InvalidArgument(format!("the sandbox's {what}: {error}"));
    ObjectName::new(&metadata.name).map_err(|error| invalid("name", error))?;
    Uid::new(&metadata.uid).map_err(|error| invalid("uid", error))?;
    // A pod that was made by hand may be in none.
    let namespace = Some(&metadata.namespace).filter(|namespace| !namespace.is_empty());
    namespace.map(|n| ObjectName::new(n)).transpose().map_err(|error| invalid("namespace", error))?;
    tenant_of(config)?;
    let directory = Path::new(&config.log_directory);
    if !config.log_directory.is_empty() && !is_clean_absolute(directory) {
        let shown: String = config.log_directory.chars().take(80).collect();
        return Err(Error::InvalidArgument(format!(
            "the log directory {shown:?} is not an absolute path without \"..\""
        )));
    }
    if !matches!(runtime_handler, "" | "hypernetes") {
        return Err(Error::InvalidArgument(format!("unknown runtime handler {runtime_handler:?}")));
    }
    check_namespaces(security_context(config).and_then(|c| c.namespace_options.as_ref()))?;
    Ok(())
}

/// CPUs and memory (MiB) of the VM that the pod's resources ask for.
fn size(config: &cri::PodSandboxConfig, base_mib: u32, default_mib: u32) -> Result<(u32, u32)> {
    let linux = config.linux.as_ref();
    let parts = [linux.and_then(|l| l.resources.as_ref()), linux.and_then(|l| l.overhead.as_ref())];
    // CRI's numbers are signed; what is negative means none.
    let positive = |value: i64| u64::try_from(value).unwrap_or(0);
    let mib = |bytes: i64| positive(bytes).div_ceil(1 << 20);
    let memory = match parts[0].map_or(0, |r| mib(r.memory_limit_in_bytes)) {
        0 => u64::from(default_mib),
        limit => limit.saturating_add(u64::from(base_mib)),
    };
    let memory = memory.saturating_add(parts[1].map_or(0, |r| mib(r.memory_limit_in_bytes)));
    let cpus = parts
        .iter()
        .flatten()
        .filter(|r| r.cpu_period > 0)
        .map(|r| positive(r.cpu_quota).div_ceil(positive(r.cpu_period)))
        .fold(0, u64::saturating_add);
    if memory > MAX_MEMORY_MIB || cpus > MAX_CPUS {
        return Err(Error::InvalidArgument(format!(
            "a VM of {cpus} CPUs and {memory} MiB is larger than this runtime makes"
        )));
    }
    let bounded = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok((bounded(cpus.max(1)), bounded(memory.max(u64::from(base_mib)))))
}

impl Runtime {
    /// Makes a sandbox; of one that fails nothing is left.
    pub(crate) async fn run_sandbox(
        self: &Arc<Self>,
        config: cri::PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<String> {
        // Until the second attempt has ended, too: the pool would take what the first has made free.
        let _busy = self.pool.busy();
        match self.try_to_run_sandbox(config.clone(), runtime_handler.clone()).await {
            // No pod goes without an address for one that nobody has asked for yet.
            Err(Error::Network(CniError::Plugin { .. })) if self.release_networks().await => {
                self.try_to_run_sandbox(config, runtime_handler).await
            }
            other => other,
        }
    }

    async fn try_to_run_sandbox(
        self: &Arc<Self>,
        config: cri::PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<String> {
        check_config(&config, &runtime_handler)?;
        let (cpus, memory_mib) = size(&config, self.config.base_memory_mib, self.config.default_memory_mib)?;
        resources::fits_host(memory_mib)?;
        let choice = match config.annotations.get(crate::NETWORK_ANNOTATION).map(String::as_str) {
            Some("none") => None,
            _ => self.cni.choose(&config).await?,
        };
        let kind = Kind {
            tenant: config.annotations.get(crate::TENANT_ANNOTATION).cloned().unwrap_or_default(),
            cpus,
            memory_mib,
            disk_slots: self.config.disk_slots,
            network: choice.as_ref().map(|choice| choice.style),
        };
        let ready = self.pool.take(&kind);
        let id = ready.as_ref().map_or_else(new_id, |ready| ready.id.clone());
        let sandbox = Sandbox::new(SandboxRecord {
            id: id.clone(),
            config,
            runtime_handler,
            created_at: now_nanos(),
            state: SandboxState::Starting,
            vm: ready.as_ref().map(|ready| ready.vm.record()),
            network: None,
            network_added: true,
            boot_id: String::new(),
            protocol_version: 0,
            agent_version: String::new(),
            kernel_release: String::new(),
        });
        self.logs.hear(&sandbox.record().config);
        let _ = sandbox.kind.set(kind.clone());
        let _operation = sandbox.operation.lock().await;
        if let Err(error) = self.insert_new_sandbox(sandbox.clone()) {
            if let Some(ready) = ready {
                self.pool.give_back(kind, ready);
            }
            return Err(error);
        }
        let started = tokio::time::Instant::now();
        match self.start_sandbox(&sandbox, &kind, choice, ready).await {
            Ok(live) => {
                self.supervise(sandbox.clone(), live);
                self.publish(&sandbox, None, cri::ContainerEventType::ContainerCreatedEvent);
                self.publish(&sandbox, None, cri::ContainerEventType::ContainerStartedEvent);
                tracing::info!(sandbox = %id, elapsed_ms = started.elapsed().as_millis(), "sandbox is ready");
                Ok(id)
            }
            Err(error) => {
                tracing::warn!(sandbox = %id, %error, "sandbox could not be made");
                self.roll_back(&sandbox).await;
                Err(error)
            }
        }
    }

    async fn start_sandbox(
        &self,
        sandbox: &Arc<Sandbox>,
        kind: &Kind,
        choice: Option<Choice>,
        ready: Option<Ready>,
    ) -> Result<Arc<Live>> {
        // From here on whoever comes after a killed hyperd undoes it.
        sandbox.update(&self.records, |_| {}).await?;
        let config = sandbox.record().config;
        let (tap, ahead) = ready.as_ref().map(|ready| (ready.tap.clone(), ready.network.clone())).unwrap_or_default();
        let known = match (kind.network, &ahead) {
            (None, _) => identity::Network::None,
            (Some(_), None) => identity::Network::Unknown,
            (Some(_), Some(network)) => identity::Network::Joined(network),
        };
        let connect = async {
            match known {
                identity::Network::Unknown => {
                    self.cni.add(choice, &Pod::new(&sandbox.id, &config)?, tap.as_ref()).await
                }
                _ => Ok(ahead.clone()),
            }
        };
        // While the network's plugins are at it.
        let identify = async {
            match &ready {
                None => Ok(String::new()),
                Some(ready) => identity::give(&ready.agent, STILL_THERE, &config, known).await,
            }
        };
        let (network, identified) = tokio::join!(connect, identify);
        let network = network?;
        let ready = match ready {
            Some(ready) => self.fit(sandbox, ready, identified, network.as_ref()).await?,
            None => None,
        };
        let (live, greeting, boot_id) = match ready {
            Some((ready, boot_id)) => {
                let live = Live::new(ready.vm, ready.agent);
                sandbox.set_live(Some(live.clone()));
                if let (None, Some(network)) = (&ready.network, &network) {
                    identity::connect(&live.agent, &config, network).await?;
                }
                (live, ready.greeting, boot_id)
            }
            None => self.start_vm(sandbox, kind, &config, network.as_ref()).await?,
        };
        if let Some(netns) = network.as_ref().and_then(|network| network.netns.as_ref()) {
            self.pool.uses_netns(kind, netns);
        }
        sandbox
            .update(&self.records, |r| {
                r.state = SandboxState::Ready;
                r.vm = Some(live.vm.record());
                r.network = network;
                r.boot_id = boot_id;
                r.protocol_version = greeting.version;
                r.agent_version = greeting.agent_version;
                r.kernel_release = greeting.kernel_release;
            })
            .await?;
        Ok(live)
    }

    /// The VM that waited, and its boot's id, if it has become the sandbox's; otherwise it is ended, and another has to be made.
    async fn fit(
        &self,
        sandbox: &Sandbox,
        ready: Ready,
        identified: Result<String, AgentError>,
        network: Option<&PodNetwork>,
    ) -> Result<Option<(Ready, String)>> {
        let why = match (identified, ready.tap.as_ref().zip(network)) {
            (Err(error), _) if !error.is_connection() => return Err(error.into()),
            (Err(error), _) => error.to_string(),
            (Ok(_), Some((tap, network))) if !self.cni.took(tap, network).await => {
                "the network's plugin left its tap alone, and made another".to_owned()
            }
            (Ok(boot_id), _) => return Ok(Some((ready, boot_id))),
        };
        tracing::warn!(sandbox = %sandbox.id, why, "a VM that waited is of no use");
        ready.vm.kill().await?;
        self.cni.remove_tap(&sandbox.id).await;
        Ok(None)
    }

    /// Starts a VM for the sandbox, waits for its agent and makes it the pod's. Gives its boot's id, too.
    async fn start_vm(
        &self,
        sandbox: &Arc<Sandbox>,
        kind: &Kind,
        config: &cri::PodSandboxConfig,
        network: Option<&PodNetwork>,
    ) -> Result<(Arc<Live>, Greeting, String)> {
        let mut spec = kind.spec(sandbox.id.clone());
        spec.nic = network.map(|n| Nic { tap: n.tap.clone(), netns: n.netns.clone(), mac: n.mac.clone() });
        let vm: Arc<dyn Vm> = self.config.hypervisor.create(spec).await?.into();
        let agent = Agent::new(vm.agent());
        let live = Live::new(vm.clone(), agent.clone());
        sandbox.set_live(Some(live.clone()));
        sandbox.update(&self.records, |r| r.vm = Some(vm.record())).await?;
        let greeting = tokio::select! {
            exit = vm.wait() => {
                return Err(Error::FailedPrecondition(format!(
                    "the pod's VM ended while it booted: {}{}", exit.reason, console(&*vm).await
                )));
            }
            greeting = agent.hello_within(self.config.boot_timeout) => match greeting {
                Ok(greeting) => greeting,
                Err(error) => {
                    let console = console(&*vm).await;
                    return Err(Error::FailedPrecondition(format!("the pod's VM did not boot: {error}{console}")));
                }
            },
        };
        let known = if network.is_some() { identity::Network::Unknown } else { identity::Network::None };
        let boot_id = identity::give(&agent, CALL_TIMEOUT, config, known).await?;
        if let Some(network) = network {
            identity::connect(&agent, config, network).await?;
        }
        Ok((live, greeting, boot_id))
    }

    /// Undoes an unfinished sandbox. What cannot be undone now keeps its record, which is removable like any other.
    pub(crate) async fn roll_back(&self, sandbox: &Arc<Sandbox>) {
        match self.tear_down(sandbox, "it could not be started").await {
            // What is removed need not be written first: the disk may be full.
            Ok(stopped) => {
                sandbox.set_record(stopped);
                if let Err(error) = sandbox.remove_record(&self.records).await {
                    tracing::error!(sandbox = %sandbox.id, %error, "removing the record failed");
                }
                self.forget_sandbox(&sandbox.id);
            }
            Err(error) => tracing::error!(sandbox = %sandbox.id, %error, "undoing an unfinished sandbox failed"),
        }
    }

    /// Puts down new limits of a pod that runs: its VM keeps the size that it was made with.
    ///
    /// # Errors
    /// `FailedPrecondition` when the VM is too small for them.
    pub(crate) async fn update_sandbox(
        &self,
        id: &str,
        overhead: Option<cri::LinuxContainerResources>,
        resources: Option<cri::LinuxContainerResources>,
    ) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        let _operation = sandbox.operation.lock().await;
        let vm = sandbox.live()?.vm.record().spec;
        let mut config = sandbox.record().config;
        let linux = config.linux.get_or_insert_default();
        for (present, change) in [(&mut linux.overhead, overhead), (&mut linux.resources, resources)] {
            if let Some(change) = change {
                *present = Some(resources::merge(present.take().unwrap_or_default(), &change));
            }
        }
        let (cpus, memory_mib) = size(&config, self.config.base_memory_mib, self.config.default_memory_mib)?;
        if cpus > vm.cpus || memory_mib > vm.memory_mib {
            return Err(Error::FailedPrecondition(format!(
                "the pod's virtual machine has {} CPUs and {} MiB and cannot grow to {cpus} CPUs and {memory_mib} MiB: \
                 recreate the pod",
                vm.cpus, vm.memory_mib
            )));
        }
        sandbox.update(&self.records, |r| r.config = config).await
    }

    /// Ends the VM, its containers and its network. Idempotent.
    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let _operation = self.take_over(&sandbox).await?;
        if matches!(sandbox.record().state, SandboxState::Stopped { .. }) {
            return Ok(());
        }
        let stopped = self.tear_down(&sandbox, "it was stopped").await?;
        sandbox.update(&self.records, stopped).await?;
        self.publish(&sandbox, None, cri::ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    /// The turn to end a sandbox. Whoever has it, and waits for a guest, is not waited for without end: the VM is killed then.
    async fn take_over<'s>(&self, sandbox: &'s Arc<Sandbox>) -> Result<tokio::sync::MutexGuard<'s, ()>> {
        if let Ok(turn) = tokio::time::timeout(STOP_PATIENCE, sandbox.operation.lock()).await {
            return Ok(turn);
        }
        self.kill_vm(sandbox, "it was to be stopped while something else was being done to it").await?;
        Ok(sandbox.operation.lock().await)
    }

    /// Ends the VM, its containers and its network, and gives what the record has to say from now on.
    async fn tear_down(&self, sandbox: &Arc<Sandbox>, reason: &str) -> Result<impl FnOnce(&mut SandboxRecord) + use<>> {
        let disconnect = async {
            match sandbox.record().network_added {
                true => self.cni.del(&sandbox.id).await,
                false => Ok(()),
            }
        };
        // What the guest still writes does not go through its network.
        let (ended, disconnected) = tokio::join!(self.end_vm(sandbox), disconnect);
        ended?;
        self.config.hypervisor.forget(&sandbox.id).await;
        for container in self.containers_of(&sandbox.id) {
            ended_with_vm(self, sandbox, &container, "the pod was stopped").await;
        }
        disconnected?;
        let reason = match sandbox.record().state {
            SandboxState::NotReady { reason } => reason,
            _ => reason.to_owned(),
        };
        Ok(|r: &mut SandboxRecord| {
            r.vm = None;
            r.network_added = false;
            r.state = SandboxState::Stopped { reason };
        })
    }

    async fn end_vm(&self, sandbox: &Sandbox) -> Result<()> {
        if let Some(live) = sandbox.set_live(None) {
            live.cancel.cancel();
            // What the guest has in memory of host paths is written now.
            let shut_down = self.shut_down(&live).await;
            live.gone.cancel();
            return shut_down;
        }
        let Some(record) = sandbox.record().vm else { return Ok(()) };
        // Not connected (any more): end it without asking the guest.
        match self.config.hypervisor.adopt(record).await {
            Ok(vm) => Ok(vm.kill().await?),
            Err(hypernetes_hypervisor::HypervisorError::Gone { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the guest write its file systems, then ends the VM in any case. One that does not even answer is not waited for.
    async fn shut_down(&self, live: &Live) -> Result<()> {
        let politely = async {
            live.agent.hello(ANSWER_TIMEOUT).await?;
            live.agent
                .call("Shutdown", SHUTDOWN_TIMEOUT, |mut c| async move { c.shutdown(v1::ShutdownRequest {}).await })
                .await?;
            live.vm.wait().await;
            Ok::<_, crate::agent::AgentError>(())
        };
        tokio::select! {
            outcome = tokio::time::timeout(SHUTDOWN_TIMEOUT, politely) => {
                if !matches!(outcome, Ok(Ok(()))) {
                    tracing::warn!(vm = %live.vm.record().spec.id, ?outcome, "the guest did not power off; killing it");
                }
            }
            _ = live.vm.wait() => {}
        }
        Ok(live.vm.kill().await?)
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let _operation = self.take_over(&sandbox).await?;
        if !matches!(sandbox.record().state, SandboxState::Stopped { .. }) {
            let stopped = self.tear_down(&sandbox, "it was removed").await?;
            // What is removed need not be written first: the disk may be full.
            sandbox.set_record(stopped);
            self.publish(&sandbox, None, cri::ContainerEventType::ContainerStoppedEvent);
        }
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        sandbox.remove_record(&self.records).await?;
        self.publish(&sandbox, None, cri::ContainerEventType::ContainerDeletedEvent);
        self.forget_sandbox(&sandbox.id);
        Ok(())
    }
}

/// What the guest said last, for an error's message.
async fn console(vm: &dyn Vm) -> String {
    let tail = vm.console_tail().await;
    let tail: String = tail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let start = tail.char_indices().rev().nth(499).map_or(0, |(i, _)| i);
    if tail.is_empty() { String::new() } else { format!(" (console: …{})", &tail[start..]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vm_is_sized_by_the_pods_limits() {
        let config = |memory, quota, overhead| cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                resources: Some(cri::LinuxContainerResources {
                    memory_limit_in_bytes: memory,
                    cpu_quota: quota,
                    cpu_period: 100_000,
                    ..Default::default()
                }),
                overhead: Some(cri::LinuxContainerResources { memory_limit_in_bytes: overhead, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(size(&cri::PodSandboxConfig::default(), 64, 256).unwrap(), (1, 256));
        assert_eq!(size(&config(100 << 20, 150_000, 0), 64, 256).unwrap(), (2, 164));
        assert_eq!(size(&config(1, 0, 32 << 20), 64, 256).unwrap(), (1, 97));
        assert_eq!(size(&config(-5, -1, 0), 64, 256).unwrap(), (1, 256));
        assert!(size(&config(i64::MAX, 1, i64::MAX), 64, 256).is_err());
        assert!(size(&config(0, i64::MAX, 0), 64, 256).is_err());
    }

    #[test]
    fn namespaces_are_the_guests_or_refused() {
        let options = |network, pid, ipc| cri::NamespaceOption { network, pid, ipc, ..Default::default() };
        for (network, pid, ipc) in [(0, 1, 0), (2, 1, 0), (0, 2, 0), (0, 0, 2)] {
            assert!(check_namespaces(Some(&options(network, pid, ipc))).is_ok());
        }
        for (network, pid, ipc) in [(1, 1, 0), (0, 9, 0), (0, 1, 3), (0, 3, 0)] {
            assert!(matches!(check_namespaces(Some(&options(network, pid, ipc))), Err(Error::InvalidArgument(_))));
        }
        let target = cri::NamespaceOption { target_id: "c".into(), ..options(0, 3, 0) };
        assert!(check_namespaces(Some(&target)).is_ok());

        let mapping = |container_id, length| cri::IdMapping { container_id, host_id: 1000, length };
        let users = |mode, mappings: Vec<cri::IdMapping>| {
            let user = cri::UserNamespace { mode, uids: mappings.clone(), gids: mappings };
            check_namespaces(Some(&cri::NamespaceOption { userns_options: Some(user), ..options(0, 1, 0) }))
        };
        assert_eq!(users(2, vec![]).unwrap(), None);
        let expected = v1::UserNamespace { host_id: 1000, length: 65536 };
        assert_eq!(users(0, vec![mapping(0, 65536)]).unwrap(), Some(expected));
        for (mode, mappings) in [
            (0, vec![]),
            (0, vec![mapping(0, 10), mapping(10, 10)]),
            (0, vec![mapping(1, 10)]),
            (0, vec![mapping(0, u32::MAX)]),
            (1, vec![]),
            (3, vec![]),
        ] {
            assert!(matches!(users(mode, mappings), Err(Error::InvalidArgument(_))));
        }
    }
}
