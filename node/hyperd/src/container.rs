//! Containers: create, start, stop, remove.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hypernetes_names::PathComponent;
use k8s_cri::v1 as cri;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::{
    agent::AgentError,
    error::{Error, Result},
    exec::ProcessHandle,
    log_budget::{LogBudgets, LogShare},
    logs::{self, LogWriter, Stream},
    mounts,
    prepare::Prepared,
    process,
    records::{ContainerRecord, ContainerState, Exit, Records},
    resources,
    runtime::{Runtime, new_id, now_nanos},
    sandbox::{Live, Sandbox, check_namespaces},
    signals,
    stats::CpuRate,
};

/// Exit code of a container that ended with its VM: killed by SIGKILL.
const KILLED: i32 = 137;
/// What other runtimes say of a container that never started.
const START_ERROR: i32 = 128;
const SIGKILL: u32 = 9;
/// How long the guest may take, beyond the grace, to have ended a container that is stopped.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// Between two attempts to send a signal over connections that break.
const SIGNAL_AGAIN: Duration = Duration::from_millis(200);
/// Chunks that an attached client may be behind.
const ATTACH_BACKLOG: usize = 256;

pub(crate) struct Container {
    pub id: String,
    pub sandbox_id: String,
    record: Mutex<ContainerRecord>,
    saving: tokio::sync::Mutex<()>,
    /// Its record is no more: whoever still knows it writes nothing.
    removed: AtomicBool,
    /// Serialises start, stop and remove.
    pub operation: tokio::sync::Mutex<()>,
    exited: watch::Sender<bool>,
    /// The output as it comes, for attached clients.
    pub output: broadcast::Sender<(Stream, bytes::Bytes)>,
    /// The open log while something writes it.
    pub log: Mutex<Option<Arc<Mutex<LogWriter>>>>,
    /// What its log takes of its tenant's; none: it has no log, or is the operator's.
    pub log_share: OnceLock<Arc<LogShare>>,
    pub cpu_rate: CpuRate,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Arc<Self> {
        let ended = matches!(record.state, ContainerState::Exited(_));
        Arc::new(Self {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            record: Mutex::new(record),
            saving: tokio::sync::Mutex::default(),
            removed: AtomicBool::new(false),
            operation: tokio::sync::Mutex::default(),
            exited: watch::Sender::new(ended),
            output: broadcast::Sender::new(ATTACH_BACKLOG),
            log: Mutex::default(),
            log_share: OnceLock::new(),
            cpu_rate: CpuRate::default(),
        })
    }

    /// Counts the log from here on as its pod's tenant's, with what there is of it.
    pub(crate) fn charge_log(&self, budgets: &LogBudgets, pod: &cri::PodSandboxConfig) {
        let Some(path) = self.record().log_path else { return };
        if let Some(share) = budgets.share(pod) {
            share.set(logs::bytes(&path));
            let _ = self.log_share.set(share);
        }
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        self.record.lock().clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.record.lock().state, ContainerState::Running { .. })
    }

    /// Whether it is there for clients.
    pub(crate) fn is_made(&self) -> bool {
        self.record.lock().state != ContainerState::Creating
    }

    /// Changes the record and makes the change durable, unless it has been removed.
    pub(crate) async fn update(&self, records: &Records, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let _saving = self.saving.lock().await;
        let snapshot = {
            let mut record = self.record.lock();
            change(&mut record);
            record.clone()
        };
        if self.is_removed() {
            return Ok(());
        }
        let records = records.clone();
        let saved = tokio::task::spawn_blocking(move || records.save_container(&snapshot)).await;
        saved.map_err(std::io::Error::other).flatten().map_err(Error::file("saving the record of container", &self.id))
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Removes the record for good.
    async fn remove_record(&self, records: &Records) -> Result<()> {
        let _saving = self.saving.lock().await;
        // Before: who makes a file after it looks.
        self.removed.store(true, Ordering::Release);
        records.remove_container(&self.id).map_err(Error::file("removing the record of container", &self.id))
    }

    /// Puts down the end, once: the first to say it is right.
    pub(crate) async fn set_exited(&self, records: &Records, exit: Exit) -> bool {
        let mut first = false;
        let saved = self
            .update(records, |r| {
                if !matches!(r.state, ContainerState::Exited(_)) {
                    first = true;
                    r.state = ContainerState::Exited(exit);
                }
            })
            .await;
        if let Err(error) = saved {
            // In memory it is right; after a restart the agent or the VM's absence tells again.
            tracing::error!(container = %self.id, %error, "the end of a container was not saved");
        }
        self.exited.send_replace(true);
        first
    }

    /// Returns when the container has ended.
    pub(crate) async fn ended(&self) {
        // The sender lives in self.
        let _ = self.exited.subscribe().wait_for(|ended| *ended).await;
    }

    pub(crate) fn started_at(&self) -> i64 {
        match &self.record.lock().state {
            ContainerState::Running { started_at } => *started_at,
            ContainerState::Exited(exit) => exit.started_at,
            ContainerState::Creating | ContainerState::Created | ContainerState::Starting => 0,
        }
    }

    pub(crate) fn status(&self) -> cri::ContainerStatus {
        let record = self.record();
        let user = record.user.map(|user| cri::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.into_iter().map(i64::from).collect(),
        });
        let stop_signal = signals::stop(record.config.stop_signal(), &record.stop_signal);
        let mut status = cri::ContainerStatus {
            id: record.id,
            user: user.map(|linux| cri::ContainerUser { linux: Some(linux) }),
            stop_signal: signals::cri(stop_signal) as i32,
            state: state(&record.state) as i32,
            created_at: record.created_at,
            image_ref: record.image_ref,
            image_id: record.image_id,
            log_path: record.log_path.map(|p| p.display().to_string()).unwrap_or_default(),
            metadata: record.config.metadata,
            image: Some(cri::ImageSpec { image: record.image_name, ..record.config.image.unwrap_or_default() }),
            labels: record.config.labels,
            annotations: record.config.annotations,
            mounts: record.config.mounts,
            resources: Some(cri::ContainerResources {
                linux: record.config.linux.and_then(|l| l.resources),
                windows: None,
            }),
            ..Default::default()
        };
        match record.state {
            ContainerState::Running { started_at } => status.started_at = started_at,
            ContainerState::Exited(exit) => {
                status.started_at = exit.started_at;
                status.finished_at = exit.finished_at;
                status.exit_code = exit.exit_code;
                status.reason = exit.reason;
                status.message = exit.message;
            }
            ContainerState::Creating | ContainerState::Created | ContainerState::Starting => {}
        }
        status
    }

    pub(crate) fn summary(&self) -> cri::Container {
        let record = self.record();
        cri::Container {
            state: state(&record.state) as i32,
            id: record.id,
            pod_sandbox_id: record.sandbox_id,
            metadata: record.config.metadata,
            image: record.config.image,
            image_ref: record.image_ref,
            image_id: record.image_id,
            created_at: record.created_at,
            labels: record.config.labels,
            annotations: record.config.annotations,
        }
    }
}

fn state(state: &ContainerState) -> cri::ContainerState {
    match state {
        ContainerState::Creating | ContainerState::Created | ContainerState::Starting => {
            cri::ContainerState::ContainerCreated
        }
        ContainerState::Running { .. } => cri::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => cri::ContainerState::ContainerExited,
    }
}

/// Puts down that a container ended because its VM did.
pub(crate) async fn ended_with_vm(runtime: &Runtime, sandbox: &Sandbox, container: &Container, why: &str) {
    if !container.is_made() {
        // Whoever makes it undoes it; the record of one that nobody makes any more goes with its sandbox's.
        return;
    }
    let exit = Exit {
        started_at: container.started_at(),
        finished_at: now_nanos(),
        exit_code: KILLED,
        reason: "Error".into(),
        message: why.into(),
    };
    if container.set_exited(&runtime.records, exit).await {
        runtime.publish(sandbox, Some(&container.id), cri::ContainerEventType::ContainerStoppedEvent);
    }
}

/// The log of a container, in its sandbox's directory of logs: that path has been parsed (see `sandbox::check_config`), and
/// so is each part of this one.
fn log_path(config: &cri::ContainerConfig, sandbox: &cri::PodSandboxConfig) -> Result<Option<PathBuf>> {
    if config.log_path.is_empty() || sandbox.log_directory.is_empty() {
        return Ok(None);
    }
    let parts: Result<PathBuf, _> = config.log_path.split('/').map(PathComponent::new).collect();
    let parts = parts.map_err(|error| Error::InvalidArgument(format!("the path of the log: {error}")))?;
    Ok(Some(Path::new(&sandbox.log_directory).join(parts)))
}

fn check_config(config: &cri::ContainerConfig) -> Result<()> {
    if config.metadata.as_ref().is_none_or(|m| m.name.is_empty()) {
        return Err(Error::InvalidArgument("the container's metadata needs a name".into()));
    }
    if !config.devices.is_empty() || !config.cdi_devices.is_empty() {
        return Err(Error::FailedPrecondition(
            "devices of the host cannot be given to a container: the pod is a virtual machine".into(),
        ));
    }
    let Some(context) = config.linux.as_ref().and_then(|l| l.security_context.as_ref()) else { return Ok(()) };
    let localhost = cri::security_profile::ProfileType::Localhost as i32;
    let named = context.apparmor_profile.starts_with("localhost/");
    if named || context.apparmor.as_ref().is_some_and(|profile| profile.profile_type == localhost) {
        return Err(Error::FailedPrecondition(
            "AppArmor profiles of the node are not possible: the pod is a virtual machine with a kernel of its own, \
             which has none; remove the profile or use RuntimeDefault"
                .into(),
        ));
    }
    check_namespaces(context.namespace_options.as_ref())?;
    Ok(())
}

/// Sends a signal, over another connection where one has broken. The caller's patience is the limit.
async fn signal_until_heard(process: &ProcessHandle, signal: u32, all: bool) -> Result<(), AgentError> {
    loop {
        match process.signal(signal, all).await {
            Err(error) if error.is_connection() => tokio::time::sleep(SIGNAL_AGAIN).await,
            other => return other,
        }
    }
}

impl Runtime {
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: cri::ContainerConfig,
    ) -> Result<String> {
        let _busy = self.pool.busy();
        let sandbox = self.sandbox(sandbox_id)?;
        let live = sandbox.live()?;
        if !sandbox.is_ready() {
            return Err(Error::FailedPrecondition(format!("the sandbox {} is not ready", sandbox.id)));
        }
        check_config(&config)?;
        let reference = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let image = self.image(&sandbox, &reference)?;
        let mut config = config;
        for mount in &mut config.mounts {
            // What the mount's image is, whatever its name means later.
            if let Some(reference) = mounts::image_reference(mount).map(str::to_owned) {
                let id = self.image(&sandbox, &reference)?.id.to_string();
                mount.image.get_or_insert_default().image_ref = id;
            }
        }
        let image_id = image.id.to_string();
        let container = Container::new(ContainerRecord {
            id: new_id(),
            sandbox_id: sandbox.id.clone(),
            process: process::container(&config, &image.config, &sandbox.hostname())?,
            image_ref: image.digests.first().cloned().unwrap_or_else(|| image_id.clone()),
            image_id,
            image_name: image.tags.first().cloned().unwrap_or(reference),
            stop_signal: image.config.stop_signal.clone(),
            created_at: now_nanos(),
            state: ContainerState::Creating,
            disks: Default::default(),
            file_sets: Vec::new(),
            host_paths: Vec::new(),
            termination_log: None,
            user: None,
            guest_pid: 0,
            log_path: log_path(&config, &sandbox.record().config)?,
            config,
        });
        container.charge_log(&self.logs, &sandbox.record().config);
        if let Some(kind) = sandbox.kind.get() {
            self.pool.uses_image(kind, &image.rootfs);
        }
        let prepared = Prepared::plan(self, &sandbox, &container, &image)?;
        let _operation = container.operation.lock().await;
        self.insert_container(container.clone())?;
        // Whoever stops the VM either finds the container, or is found here.
        if let Err(error) = sandbox.live() {
            self.forget_container(&container.id);
            return Err(error);
        }
        match self.prepare_container(&sandbox, &live, &container, prepared).await {
            Ok(()) => {
                self.collect_dead(&sandbox, &container);
                self.publish(&sandbox, Some(&container.id), cri::ContainerEventType::ContainerCreatedEvent);
                Ok(container.id.clone())
            }
            Err(error) => {
                tracing::warn!(container = %container.id, %error, "container could not be made");
                self.undo_container(&sandbox, &live, &container).await;
                Err(error)
            }
        }
    }

    /// Removes, in the background, all but the last of the dead containers that a new one follows: whoever crashes again and
    /// again leaves one log and one layer behind. A kubelet may do the same, and later.
    fn collect_dead(self: &Arc<Self>, sandbox: &Sandbox, new: &Container) {
        let name = |of: &Container| of.record().config.metadata.map(|metadata| metadata.name);
        let is_dead = |c: &Arc<Container>| matches!(c.record().state, ContainerState::Exited(_));
        let of_name = name(new);
        let mut dead: Vec<_> = self
            .containers_of(&sandbox.id)
            .into_iter()
            .filter(|other| other.id != new.id && is_dead(other) && name(other) == of_name)
            .collect();
        // They come in the order in which they were made.
        dead.pop();
        let runtime = self.clone();
        tokio::spawn(async move {
            for container in dead {
                if let Err(error) = runtime.remove_container(&container.id).await {
                    tracing::warn!(container = %container.id, %error, "a dead container was left behind");
                    continue;
                }
                if let Some(log) = container.record().log_path {
                    logs::remove(&log);
                }
            }
        });
    }

    /// Undoes an unfinished container.
    pub(crate) async fn undo_container(&self, sandbox: &Arc<Sandbox>, live: &Arc<Live>, container: &Arc<Container>) {
        if !live.cancel.is_cancelled()
            && let Err(error) = self.release(sandbox, live, container).await
        {
            // The VM's end frees the rest.
            tracing::warn!(container = %container.id, %error, "a container was not released completely");
        }
        if let Err(error) = container.remove_record(&self.records).await {
            tracing::error!(container = %container.id, %error, "removing the record failed");
        }
        self.forget_container(&container.id);
    }

    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let _busy = self.pool.busy();
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.sandbox_id)?;
        let _operation = container.operation.lock().await;
        let state = container.record().state;
        if state != ContainerState::Created {
            let why = if matches!(state, ContainerState::Exited(_)) { "has ended" } else { "was started before" };
            return Err(Error::FailedPrecondition(format!("the container {} {why}", container.id)));
        }
        let live = sandbox.live()?;
        container.update(&self.records, |r| r.state = ContainerState::Starting).await?;
        if let Some(path) = container.record().log_path
            && let Err(error) = logs::create(&path)
        {
            // It is tried again until it can be had; the container is held back by its pipe meanwhile.
            tracing::warn!(container = %container.id, path = %path.display(), %error, "the log cannot be made");
        }
        let request = hypernetes_guest_protocol::v1::StartProcessRequest {
            container_id: container.id.clone(),
            ..Default::default()
        };
        let started = live
            .agent
            .call("StartProcess", crate::agent::CALL_TIMEOUT, |mut c| async move { c.start_process(request).await })
            .await;
        let guest_pid = started.as_ref().map_or(0, |started| started.pid);
        if let Err(error) = started {
            let exit = Exit {
                started_at: 0,
                finished_at: now_nanos(),
                exit_code: START_ERROR,
                reason: "StartError".into(),
                message: error.to_string(),
            };
            container.set_exited(&self.records, exit).await;
            self.publish(&sandbox, Some(&container.id), cri::ContainerEventType::ContainerStoppedEvent);
            return Err(error.into());
        }
        let started_at = now_nanos();
        container
            .update(&self.records, |r| {
                r.state = ContainerState::Running { started_at };
                r.guest_pid = guest_pid;
            })
            .await?;
        self.publish(&sandbox, Some(&container.id), cri::ContainerEventType::ContainerStartedEvent);
        self.monitor(&sandbox, &live, &container);
        Ok(())
    }

    /// Asks the container to end, and kills it after `grace`. Idempotent.
    ///
    /// It ends within `grace` and [`STOP_PATIENCE`] whatever the guest does: where that does not do its part the VM is killed, and
    /// all of the pod's containers with it.
    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let container = match self.container(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let sandbox = self.sandbox(&container.sandbox_id)?;
        let politely = self.stop_politely(&sandbox, &container, grace);
        let why = match tokio::time::timeout(grace + STOP_PATIENCE, politely).await {
            Ok(Ok(())) => return Ok(()),
            // It may answer yet; who wants the pod away stops the sandbox.
            Ok(Err(error)) if sandbox.is_hibernated() => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the guest has not ended a container within {} s", (grace + STOP_PATIENCE).as_secs()),
        };
        self.kill_vm(&sandbox, &why).await
    }

    async fn stop_politely(&self, sandbox: &Arc<Sandbox>, container: &Arc<Container>, grace: Duration) -> Result<()> {
        let _operation = container.operation.lock().await;
        match container.record().state {
            // Only an earlier hyperd knew how far it came; the agent is being asked.
            ContainerState::Starting | ContainerState::Running { .. } => {}
            _ => return Ok(()),
        }
        if sandbox.is_ready() && sandbox.live().is_err() {
            // It is just being connected to.
            drop(sandbox.operation.lock().await);
        }
        let agent = sandbox.live()?.agent.clone();
        let process = ProcessHandle { agent, container_id: container.id.clone(), exec_id: String::new() };
        if !grace.is_zero() {
            let record = container.record();
            let ask = async {
                let signal = signals::stop(record.config.stop_signal(), &record.stop_signal);
                if let Err(error) = signal_until_heard(&process, signal, false).await {
                    tracing::debug!(container = %container.id, %error, "it could not be asked to end");
                }
                container.ended().await;
            };
            if tokio::time::timeout(grace, ask).await.is_ok() {
                return Ok(());
            }
        }
        signal_until_heard(&process, SIGKILL, true).await?;
        container.ended().await;
        Ok(())
    }

    /// Removes a container, running or not. Idempotent.
    pub(crate) async fn remove_container(&self, id: &str) -> Result<()> {
        let container = match self.container(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        self.stop_container(&container.id, Duration::ZERO).await?;
        let _operation = container.operation.lock().await;
        let sandbox = self.sandbox(&container.sandbox_id)?;
        if sandbox.is_ready() || sandbox.is_hibernated() {
            // While its VM sleeps or is being connected to, nothing could be given back there.
            sandbox.live()?;
            self.release_container(&sandbox, &container).await;
        }
        container.remove_record(&self.records).await?;
        self.forget_container(&container.id);
        self.publish(&sandbox, Some(&container.id), cri::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Changes the limits of a container that was made and has not ended.
    ///
    /// # Errors
    /// `FailedPrecondition` for a container that has ended, and for what its VM is too small for.
    pub(crate) async fn update_container(&self, id: &str, change: cri::LinuxContainerResources) -> Result<()> {
        let container = self.container(id)?;
        let _operation = container.operation.lock().await;
        if matches!(container.record().state, ContainerState::Exited(_)) {
            return Err(Error::FailedPrecondition(format!("the container {} has ended", container.id)));
        }
        let sandbox = self.sandbox(&container.sandbox_id)?;
        let live = sandbox.live()?;
        sandbox.requires(3, "changing the resources of a container")?;
        let mut config = container.record().config;
        let linux = config.linux.get_or_insert_default();
        let wanted = resources::merge(linux.resources.take().unwrap_or_default(), &change);
        resources::fits_vm(&wanted, &live.vm.record().spec)?;
        let request = hypernetes_guest_protocol::v1::UpdateContainerRequest {
            container_id: container.id.clone(),
            resources: Some(resources::guest(&wanted)?),
        };
        live.agent
            .call(
                "UpdateContainer",
                crate::agent::CALL_TIMEOUT,
                |mut c| async move { c.update_container(request).await },
            )
            .await?;
        linux.resources = Some(wanted);
        container.update(&self.records, |r| r.config = config).await
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let log = container.log.lock().clone();
        let Some(log) = log.filter(|_| container.is_running()) else {
            return Err(Error::FailedPrecondition(format!("the container {} is not running", container.id)));
        };
        let reopened = tokio::task::spawn_blocking(move || log.lock().reopen()).await;
        reopened.map_err(std::io::Error::other).flatten().map_err(Error::file("opening the log of container", id))
    }

    /// Gives back what a container has in its VM, if that still runs.
    pub(crate) async fn release_container(&self, sandbox: &Arc<Sandbox>, container: &Arc<Container>) {
        let Ok(live) = sandbox.live() else { return };
        if let Err(error) = self.release(sandbox, &live, container).await {
            // The VM's end frees the rest.
            tracing::warn!(container = %container.id, %error, "a container was not released completely");
        }
    }

    async fn release(&self, sandbox: &Arc<Sandbox>, live: &Arc<Live>, container: &Arc<Container>) -> Result<()> {
        let request = hypernetes_guest_protocol::v1::RemoveProcessRequest {
            container_id: container.id.clone(),
            ..Default::default()
        };
        let removed = live
            .agent
            .call("RemoveProcess", STOP_PATIENCE, |mut c| async move { c.remove_process(request).await })
            .await;
        match removed {
            Err(error) if !error.is_code(tonic::Code::NotFound) => return Err(error.into()),
            _ => {}
        }
        self.detach_unused(sandbox, live, container).await
    }
}
