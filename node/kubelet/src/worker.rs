//! One pod's life: what is there is compared with what should be, at each word of the API, the runtime or a probe.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use hypernetes_api::{TenantId, names};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    KubeletConfig, container,
    cri::{Container, POD_NAME, POD_NAMESPACE, POD_UID, Runtime},
    csi::Drivers,
    events::tell,
    probes, status, users, volumes,
};

/// What all workers share.
pub struct Shared {
    pub config: KubeletConfig,
    pub runtime: Runtime,
    pub drivers: Drivers,
}

impl Shared {
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.root.join("pods").join(uid)
    }

    /// Tenants' namespaces and pods may have the same names: the tenant is in the path.
    pub fn log_directory(&self, tenant: &TenantId, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.config.root.join("log").join(tenant.as_str()).join(format!("{namespace}_{name}_{uid}"))
    }
}

/// What a worker is given.
pub struct Task {
    pub shared: Arc<Shared>,
    pub tenant: TenantId,
    pub uid: String,
    /// None when the pod is gone from the API.
    pub pod: watch::Receiver<Option<Pod>>,
    pub nudge: mpsc::Sender<()>,
    pub nudged: mpsc::Receiver<()>,
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
    pub tenant: TenantId,
    pub uid: String,
    pub memory: HashMap<String, Memory>,
    nudge: mpsc::Sender<()>,
    reported: Value,
    setup_failures: u32,
    setup_not_before: Option<Instant>,
}

pub async fn run(mut task: Task) {
    let mut worker = Worker {
        shared: task.shared,
        tenant: task.tenant,
        uid: task.uid,
        memory: HashMap::new(),
        nudge: task.nudge,
        reported: Value::Null,
        setup_failures: 0,
        setup_not_before: None,
    };
    loop {
        let pod = task.pod.borrow_and_update().clone();
        let Some(pod) = pod else {
            worker.clean_up(Duration::ZERO).await;
            return;
        };
        if pod.metadata.deletion_timestamp.is_some() {
            worker.terminate(&pod).await;
            return;
        }
        let next = worker.sync(&pod).await;
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = task.pod.changed() => if changed.is_err() { return },
            _ = task.nudged.recv() => {}
            () = wait => {}
        }
    }
}

fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}

impl Worker {
    /// Brings the pod nearer to what it should be; returns when to look again if nothing happens before.
    async fn sync(&mut self, pod: &Pod) -> Option<Instant> {
        let spec = pod.spec.clone()?;
        let containers = match self.shared.runtime.containers(&self.uid).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(pod = self.uid, %error, "the runtime does not answer");
                return Some(Instant::now() + Duration::from_secs(1));
            }
        };
        let over = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        if over {
            return self.rest().await;
        }
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
                    tell(&self.shared, &self.tenant, pod, true, reason, &message).await;
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
            self.shared.runtime.sandboxes(&self.uid).await.map_err(Setback::runtime("FailedCreatePodSandBox"))?;
        let ready = sandboxes.iter().find(|s| s.state == cri::PodSandboxState::SandboxReady as i32);
        let inits = spec.init_containers.clone().unwrap_or_default();
        let latest = |name: &str| containers.iter().find(|c| c.name == name);
        if ready.is_none() && !self.wants_sandbox(spec, &inits, containers) {
            return Ok(None);
        }
        volumes::prepare(&self.shared, &self.tenant, pod, &self.shared.pod_directory(&self.uid)).await?;
        let sandbox = match ready {
            Some(sandbox) => sandbox.id.clone(),
            None => {
                // A VM takes its time: what the pod waits for is told before.
                self.report(pod, spec).await;
                let attempt = sandboxes.first().and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.attempt + 1);
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
                Some((cri::ContainerState::ContainerRunning, _)) => return Ok(None),
                _ => return self.start_if_due(pod, spec, init, latest(&init.name), &sandbox).await,
            }
        }
        let mut again = Vec::new();
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
        let (name, namespace) = names_of(pod);
        let logs = self.shared.log_directory(&self.tenant, &namespace, &name, &self.uid);
        std::fs::create_dir_all(&logs).map_err(Setback::of("FailedCreatePodSandBox"))?;
        let labels = [(POD_NAME, &name), (POD_NAMESPACE, &namespace), (POD_UID, &self.uid)]
            .map(|(label, value)| (label.to_owned(), value.clone()));
        let mut annotations: HashMap<String, String> =
            pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
        annotations.insert(names::TENANT_ANNOTATION.into(), self.tenant.to_string());
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata { name: name.clone(), uid: self.uid.clone(), namespace, attempt }),
            hostname: spec.hostname.clone().unwrap_or(name).chars().take(63).collect(),
            log_directory: logs.display().to_string(),
            labels: labels.into(),
            annotations,
            linux: Some(cri::LinuxPodSandboxConfig {
                resources: Some(container::sandbox_resources(spec)),
                security_context: users::namespace(spec, &self.uid).map(|users| cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption { userns_options: Some(users), ..Default::default() }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let mut runtime = self.shared.runtime.runtime.clone();
        let made = runtime.run_pod_sandbox(request).await.map_err(Setback::runtime("FailedCreatePodSandBox"))?;
        Ok(made.into_inner().pod_sandbox_id)
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
            let ran =
                Duration::from_nanos(u64::try_from(ended.status.finished_at - ended.status.started_at).unwrap_or(0));
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
                let message = format!(
                    "back-off {delay}s restarting failed container={} pod={}_{}({})",
                    wanted.name,
                    names_of(pod).0,
                    names_of(pod).1,
                    self.uid
                );
                memory.waiting = Some(("CrashLoopBackOff".into(), message.clone()));
                tell(
                    &self.shared,
                    &self.tenant,
                    pod,
                    true,
                    "BackOff",
                    &format!("Back-off restarting failed container {} in pod {}", wanted.name, names_of(pod).0),
                )
                .await;
            }
            return Ok(Some(at));
        }
        memory.not_before = None;
        let attempt = last.map_or(0, |c| c.attempt + 1);
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
                tell(&self.shared, &self.tenant, pod, true, "Failed", &format!("Error: {message}")).await;
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
                self.tenant.clone(),
                pod.clone(),
                wanted,
                current,
                self.nudge.clone(),
            ));
        }
    }

    async fn report(&mut self, pod: &Pod, spec: &PodSpec) {
        let Ok(containers) = self.shared.runtime.containers(&self.uid).await else { return };
        let mut addresses = Vec::new();
        let mut sandbox_ready = false;
        if let Ok(sandboxes) = self.shared.runtime.sandboxes(&self.uid).await
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
        let status = status::of(pod, spec, &containers, &self.memory, &addresses, sandbox_ready, host);
        // Times of transition are kept where nothing changed: compare without what is always new.
        if status == self.reported {
            return;
        }
        let (name, namespace) = names_of(pod);
        let api: Api<Pod> = Api::namespaced(self.shared.config.clients.tenant(&self.tenant), &namespace);
        let patch = json!({"metadata": {"uid": self.uid}, "status": status});
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => self.reported = status,
            Err(error) => tracing::debug!(pod = self.uid, %error, "the pod's status was not written"),
        }
    }

    /// A pod that is over keeps its logs, and nothing that runs, nor volumes that others may want. `Some`: when to try
    /// again.
    async fn rest(&mut self) -> Option<Instant> {
        self.memory.clear();
        let stopped = async {
            for sandbox in self.shared.runtime.sandboxes(&self.uid).await? {
                self.shared.runtime.stop_sandbox(&sandbox.id).await?;
            }
            Ok::<_, tonic::Status>(())
        };
        let failure = match stopped.await {
            Ok(()) => volumes::release(&self.shared, &self.uid).await.err().map(|error| error.to_string()),
            Err(status) => Some(status.to_string()),
        };
        let error = failure?;
        tracing::warn!(pod = self.uid, error, "ending a pod that is over");
        Some(Instant::now() + Duration::from_secs(1))
    }

    /// Graceful deletion: containers get their time, then everything goes, then the API hears that it has.
    async fn terminate(&mut self, pod: &Pod) {
        let spec = pod.spec.clone().unwrap_or_default();
        let grace = pod.metadata.deletion_grace_period_seconds.or(spec.termination_grace_period_seconds).unwrap_or(30);
        self.memory.values_mut().for_each(|memory| memory.probes = None);
        if grace > 0 {
            for wanted in &spec.containers {
                let text = format!("Stopping container {}", wanted.name);
                tell(&self.shared, &self.tenant, pod, false, "Killing", &text).await;
            }
        }
        self.clean_up(Duration::from_secs(u64::try_from(grace).unwrap_or(0))).await;
        let (name, namespace) = names_of(pod);
        let api: Api<Pod> = Api::namespaced(self.shared.config.clients.tenant(&self.tenant), &namespace);
        let preconditions = Preconditions { uid: Some(self.uid.clone()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        for attempt in 0..60 {
            match api.delete(&name, &parameters).await {
                Ok(_) => return,
                // Gone, or another of its name, here or on another node.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(pod = self.uid, attempt, %error, "saying that the pod is gone");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn clean_up(&mut self, grace: Duration) {
        self.memory.clear();
        let runtime = &self.shared.runtime;
        loop {
            let done = async {
                let stops = runtime
                    .containers(&self.uid)
                    .await?
                    .into_iter()
                    .filter(|c| c.status.state() == cri::ContainerState::ContainerRunning);
                let stops: Vec<_> = stops.map(|c| async move { runtime.stop_container(&c.id, grace).await }).collect();
                for stopped in futures::future::join_all(stops).await {
                    stopped?;
                }
                for sandbox in runtime.sandboxes(&self.uid).await? {
                    runtime.remove_sandbox(&sandbox.id).await?;
                }
                Ok::<_, tonic::Status>(())
            };
            let failure = match done.await {
                // Only now, when no VM has them open any more.
                Ok(()) => volumes::release(&self.shared, &self.uid).await.err().map(|error| error.to_string()),
                Err(status) => Some(status.to_string()),
            };
            let Some(error) = failure else { break };
            tracing::warn!(pod = self.uid, error, "removing a pod");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let _ = std::fs::remove_dir_all(self.shared.pod_directory(&self.uid));
        let logs = self.shared.config.root.join("log").join(self.tenant.as_str());
        let suffix = format!("_{}", self.uid);
        for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(&suffix) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
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

/// Which sandbox a container was made in: CRI's status does not say.
pub const SANDBOX: &str = "hypernetes.io/sandbox";

pub fn names_of(pod: &Pod) -> (String, String) {
    (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone().unwrap_or_default())
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
    fn back_off_doubles_up_to_five_minutes() {
        let seconds: Vec<u64> = (1..=7).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff(1000).as_secs(), 300);
    }
}
