//! One pod's life: what is there is compared with what should be, at each word of the API, the runtime or a probe.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hypernetes_api::{DnsLabel, Uid, names};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    admit::{self, Rejection},
    container,
    events::tell,
    identity::PodId,
    node::{
        Shared,
        cri::{Container, LOG_BYTES, POD_NAME, POD_NAMESPACE, POD_UID, Runtime, SANDBOX},
        tenant_limits,
    },
    objects::Objects,
    probes, status, users, volumes,
};

/// What a worker is given.
pub struct Task {
    pub shared: Arc<Shared>,
    pub id: PodId,
    /// Why the node does not take the pod.
    pub rejection: Option<Rejection>,
    /// None when the pod is gone from the API.
    pub pod: watch::Receiver<Option<Pod>>,
    pub nudge: mpsc::Sender<()>,
    pub nudged: mpsc::Receiver<()>,
}

/// Longest time that a pod is given to end, whatever it asks for.
const MAX_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_GRACE: i64 = 30;

/// A grace period, bounded. Seconds below zero are none, as upstream's API has it.
pub fn grace(seconds: Option<i64>) -> Duration {
    Duration::from_secs(u64::try_from(seconds.unwrap_or(DEFAULT_GRACE)).unwrap_or(0)).min(MAX_GRACE)
}

fn grace_of(pod: &Pod) -> Duration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    grace(pod.metadata.deletion_grace_period_seconds.or(own))
}

/// 10 s, doubled with each failure, 5 min at most; forgotten after 10 min of running (kubelet's defaults).
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MOST: Duration = Duration::from_secs(300);
const BACKOFF_RESET: Duration = Duration::from_secs(600);

pub(crate) fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(BACKOFF_MOST)
}

/// What the worker knows of a container beyond what the runtime does.
#[derive(Default)]
pub struct Memory {
    pub waiting: Option<(String, String)>,
    pub failures: u32,
    pub not_before: Option<Instant>,
    pub image_failures: u32,
    pub probes: Option<probes::Probes>,
}

pub struct Worker {
    pub shared: Arc<Shared>,
    pub id: PodId,
    pub memory: HashMap<String, Memory>,
    rejection: Option<Rejection>,
    tokens: volumes::Tokens,
    nudge: mpsc::Sender<()>,
    reported: Value,
    setup_failures: u32,
    setup_not_before: Option<Instant>,
}

/// Goes on until the pod is gone. What it knows of the pod it finds again: it may be called anew after it was lost.
pub fn run(task: &mut Task) -> BoxFuture<'_, ()> {
    Box::pin(work(task))
}

async fn work(task: &mut Task) {
    let mut worker = Worker {
        shared: task.shared.clone(),
        id: task.id.clone(),
        memory: HashMap::new(),
        rejection: task.rejection.clone(),
        tokens: volumes::Tokens::default(),
        nudge: task.nudge.clone(),
        reported: Value::Null,
        setup_failures: 0,
        setup_not_before: None,
    };
    loop {
        let pod = task.pod.borrow_and_update().clone();
        let Some(pod) = pod else {
            worker.remove().await;
            return;
        };
        if pod.metadata.deletion_timestamp.is_some() {
            worker.terminate(&pod, &mut task.pod).await;
            return;
        }
        let sync: BoxFuture<'_, _> = Box::pin(worker.sync(&pod));
        let next = tokio::select! {
            next = sync => next,
            // Whatever is being waited for: a pod that is to end does not wait for it.
            () = ending(task.pod.clone()) => continue,
        };
        tokio::select! {
            changed = task.pod.changed() => if changed.is_err() { return },
            _ = task.nudged.recv() => {}
            () = until(next) => {}
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Until the pod is being deleted, or is gone.
async fn ending(mut pod: watch::Receiver<Option<Pod>>) {
    let ends = |pod: &Option<Pod>| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    if pod.wait_for(ends).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Until the pod is to end earlier than at `deadline`: when.
async fn hurried(pod: &mut watch::Receiver<Option<Pod>>, deadline: Instant) -> Instant {
    loop {
        if pod.changed().await.is_err() {
            return std::future::pending().await;
        }
        let now = Instant::now();
        let wanted = pod.borrow_and_update().as_ref().map_or(now, |pod| now + grace_of(pod));
        if wanted < deadline {
            return wanted;
        }
    }
}

fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}

impl Worker {
    /// Brings the pod nearer to what it should be; returns when to look again if nothing happens before.
    async fn sync(&mut self, pod: &Pod) -> Option<Instant> {
        if admit::is_over(pod) {
            return self.rest().await;
        }
        if let Some(rejection) = self.rejection.clone() {
            return self.reject(pod, &rejection).await;
        }
        let spec = pod.spec.clone()?;
        let containers = match self.shared.runtime.containers(&self.id.uid).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(pod = %self.id.uid, %error, "the runtime does not answer");
                return Some(Instant::now() + Duration::from_secs(1));
            }
        };
        let now = Instant::now();
        let mut again = None;
        if self.setup_not_before.is_none_or(|at| at <= now) {
            self.setup_not_before = None;
            match self.make_progress(pod, &spec, &containers).await {
                Ok(next) => {
                    again = next;
                    self.setup_failures = 0;
                }
                Err(Setback { reason, message }) => {
                    tell(&self.shared, &self.id, true, reason, &message).await;
                    self.setup_failures += 1;
                    // What a pod as a whole waits for is usually about to appear.
                    // A volume is free as soon as another pod has ended.
                    let most = if reason == "FailedAttachVolume" { 3 } else { 6 };
                    let delay = Duration::from_millis(500 << self.setup_failures.min(most));
                    self.setup_not_before = Some(Instant::now() + delay);
                }
            }
        }
        self.report(pod, &spec).await;
        earliest([again, self.setup_not_before])
    }

    async fn make_progress(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        containers: &[Container],
    ) -> Result<Option<Instant>, Setback> {
        let sandboxes =
            self.shared.runtime.sandboxes(&self.id.uid).await.map_err(Setback::runtime("FailedCreatePodSandBox"))?;
        let ready = sandboxes.iter().find(|s| s.state == cri::PodSandboxState::SandboxReady as i32);
        let inits = spec.init_containers.clone().unwrap_or_default();
        let latest = |name: &str| containers.iter().find(|c| c.name == name);
        if ready.is_none() && !self.wants_sandbox(spec, &inits, containers) {
            return Ok(None);
        }
        let dir = self.shared.pods.make(self.id.uid.clone()).map_err(Setback::of("FailedCreatePodSandBox"))?;
        let mut again = vec![volumes::prepare(&self.shared, &self.id, pod, &dir, &mut self.tokens).await?];
        let sandbox = match ready {
            Some(sandbox) => sandbox.id.clone(),
            None => {
                // A VM takes its time: what the pod waits for is told before.
                self.report(pod, spec).await;
                let attempt = sandboxes.first().and_then(|s| s.metadata.as_ref());
                let attempt = attempt.map_or(0, |m| m.attempt.saturating_add(1));
                for old in &sandboxes {
                    let _ = self.shared.runtime.stop_sandbox(&old.id).await;
                }
                self.make_sandbox(pod, spec, attempt).await?
            }
        };
        let in_sandbox = |name: &str| latest(name).filter(|c| self_sandbox(c, &sandbox));
        for init in &inits {
            match in_sandbox(&init.name).map(|c| (c.status.state(), c.status.exit_code)) {
                Some((cri::ContainerState::ContainerExited, 0)) => {}
                Some((cri::ContainerState::ContainerRunning, _)) => return Ok(earliest(again)),
                _ => {
                    again.push(self.start_if_due(pod, spec, init, latest(&init.name), &sandbox).await?);
                    return Ok(earliest(again));
                }
            }
        }
        for wanted in &spec.containers {
            let current = in_sandbox(&wanted.name);
            if current.is_some_and(|c| c.status.state() == cri::ContainerState::ContainerRunning) {
                self.watch_over(pod, wanted, current).await;
                continue;
            }
            again.push(self.start_if_due(pod, spec, wanted, latest(&wanted.name), &sandbox).await?);
        }
        Ok(earliest(again))
    }

    /// Whether anything is still to run; a pod whose containers have all ended for good needs no VM.
    fn wants_sandbox(&self, spec: &PodSpec, inits: &[ContainerSpec], containers: &[Container]) -> bool {
        let policy = spec.restart_policy.as_deref().unwrap_or("Always");
        inits.iter().chain(&spec.containers).any(|wanted| {
            let ended = containers.iter().find(|c| c.name == wanted.name);
            ended.is_none_or(|c| status::restarts(policy, c.status.exit_code))
        })
    }

    async fn make_sandbox(&self, pod: &Pod, spec: &PodSpec, attempt: u32) -> Result<String, Setback> {
        let id = &self.id;
        let logs = self.shared.logs.make(id).map_err(Setback::of("FailedCreatePodSandBox"))?;
        let labels = [(POD_NAME, &*id.name), (POD_NAMESPACE, &*id.namespace), (POD_UID, &*id.uid)]
            .map(|(label, value)| (label.to_owned(), value.to_owned()));
        let mut annotations: HashMap<String, String> =
            pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
        annotations.insert(names::TENANT_ANNOTATION.into(), id.tenant.to_string());
        // Whatever the pod says itself.
        let limits = tenant_limits::limits(&self.shared, &id.tenant).await;
        annotations.insert(LOG_BYTES.into(), limits.log_bytes.to_string());
        let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.clone()).unwrap_or_default();
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: id.name.to_string(),
                uid: id.uid.to_string(),
                namespace: id.namespace.to_string(),
                attempt,
            }),
            hostname: hostname(spec, id),
            log_directory: logs.root().display().to_string(),
            labels: labels.into(),
            annotations,
            linux: Some(cri::LinuxPodSandboxConfig {
                resources: Some(container::sandbox_resources(spec)),
                security_context: users::namespace(spec, &id.uid).map(|users| cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption { userns_options: Some(users), ..Default::default() }),
                    ..Default::default()
                }),
                sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.shared.runtime.run_sandbox(config).await.map_err(Setback::runtime("FailedCreatePodSandBox"))
    }

    /// Starts a container unless it has ended for good or waits for its back-off.
    async fn start_if_due(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        wanted: &ContainerSpec,
        last: Option<&Container>,
        sandbox: &str,
    ) -> Result<Option<Instant>, Setback> {
        let policy = spec.restart_policy.as_deref().unwrap_or("Always");
        let ended = last.filter(|c| c.status.state() == cri::ContainerState::ContainerExited);
        if ended.is_some_and(|c| !status::restarts(policy, c.status.exit_code)) {
            self.memory.entry(wanted.name.clone()).or_default().probes = None;
            return Ok(None);
        }
        let memory = self.memory.entry(wanted.name.clone()).or_default();
        memory.probes = None;
        if let Some(ended) = ended {
            let ran = Duration::from_nanos(
                u64::try_from(ended.status.finished_at.saturating_sub(ended.status.started_at)).unwrap_or(0),
            );
            if memory.not_before.is_none() {
                if ran > BACKOFF_RESET {
                    memory.failures = 0;
                }
                memory.failures += 1;
                // The first restart is at once, as upstream's is.
                let delay = if memory.failures > 1 || ended.attempt > 0 {
                    backoff(memory.failures.max(2) - 1)
                } else {
                    Duration::ZERO
                };
                memory.not_before = Some(Instant::now() + delay);
            }
        }
        if let Some(at) = memory.not_before.filter(|at| *at > Instant::now()) {
            if memory.waiting.is_none() {
                let delay = at.saturating_duration_since(Instant::now()).as_secs() + 1;
                let message = format!("back-off {delay}s restarting failed container={} pod={}", wanted.name, self.id);
                memory.waiting = Some(("CrashLoopBackOff".into(), message.clone()));
                let text = format!("Back-off restarting failed container {} in pod {}", wanted.name, self.id.name);
                tell(&self.shared, &self.id, true, "BackOff", &text).await;
            }
            return Ok(Some(at));
        }
        memory.not_before = None;
        let attempt = last.map_or(0, |c| c.attempt.saturating_add(1));
        let place = container::Place { sandbox, attempt, pod, spec };
        match container::start(self, &place, wanted).await {
            Ok(()) => {
                let memory = self.memory.entry(wanted.name.clone()).or_default();
                (memory.waiting, memory.image_failures) = (None, 0);
                // The next look sees it run, and what is to be probed.
                let _ = self.nudge.try_send(());
                Ok(None)
            }
            Err(container::StartError { reason, message, image, ended }) => {
                let memory = self.memory.entry(wanted.name.clone()).or_default();
                memory.waiting = Some((reason.to_owned(), message.clone()));
                tell(&self.shared, &self.id, true, "Failed", &format!("Error: {message}")).await;
                if ended {
                    // The runtime has it as ended: back-off follows from there.
                    memory_clear_waiting(self.memory.get_mut(&wanted.name));
                    let _ = self.nudge.try_send(());
                    return Ok(None);
                }
                let memory = self.memory.entry(wanted.name.clone()).or_default();
                memory.image_failures += 1;
                let delay = if image { backoff(memory.image_failures) } else { Duration::from_secs(2) };
                memory.not_before = Some(Instant::now() + delay);
                if image && memory.image_failures > 1 {
                    memory.waiting = Some((
                        "ImagePullBackOff".into(),
                        format!("Back-off pulling image {:?}: {message}", wanted.image.clone().unwrap_or_default()),
                    ));
                }
                Ok(memory.not_before)
            }
        }
    }

    async fn watch_over(&mut self, pod: &Pod, wanted: &ContainerSpec, current: Option<&Container>) {
        let Some(current) = current else { return };
        let memory = self.memory.entry(wanted.name.clone()).or_default();
        memory.waiting = None;
        if memory.probes.as_ref().is_none_or(|p| p.container != current.id) {
            memory.probes = Some(probes::Probes::start(
                self.shared.clone(),
                self.id.clone(),
                pod.clone(),
                wanted,
                current,
                self.nudge.clone(),
            ));
        }
    }

    async fn report(&mut self, pod: &Pod, spec: &PodSpec) {
        let Ok(containers) = self.shared.runtime.containers(&self.id.uid).await else { return };
        let mut addresses = Vec::new();
        let mut sandbox_ready = false;
        if let Ok(sandboxes) = self.shared.runtime.sandboxes(&self.id.uid).await
            && let Some(sandbox) = sandboxes.iter().find(|s| s.state == cri::PodSandboxState::SandboxReady as i32)
            && let Ok(Some(found)) = self.shared.runtime.sandbox_status(&sandbox.id).await
        {
            sandbox_ready = true;
            if let Some(network) = found.network {
                addresses.push(network.ip);
                addresses.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
            }
        }
        addresses.retain(|address| !address.is_empty());
        let host = self.shared.config.bind.ip();
        let mut status = status::of(pod, spec, &containers, &self.memory, &addresses, sandbox_ready, host);
        self.shared.redact.clean_status(&mut status);
        // Times of transition are kept where nothing changed: compare without what is always new.
        if status == self.reported {
            return;
        }
        match Objects::of(&self.shared, &self.id).report(&status).await {
            Ok(()) => self.reported = status,
            Err(error) => tracing::debug!(pod = %self.id.uid, %error, "the pod's status was not written"),
        }
    }

    /// Says why the node does not run the pod; upstream's words.
    async fn reject(&mut self, pod: &Pod, rejection: &Rejection) -> Option<Instant> {
        let mut status = json!({
            "phase": "Failed", "reason": rejection.reason, "message": format!("Pod was rejected: {}", rejection.message),
        });
        if let Some(spec) = &pod.spec {
            status["qosClass"] = crate::qos::class(spec).into();
        }
        self.shared.redact.clean_status(&mut status);
        if status != self.reported {
            tell(&self.shared, &self.id, true, rejection.reason, &rejection.message).await;
            if let Err(error) = Objects::of(&self.shared, &self.id).report(&status).await {
                tracing::warn!(pod = %self.id.uid, %error, "saying that the pod is rejected");
                return Some(Instant::now() + Duration::from_secs(2));
            }
            self.reported = status;
        }
        // What an earlier kubelet may have started.
        self.rest().await
    }

    /// A pod that is over keeps its logs, and nothing that runs, nor volumes that others may want. `Some`: when to try
    /// again.
    async fn rest(&mut self) -> Option<Instant> {
        self.memory.clear();
        let failure = match self.stop_sandboxes().await {
            Ok(()) => self.release().await.err(),
            Err(status) => Some(status.to_string()),
        };
        let error = failure?;
        tracing::warn!(pod = %self.id.uid, error, "ending a pod that is over");
        Some(Instant::now() + Duration::from_secs(1))
    }

    async fn stop_sandboxes(&self) -> Result<(), tonic::Status> {
        for sandbox in self.shared.runtime.sandboxes(&self.id.uid).await? {
            self.shared.runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// All that can be removed is, though another cannot.
    async fn remove_sandboxes(&self) -> Result<(), tonic::Status> {
        let mut outcome = Ok(());
        for sandbox in self.shared.runtime.sandboxes(&self.id.uid).await? {
            if let Err(status) = self.shared.runtime.remove_sandbox(&sandbox.id).await {
                outcome = Err(status);
            }
        }
        outcome
    }

    /// Gives back what is published for the pod.
    async fn release(&self) -> Result<(), String> {
        match self.shared.pods.find(self.id.uid.clone()) {
            Ok(Some(dir)) => volumes::release(&self.shared, &dir).await.map_err(|error| error.to_string()),
            Ok(None) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Graceful deletion: containers get their time, then everything goes, then the API hears that it has.
    async fn terminate(&mut self, pod: &Pod, changes: &mut watch::Receiver<Option<Pod>>) {
        self.memory.values_mut().for_each(|memory| memory.probes = None);
        let mut deadline = Instant::now() + grace_of(pod);
        if deadline > Instant::now() {
            self.say_that_it_ends(pod);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let stopped: BoxFuture<'_, ()> = Box::pin(self.stop_containers(left));
            tokio::select! {
                () = stopped => break,
                sooner = hurried(changes, deadline) => deadline = sooner,
            }
        }
        self.remove().await;
        for attempt in 0..60 {
            match Objects::of(&self.shared, &self.id).gone().await {
                Ok(()) => return,
                // Gone, or another of its name, here or on another node.
                Err(error) if matches!(error.code(), Some(403 | 404 | 409)) => return,
                Err(error) => {
                    tracing::warn!(pod = %self.id.uid, attempt, %error, "saying that the pod is gone");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Nobody waits for these events: the pod's time runs.
    fn say_that_it_ends(&self, pod: &Pod) {
        let names: Vec<String> = pod.spec.iter().flat_map(|spec| &spec.containers).map(|c| c.name.clone()).collect();
        let (shared, id) = (self.shared.clone(), self.id.clone());
        tokio::spawn(async move {
            for name in names {
                tell(&shared, &id, false, "Killing", &format!("Stopping container {name}")).await;
            }
        });
    }

    /// Asks all containers to end within `grace`. One that does not, or whose VM does not answer, ends with its VM.
    async fn stop_containers(&self, grace: Duration) {
        let runtime = &self.shared.runtime;
        let running = match runtime.running(&self.id.uid).await {
            Ok(running) => running,
            Err(status) => {
                tracing::warn!(pod = %self.id.uid, %status, "asking which containers run");
                return;
            }
        };
        let stops = running.into_iter().map(|id| stop_container(runtime.clone(), self.id.uid.clone(), id, grace));
        futures::future::join_all(stops).await;
    }

    /// Removes all that the node has of the pod, however long that takes.
    async fn remove(&mut self) {
        self.memory.clear();
        loop {
            let failure = match self.remove_sandboxes().await {
                // Only now, when no VM has them open any more.
                Ok(()) => self.release().await.err(),
                Err(status) => Some(status.to_string()),
            };
            let Some(error) = failure else { break };
            tracing::warn!(pod = %self.id.uid, error, "removing a pod");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        if let Err(error) = self.remove_files() {
            tracing::warn!(pod = %self.id.uid, %error, "removing a pod's files");
        }
    }

    fn remove_files(&self) -> io::Result<()> {
        self.shared.pods.remove(self.id.uid.clone())?;
        // A name that is none has no directory.
        self.id.log_name().map_or(Ok(()), |name| self.shared.logs.remove(&self.id.tenant, name))
    }
}

async fn stop_container(runtime: Runtime, pod: Uid, id: String, grace: Duration) {
    if let Err(status) = runtime.stop_container(&id, grace).await {
        tracing::warn!(%pod, container = id, %status, "stopping a container");
    }
}

/// The name that the pod's VM has: its own, or what can be a host's of the pod's.
fn hostname(spec: &PodSpec, id: &PodId) -> String {
    let own = spec.hostname.as_deref().and_then(|name| DnsLabel::new(name).ok());
    own.map_or_else(
        || id.name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned(),
        |name| name.to_string(),
    )
}

fn memory_clear_waiting(memory: Option<&mut Memory>) {
    if let Some(memory) = memory {
        memory.waiting = None;
    }
}

/// A container is of the sandbox that is there now, not of one that has died.
fn self_sandbox(container: &Container, sandbox: &str) -> bool {
    container.status.labels.get(SANDBOX).is_none_or(|id| id == sandbox)
}

/// Why the pod as a whole does not get on: an event's reason and words.
#[derive(Debug)]
pub struct Setback {
    pub reason: &'static str,
    pub message: String,
}

impl Setback {
    pub fn of<E: std::fmt::Display>(reason: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { reason, message: error.to_string() }
    }

    pub fn runtime(reason: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self { reason, message: status.message().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_bounded() {
        assert_eq!(grace(None), Duration::from_secs(30));
        assert_eq!(grace(Some(-5)), Duration::ZERO);
        for seconds in [1_000_000_000_000_000_000, i64::MAX] {
            assert_eq!(grace(Some(seconds)), MAX_GRACE);
        }
    }

    #[test]
    fn back_off_doubles_up_to_five_minutes() {
        let seconds: Vec<u64> = (1..=7).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff(1000).as_secs(), 300);
    }
}
