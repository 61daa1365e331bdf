//! What follows running VMs and containers: their ends, their output, their agents' silence; and finding them again
//! after a restart of hyperd.

use std::{
    io::Write,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::join_all;
use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{HypervisorError, Vm};
use k8s_cri::v1 as cri;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use tonic::Code;

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT},
    container::{Container, ended_with_vm},
    error::{Error, Result},
    exec::ProcessHandle,
    hibernate::{SINCE_RECONFIGURED, set_clock},
    logs::{LogWriter, Stream},
    output::Output,
    pod_dir::Links,
    records::{ContainerState, Exit, SandboxState},
    runtime::{Runtime, now_nanos},
    sandbox::{Live, Sandbox},
};

/// Silences in a row after which a sandbox is not ready any more.
const HEALTH_FAILURES: u32 = 3;
/// How long a VM found again may take to answer. The host may be busy with all its VMs just then.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long output may still come after a container's end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long leftovers of networks may put off that hyperd serves.
const GARBAGE_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);
/// How often a line is tried to be written before it is lost.
const LOG_ATTEMPTS: u32 = 4;
/// The kubelet shows this much of a termination message.
const MAX_TERMINATION_MESSAGE: u64 = 4096;

impl Runtime {
    /// Watches one VM until it ends, is stopped, or stops answering.
    pub(crate) fn supervise(self: &Arc<Self>, sandbox: Arc<Sandbox>, live: Arc<Live>) {
        let runtime = self.clone();
        tokio::spawn(async move {
            let reason = tokio::select! {
                // First, here and below: who cancels may end the VM next, as hibernation does.
                biased;
                () = live.cancel.cancelled() => return,
                exit = live.vm.wait() => format!("the pod's VM ended: {}", crate::agent::clean(&exit.reason)),
                reason = runtime.silence(&sandbox, &live) => {
                    runtime.not_ready(&sandbox, &reason).await;
                    // The VM itself runs on, and is ended by StopPodSandbox.
                    tokio::select! {
                        biased;
                        () = live.cancel.cancelled() => return,
                        exit = live.vm.wait() => format!("the pod's VM ended: {}", crate::agent::clean(&exit.reason)),
                    }
                }
            };
            runtime.vm_ended(&sandbox, &live, &reason).await;
        });
    }

    /// Returns, with the reason, when the agent has stopped answering.
    async fn silence(&self, sandbox: &Sandbox, live: &Live) -> String {
        let mut failures = 0;
        loop {
            // Guests that answer are left in peace; one that does not is asked again at once.
            let pause = if failures == 0 { self.config.health_interval } else { RETRY };
            tokio::time::sleep(pause).await;
            match live.agent.hello(self.config.health_timeout).await {
                Ok(greeting) if greeting.boot_id == sandbox.record().boot_id => failures = 0,
                Ok(_) => return "the guest was started anew by itself".into(),
                Err(_) if live.stopped.load(Ordering::Relaxed) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::debug!(sandbox = %sandbox.id, %error, failures, "the agent does not answer");
                    if failures >= HEALTH_FAILURES {
                        return format!("the pod's agent does not answer any more: {error}");
                    }
                }
            }
        }
    }

    /// Ends the VM of a pod that does not end by being asked, and its containers: by the VMM's process, which no guest and no
    /// VMM that stands still can keep alive. Whatever waits for the guest fails then.
    pub(crate) async fn kill_vm(&self, sandbox: &Arc<Sandbox>, why: &str) -> Result<()> {
        let reason = format!("the pod's VM was killed: {why}");
        tracing::warn!(sandbox = %sandbox.id, why, "killing a VM");
        if let Ok(live) = sandbox.live() {
            live.vm.kill().await?;
            self.vm_ended(sandbox, &live, &reason).await;
            return Ok(());
        }
        let record = sandbox.record();
        if let Some(vm) = record.vm.filter(|_| record.state != SandboxState::Hibernated) {
            match self.config.hypervisor.adopt(vm).await {
                Ok(vm) => vm.kill().await?,
                Err(HypervisorError::Gone { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.not_ready(sandbox, &reason).await;
        for container in self.containers_of(&sandbox.id) {
            ended_with_vm(self, sandbox, &container, &reason).await;
        }
        Ok(())
    }

    async fn vm_ended(&self, sandbox: &Arc<Sandbox>, live: &Arc<Live>, reason: &str) {
        live.cancel.cancel();
        live.gone.cancel();
        if let Err(error) = live.vm.kill().await {
            tracing::warn!(sandbox = %sandbox.id, %error, "removing what a VM left failed");
        }
        sandbox.set_live(None);
        self.not_ready(sandbox, reason).await;
        for container in self.containers_of(&sandbox.id) {
            ended_with_vm(self, sandbox, &container, reason).await;
        }
    }

    async fn not_ready(&self, sandbox: &Arc<Sandbox>, reason: &str) {
        tracing::warn!(sandbox = %sandbox.id, reason, "sandbox is not ready any more");
        let mut changed = false;
        let saved = sandbox
            .update(&self.records, |r| {
                if matches!(r.state, SandboxState::Ready) {
                    r.state = SandboxState::NotReady { reason: reason.into() };
                    changed = true;
                }
            })
            .await;
        if let Err(error) = saved {
            tracing::error!(sandbox = %sandbox.id, %error, "the state of a sandbox was not saved");
        }
        if changed {
            self.publish(sandbox, None, cri::ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// Follows a started container to its end.
    pub(crate) fn monitor(self: &Arc<Self>, sandbox: &Arc<Sandbox>, live: &Arc<Live>, container: &Arc<Container>) {
        let (runtime, sandbox, live, container) = (self.clone(), sandbox.clone(), live.clone(), container.clone());
        tokio::spawn(async move {
            let cancel = live.cancel.clone();
            let work = async {
                let output = live.pumps.spawn(runtime.clone().pump(live.clone(), container.clone()));
                let exit = runtime.wait_for_end(&live, &container).await;
                let abort = output.abort_handle();
                if tokio::time::timeout(DRAIN_TIMEOUT, output).await.is_err() {
                    abort.abort();
                }
                runtime.save_termination_message(&live, &container).await;
                *container.log.lock() = None;
                if container.set_exited(&runtime.records, exit).await {
                    runtime.publish(&sandbox, Some(&container.id), cri::ContainerEventType::ContainerStoppedEvent);
                }
            };
            tokio::select! {
                // First: who cancels may end the VM next, and its processes' ends are none of the pod's then.
                biased;
                () = cancel.cancelled() => {}
                () = work => {}
            }
        });
    }

    async fn wait_for_end(&self, live: &Arc<Live>, container: &Arc<Container>) -> Exit {
        let process =
            ProcessHandle { agent: live.agent.clone(), container_id: container.id.clone(), exec_id: String::new() };
        loop {
            match process.wait().await {
                Ok(response) => return exit(container.started_at(), &response),
                Err(AgentError::Refused { code: Code::NotFound | Code::FailedPrecondition, message, .. }) => {
                    return Exit {
                        started_at: container.started_at(),
                        finished_at: now_nanos(),
                        exit_code: 128,
                        reason: "Error".into(),
                        message: format!("the pod does not know the container any more: {message}"),
                    };
                }
                // A lost connection comes back, or the VM is found dead.
                Err(error) => tracing::debug!(container = %container.id, %error, "waiting for a container"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Brings the container's output into its log and to those who are attached, until it ends.
    async fn pump(self: Arc<Self>, live: Arc<Live>, container: Arc<Container>) {
        let Ok(log) = self.open_log(&container).await else { return };
        loop {
            match self.pump_once(&live, &container, &log).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(container = %container.id, %error, "output was interrupted"),
            }
            tokio::select! {
                () = live.cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// A container without a log path has its output read and forgotten.
    async fn open_log(&self, container: &Arc<Container>) -> Result<Arc<Mutex<LogWriter>>, tokio::task::JoinError> {
        let path = container.record().log_path.unwrap_or_else(|| "/dev/null".into());
        let position = self.records.log_position(&container.id);
        let max_bytes = if path == Path::new("/dev/null") { u64::MAX } else { self.config.log_max_bytes };
        let place = position.clone();
        let share = container.log_share.get().cloned();
        let open = move || LogWriter::open(&path, &place, max_bytes).charged_to(share);
        let log = tokio::task::spawn_blocking(open).await?;
        if container.is_removed() {
            let _ = std::fs::remove_file(position);
        }
        let log = Arc::new(Mutex::new(log));
        *container.log.lock() = Some(log.clone());
        Ok(log)
    }

    async fn pump_once(&self, live: &Live, container: &Arc<Container>, log: &Arc<Mutex<LogWriter>>) -> Result<()> {
        let from = log.lock().rewind();
        let mut output = tokio::select! {
            () = live.cancel.cancelled() => return Ok(()),
            output = Output::open(&live.agent, &container.id, "", from) => output?,
        };
        // With a terminal there is one stream.
        let mut open = [true, !container.record().config.tty];
        while open.contains(&true) {
            // Here and not while something is written: what is, is written whole.
            let next = tokio::select! {
                () = live.cancel.cancelled() => return Ok(()),
                next = output.next() => next?,
            };
            let Some(chunk) = next else {
                return Err(AgentError::Nonsense("the output ended without saying so".into()).into());
            };
            let (stream, eof) = (chunk.stream, chunk.eof);
            let next = log.lock().next(stream);
            // What is known already is cut off; what is missing is gone in the guest.
            let known = usize::try_from(next.saturating_sub(chunk.offset)).unwrap_or(usize::MAX).min(chunk.data.len());
            let data = bytes::Bytes::from(chunk.data).slice(known..);
            let gap = (chunk.offset > next && !data.is_empty()).then_some(chunk.offset);
            if !data.is_empty() {
                let _ = container.output.send((stream, data.clone()));
            }
            let (offset, end) = (chunk.offset + known as u64, chunk.offset + (known + data.len()) as u64);
            self.write_log(live, container, log, (stream, end), move |log| {
                let now = jiff::Timestamp::now();
                if let Some(offset) = gap.filter(|offset| log.next(stream) < *offset) {
                    log.skip_to(stream, offset, now)?;
                }
                // An earlier attempt may have come as far as the end of the data.
                let done = usize::try_from(log.next(stream).saturating_sub(offset)).unwrap_or(usize::MAX);
                log.append(stream, &data[done.min(data.len())..], now)?;
                if eof { log.finish(stream, now) } else { Ok(()) }
            })
            .await;
            if eof {
                open[stream as usize] = false;
            }
            let durable = log.lock().durable();
            output.acknowledge(durable).await;
        }
        Ok(())
    }

    /// Writes to the log. What cannot be written is tried again and then lost, up to the offset `end` of its stream: a full disk
    /// holds no container up, and the log goes on as soon as there is room.
    async fn write_log(
        &self,
        live: &Live,
        container: &Arc<Container>,
        log: &Arc<Mutex<LogWriter>>,
        (stream, end): (Stream, u64),
        write: impl Fn(&mut LogWriter) -> std::io::Result<()> + Clone + Send + 'static,
    ) {
        for attempt in 1.. {
            let (file, write) = (log.clone(), write.clone());
            let written = tokio::task::spawn_blocking(move || write(&mut file.lock())).await;
            let written = written.map_err(std::io::Error::other).flatten();
            if log.lock().settle(written, stream, end, attempt >= LOG_ATTEMPTS, &container.id) {
                return;
            }
            tokio::select! {
                () = live.cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn save_termination_message(&self, live: &Live, container: &Container) {
        let Some(log) = container.record().termination_log else { return };
        let request = v1::ReadFileRequest {
            container_id: container.id.clone(),
            path: log.container_path,
            max_bytes: MAX_TERMINATION_MESSAGE,
        };
        let read = live.agent.call("ReadFile", CALL_TIMEOUT, |mut c| async move { c.read_file(request).await }).await;
        let saved = match read {
            Ok(response) if response.data.is_empty() => return,
            Ok(mut response) => {
                response.data.truncate(MAX_TERMINATION_MESSAGE as usize);
                self.write_termination_message(container, &log.host_path, &response.data).map_err(|e| e.to_string())
            }
            Err(error) if error.is_code(Code::NotFound) => return,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = saved {
            tracing::warn!(container = %container.id, error, "the termination message was not saved");
        }
    }

    /// The kubelet has made the file in the pod's directory, and reads it as root.
    fn write_termination_message(&self, container: &Container, path: &Path, message: &[u8]) -> Result<()> {
        let pod = self.pod_dir(&self.sandbox(&container.sandbox_id)?.record().config)?;
        let opened = pod.open(path, OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK, Links::None);
        opened.and_then(|mut file| file.write_all(message)).map_err(Error::file("writing", path))
    }

    /// Finds again what an earlier hyperd left: running VMs are taken over, unfinished ones undone.
    pub(crate) async fn adopt_all(self: &Arc<Self>) -> Result<()> {
        let (sandboxes, containers) = self.records.load().map_err(Error::file("reading", &self.config.root))?;
        for record in sandboxes {
            if let Err(error) = self.insert_sandbox(Sandbox::new(record)) {
                tracing::error!(%error, "a record was left alone");
            }
        }
        for record in containers {
            let Ok(sandbox) = self.sandbox(&record.sandbox_id) else {
                let _ = self.records.remove_container(&record.id);
                continue;
            };
            let container = Container::new(record);
            container.charge_log(&self.logs, &sandbox.record().config);
            if let Err(error) = self.insert_container(container) {
                tracing::error!(%error, "a record was left alone");
            }
        }
        // The newest says what a tenant may have.
        let mut sandboxes = self.sandboxes();
        sandboxes.sort_by_key(|sandbox| sandbox.record().created_at);
        sandboxes.iter().for_each(|sandbox| self.logs.hear(&sandbox.record().config));
        // What was being made when hyperd was killed, and what waited in the pool.
        let (hibernated, others): (Vec<_>, Vec<_>) = self.sandboxes().into_iter().partition(|s| s.is_hibernated());
        let ids = |of: Vec<Arc<Sandbox>>| of.iter().filter_map(|s| s.record().vm.map(|vm| vm.spec.id)).collect();
        self.config.hypervisor.sweep(&ids(others), &ids(hibernated)).await;
        join_all(self.sandboxes().into_iter().map(|s| self.adopt(s))).await;
        let connected = self.sandboxes().iter().filter(|s| s.record().network_added).map(|s| s.id.clone()).collect();
        let collect = self.cni.collect_garbage(&connected);
        if tokio::time::timeout(GARBAGE_TIMEOUT, collect).await.is_err() {
            tracing::warn!("plugins are slow to undo what an earlier hyperd left: the next start goes on with it");
        }
        Ok(())
    }

    async fn adopt(self: &Arc<Self>, sandbox: Arc<Sandbox>) {
        let record = sandbox.record();
        match record.state {
            SandboxState::Starting => return self.roll_back(&sandbox).await,
            SandboxState::Stopped { .. } | SandboxState::Hibernated => return,
            SandboxState::Ready | SandboxState::NotReady { .. } => {}
        }
        let adopted = match record.vm {
            Some(vm) => self.config.hypervisor.adopt(vm).await,
            None => Err(HypervisorError::Gone { id: sandbox.id.clone() }),
        };
        match adopted {
            Ok(vm) if record.state == SandboxState::Ready => {
                let runtime = self.clone();
                tokio::spawn(async move { runtime.reconnect(sandbox, vm.into()).await });
            }
            // Its agent was silent before: StopPodSandbox will end it.
            Ok(_) => {}
            Err(error) => {
                let reason = match error {
                    HypervisorError::Gone { .. } => "the pod's VM ended while hyperd did not run".to_owned(),
                    other => format!("the pod's VM cannot be taken over: {other}"),
                };
                self.not_ready(&sandbox, &reason).await;
                for container in self.containers_of(&sandbox.id) {
                    ended_with_vm(self, &sandbox, &container, &reason).await;
                }
            }
        }
    }

    /// Follows a VM that was there before this hyperd, or was resumed.
    pub(crate) async fn reconnect(self: &Arc<Self>, sandbox: Arc<Sandbox>, vm: Arc<dyn Vm>) {
        let agent = Agent::new(vm.agent());
        let live = Live::new(vm.clone(), agent.clone());
        let operation = sandbox.operation.lock().await;
        // An earlier hyperd may have stopped it. The record says that the VM is the pod: what was saved of it is not any more.
        let went_on = tokio::select! {
            // Its monitor may be as hung as the guest.
            _ = vm.wait() => Ok(()),
            went_on = vm.go_on() => went_on,
        };
        if let Err(error) = went_on {
            // It may be hung, or this host very busy: it is not ended for that.
            let reason = format!("the pod's VM does not answer any more: {error}");
            return self.not_ready(&sandbox, &reason).await;
        }
        self.config.hypervisor.forget(&sandbox.id).await;
        let greeted = tokio::select! {
            exit = vm.wait() => {
                let reason = format!("the pod's VM ended: {}", crate::agent::clean(&exit.reason));
                drop(operation);
                return self.vm_ended(&sandbox, &live, &reason).await;
            }
            greeted = agent.hello_within(RECONNECT_TIMEOUT) => greeted,
        };
        let boot_id = sandbox.record().boot_id;
        match greeted {
            Ok(greeting) if greeting.boot_id == boot_id => {}
            Ok(_) => return self.not_ready(&sandbox, "the guest was started anew by itself").await,
            Err(error) => return self.not_ready(&sandbox, &error.to_string()).await,
        }
        if sandbox.record().protocol_version >= SINCE_RECONFIGURED
            && let Err(error) = set_clock(&agent).await
        {
            tracing::warn!(sandbox = %sandbox.id, %error, "the clock of a VM was not set");
        }
        self.settle(&sandbox, &live).await;
        sandbox.set_live(Some(live.clone()));
        drop(operation);
        tracing::info!(sandbox = %sandbox.id, "took over a running VM");
        if let Err(error) = self.cni.check(&sandbox.id).await {
            tracing::warn!(sandbox = %sandbox.id, %error, "the sandbox is not connected any more as it was");
        }
        self.supervise(sandbox.clone(), live.clone());
        for container in self.containers_of(&sandbox.id) {
            let record = container.record();
            for source in record.file_sets {
                if let Err(error) = self.follow(&sandbox, &live, source).await {
                    tracing::warn!(container = %container.id, %error, "files are not followed any more");
                }
            }
            for host_path in record.host_paths {
                let allowed = self.policy(&sandbox.record().config).permits(&host_path);
                live.serve_host_path_again(&host_path, allowed).await;
            }
            if matches!(record.state, ContainerState::Running { .. }) {
                self.monitor(&sandbox, &live, &container);
            }
        }
    }

    /// Undoes what the earlier hyperd was doing to the VM when it was killed.
    async fn settle(&self, sandbox: &Arc<Sandbox>, live: &Arc<Live>) {
        let settled = async {
            live.vm.settle_disks().await?;
            sandbox.update(&self.records, |r| r.vm = Some(live.vm.record())).await
        };
        if let Err(error) = settled.await {
            tracing::warn!(sandbox = %sandbox.id, %error, "what is in the VM's disk slots is not known");
        }
        for container in self.containers_of(&sandbox.id) {
            match container.record().state {
                ContainerState::Creating => {
                    tracing::info!(sandbox = %sandbox.id, container = %container.id, "undoing an unfinished container");
                    self.undo_container(sandbox, live, &container).await;
                }
                // Whether the start happened is found out by waiting for the container's end.
                ContainerState::Starting => {
                    let running = ContainerState::Running { started_at: now_nanos() };
                    if let Err(error) = container.update(&self.records, |r| r.state = running).await {
                        tracing::error!(container = %container.id, %error, "the state of a container was not saved");
                    }
                }
                ContainerState::Created | ContainerState::Running { .. } | ContainerState::Exited(_) => {}
            }
        }
    }
}

/// The end of a process as the kubelet words it. Times are the host's: the guest's clock is its own.
pub(crate) fn exit(started_at: i64, response: &v1::WaitProcessResponse) -> Exit {
    let reason = match response.exit_code {
        _ if response.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    let finished_at =
        i64::try_from(response.finished_unix_nanos).ok().filter(|t| (started_at..=now_nanos()).contains(t));
    Exit {
        started_at,
        finished_at: finished_at.unwrap_or_else(now_nanos),
        exit_code: response.exit_code,
        reason: reason.into(),
        message: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_the_kubelets_reasons() {
        let end = |exit_code, oom_killed| {
            exit(
                5,
                &v1::WaitProcessResponse { exit_code, oom_killed, finished_unix_nanos: u64::MAX, ..Default::default() },
            )
        };
        assert_eq!(end(0, false).reason, "Completed");
        assert_eq!(end(3, false).reason, "Error");
        assert_eq!(end(137, true).reason, "OOMKilled");
        assert!(end(0, false).finished_at <= now_nanos());
    }
}
