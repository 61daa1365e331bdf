//! Pod sandboxes: each is a VM.

use std::{sync::Arc, time::Duration};

use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{Nic, Vm, VmSpec};
use k8s_cri::v1 as cri;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Agent, CALL_TIMEOUT},
    cni::PodNetwork,
    container::ended_with_vm,
    error::{Error, Result},
    host_paths::Served,
    records::{Records, SandboxRecord, SandboxState},
    runtime::{Runtime, identity, new_id, now_nanos},
};

/// File set of what the sandbox itself puts below /etc.
pub(crate) const ETC_SET: &str = "sandbox-etc";
/// How long the guest has to write its file systems and power off.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CPUS: u64 = 64;
const MAX_MEMORY_MIB: u64 = 1 << 20;

/// One pod's VM, dead or alive.
pub(crate) struct Sandbox {
    pub id: String,
    record: Mutex<SandboxRecord>,
    saving: tokio::sync::Mutex<()>,
    live: RwLock<Option<Arc<Live>>>,
    /// Serialises what changes the sandbox as a whole.
    pub operation: tokio::sync::Mutex<()>,
}

/// What a sandbox has while its VM runs and its agent has been greeted.
pub(crate) struct Live {
    pub vm: Arc<dyn Vm>,
    pub agent: Agent,
    /// Ends all that follows the VM.
    pub cancel: CancellationToken,
    /// Serialises attaching and detaching.
    pub disks: tokio::sync::Mutex<()>,
    /// File sets in the guest, with what stops following each.
    pub followed: Mutex<std::collections::HashMap<String, CancellationToken>>,
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
            disks: tokio::sync::Mutex::default(),
            followed: Mutex::default(),
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
            live: RwLock::default(),
            operation: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        self.record.lock().clone()
    }

    /// Changes the record and makes the change durable.
    pub(crate) async fn update(&self, records: &Records, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        // Whoever saves last saves the newest.
        let _saving = self.saving.lock().await;
        let snapshot = {
            let mut record = self.record.lock();
            change(&mut record);
            record.clone()
        };
        let records = records.clone();
        let saved = tokio::task::spawn_blocking(move || records.save_sandbox(&snapshot)).await;
        saved.map_err(std::io::Error::other).flatten().map_err(Error::file("saving the record of sandbox", &self.id))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.record.lock().state == SandboxState::Ready
    }

    /// The running VM.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is none, or hyperd is still finding it again.
    pub(crate) fn live(&self) -> Result<Arc<Live>> {
        self.live.read().clone().ok_or_else(|| {
            let why = match &self.record.lock().state {
                SandboxState::Ready => "is being connected to again".to_owned(),
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
        hostname(&self.record.lock().config)
    }

    pub(crate) fn status(&self) -> cri::PodSandboxStatus {
        let record = self.record();
        let ips: Vec<String> = match (&record.network, &record.state) {
            (Some(network), SandboxState::Ready | SandboxState::NotReady { .. }) => {
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

fn hostname(config: &cri::PodSandboxConfig) -> String {
    let name = config.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
    let name = if config.hostname.is_empty() { name } else { &config.hostname };
    // Linux' limit is 64 bytes with the terminating zero.
    name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(63).collect()
}

/// Refuses what would leave the VM.
pub(crate) fn check_namespaces(options: Option<&cri::NamespaceOption>) -> Result<()> {
    let Some(options) = options else { return Ok(()) };
    let node = cri::NamespaceMode::Node as i32;
    for (what, mode) in [("hostNetwork", options.network), ("hostPID", options.pid), ("hostIPC", options.ipc)] {
        if mode == node {
            return Err(Error::FailedPrecondition(format!(
                "{what} is not possible: the pod is a virtual machine and has no part in its host's namespaces"
            )));
        }
    }
    if options.pid == cri::NamespaceMode::Target as i32 {
        return Err(Error::Unimplemented("sharing the process namespace of one other container"));
    }
    Ok(())
}

fn check_config(config: &cri::PodSandboxConfig, runtime_handler: &str) -> Result<()> {
    let metadata = config.metadata.as_ref().filter(|m| !m.name.is_empty() && !m.uid.is_empty());
    if metadata.is_none() {
        return Err(Error::InvalidArgument("the sandbox's metadata needs a name and a uid".into()));
    }
    if !matches!(runtime_handler, "" | "hypernetes") {
        return Err(Error::InvalidArgument(format!("unknown runtime handler {runtime_handler:?}")));
    }
    if config.port_mappings.iter().any(|p| p.host_port != 0) {
        return Err(Error::FailedPrecondition(
            "hostPort is not possible: tenants' pods are not put on the host's addresses".into(),
        ));
    }
    check_namespaces(security_context(config).and_then(|c| c.namespace_options.as_ref()))
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
        check_config(&config, &runtime_handler)?;
        let (cpus, memory_mib) = size(&config, self.config.base_memory_mib, self.config.default_memory_mib)?;
        let id = new_id();
        let sandbox = Sandbox::new(SandboxRecord {
            id: id.clone(),
            config,
            runtime_handler,
            created_at: now_nanos(),
            state: SandboxState::Starting,
            vm: None,
            network: None,
            network_added: false,
            boot_id: String::new(),
            agent_version: String::new(),
            kernel_release: String::new(),
        });
        let _operation = sandbox.operation.lock().await;
        self.insert_sandbox(sandbox.clone())?;
        let started = tokio::time::Instant::now();
        match self.start_sandbox(&sandbox, cpus, memory_mib).await {
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

    async fn start_sandbox(&self, sandbox: &Arc<Sandbox>, cpus: u32, memory_mib: u32) -> Result<Arc<Live>> {
        sandbox.update(&self.records, |r| r.network_added = true).await?;
        let config = sandbox.record().config;
        let network = self.cni.add(&identity(&sandbox.id, &config)).await?;
        sandbox.update(&self.records, |r| r.network = network.clone()).await?;

        let nic = network.as_ref().map(|n| Nic { tap: n.tap.clone(), netns: n.netns.clone(), mac: n.mac.clone() });
        let spec = VmSpec {
            id: sandbox.id.clone(),
            tenant: config.annotations.get(crate::TENANT_ANNOTATION).cloned().unwrap_or_default(),
            cpus,
            memory_mib,
            nic,
            disk_slots: self.config.disk_slots,
        };
        let vm: Arc<dyn Vm> = self.config.hypervisor.create(spec).await?.into();
        let agent = Agent::new(vm.agent_socket());
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
        let request = configure_request(&config, network.as_ref());
        let configured = agent
            .call("ConfigureSandbox", CALL_TIMEOUT, |mut c| async move { c.configure_sandbox(request).await })
            .await?;
        // An agent of version 1 says it in its greeting.
        let boot_id = match crate::agent::clean(&configured.boot_id) {
            boot_id if boot_id.is_empty() => greeting.boot_id,
            boot_id => boot_id,
        };
        agent.put_files(ETC_SET, etc_files(&config, network.as_ref())).await?;
        sandbox
            .update(&self.records, |r| {
                r.state = SandboxState::Ready;
                r.boot_id = boot_id;
                r.agent_version = greeting.agent_version;
                r.kernel_release = greeting.kernel_release;
            })
            .await?;
        Ok(live)
    }

    /// Undoes an unfinished sandbox. What cannot be undone now keeps its record, which is removable like any other.
    pub(crate) async fn roll_back(&self, sandbox: &Arc<Sandbox>) {
        match self.tear_down(sandbox, "it could not be started").await {
            Ok(()) => {
                if let Err(error) = self.records.remove_sandbox(&sandbox.id) {
                    tracing::error!(sandbox = %sandbox.id, %error, "removing the record failed");
                }
                self.forget_sandbox(&sandbox.id);
            }
            Err(error) => tracing::error!(sandbox = %sandbox.id, %error, "undoing an unfinished sandbox failed"),
        }
    }

    /// Ends the VM, its containers and its network. Idempotent.
    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = match self.sandbox(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let _operation = sandbox.operation.lock().await;
        if matches!(sandbox.record().state, SandboxState::Stopped { .. }) {
            return Ok(());
        }
        self.tear_down(&sandbox, "it was stopped").await?;
        self.publish(&sandbox, None, cri::ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    async fn tear_down(&self, sandbox: &Arc<Sandbox>, reason: &str) -> Result<()> {
        if let Some(live) = sandbox.set_live(None) {
            live.cancel.cancel();
            // What the guest has in memory of host paths is written now.
            let shut_down = self.shut_down(&live).await;
            live.gone.cancel();
            shut_down?;
        } else if let Some(record) = sandbox.record().vm {
            // Not connected (any more): end it without asking the guest.
            match self.config.hypervisor.adopt(record).await {
                Ok(vm) => vm.kill().await?,
                Err(hypernetes_hypervisor::HypervisorError::Gone { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for container in self.containers_of(&sandbox.id) {
            ended_with_vm(self, sandbox, &container, "the pod was stopped").await;
        }
        let record = sandbox.record();
        if record.network_added {
            self.cni.del(&identity(&sandbox.id, &record.config)).await?;
        }
        let reason = match record.state {
            SandboxState::NotReady { reason } => reason,
            _ => reason.to_owned(),
        };
        sandbox
            .update(&self.records, |r| {
                r.vm = None;
                r.network_added = false;
                r.state = SandboxState::Stopped { reason };
            })
            .await
    }

    /// Lets the guest write its file systems, then ends the VM in any case.
    async fn shut_down(&self, live: &Live) -> Result<()> {
        let politely = async {
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
        self.stop_sandbox(&sandbox.id).await?;
        let _operation = sandbox.operation.lock().await;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        self.records.remove_sandbox(&sandbox.id).map_err(Error::file("removing the record of sandbox", &sandbox.id))?;
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

fn configure_request(config: &cri::PodSandboxConfig, network: Option<&PodNetwork>) -> v1::ConfigureSandboxRequest {
    let mut request = v1::ConfigureSandboxRequest {
        hostname: hostname(config),
        unix_time_nanos: now_nanos().unsigned_abs(),
        entropy: rand::random::<[u8; 32]>().to_vec(),
        dns: Some(dns(config, network)),
        sysctls: config.linux.as_ref().map(|l| l.sysctls.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let Some(network) = network else { return request };
    request.interfaces.push(v1::Interface {
        mac: network.mac.clone(),
        name: "eth0".into(),
        addresses: network.addresses.iter().map(|a| a.cidr.clone()).collect(),
        mtu: network.mtu,
    });
    let route = |destination: &str, gateway: Option<std::net::IpAddr>| v1::Route {
        destination: destination.into(),
        gateway: gateway.map(|g| g.to_string()).unwrap_or_default(),
        interface: "eth0".into(),
    };
    for wanted in &network.routes {
        // CNI: a route without a gateway goes to that of the address of its family.
        let v4 = !wanted.destination.contains(':');
        let default = network.addresses.iter().find(|a| a.ip.is_ipv4() == v4).and_then(|a| a.gateway);
        request.routes.push(route(&wanted.destination, wanted.gateway.or(default)));
    }
    request
}

/// The pod's own DNS settings, else the network's.
fn dns(config: &cri::PodSandboxConfig, network: Option<&PodNetwork>) -> v1::Dns {
    match (&config.dns_config, network) {
        (Some(dns), _) if !dns.servers.is_empty() || !dns.searches.is_empty() || !dns.options.is_empty() => {
            v1::Dns { servers: dns.servers.clone(), searches: dns.searches.clone(), options: dns.options.clone() }
        }
        (_, Some(network)) => v1::Dns {
            servers: network.dns.nameservers.clone(),
            searches: network.dns.search.clone(),
            options: network.dns.options.clone(),
        },
        _ => v1::Dns::default(),
    }
}

/// /etc/hostname, /etc/hosts and /etc/resolv.conf for containers that bring none.
fn etc_files(config: &cri::PodSandboxConfig, network: Option<&PodNetwork>) -> Vec<v1::File> {
    let hostname = hostname(config);
    let one_line = |text: &String| text.replace(['\n', '\r'], " ");
    let dns = dns(config, network);
    let mut resolv = String::new();
    for server in &dns.servers {
        resolv += &format!("nameserver {}\n", one_line(server));
    }
    for (keyword, values) in [("search", &dns.searches), ("options", &dns.options)] {
        if !values.is_empty() {
            resolv += &format!("{keyword} {}\n", values.iter().map(one_line).collect::<Vec<_>>().join(" "));
        }
    }
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for address in network.map(|n| n.addresses.as_slice()).unwrap_or_default() {
        hosts += &format!("{}\t{hostname}\n", address.ip);
    }
    [("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolv)]
        .into_iter()
        .map(|(path, text)| v1::File { path: path.into(), mode: 0o644, data: text.into_bytes(), ..Default::default() })
        .collect()
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
    fn the_hosts_namespaces_are_out_of_reach() {
        let options = |network, pid, ipc| cri::NamespaceOption { network, pid, ipc, ..Default::default() };
        assert!(check_namespaces(Some(&options(0, 1, 0))).is_ok());
        for (network, pid, ipc) in [(2, 1, 0), (0, 2, 0), (0, 1, 2)] {
            assert!(matches!(check_namespaces(Some(&options(network, pid, ipc))), Err(Error::FailedPrecondition(_))));
        }
    }
}
