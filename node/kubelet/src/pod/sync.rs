//! One look at a pod: its volumes are filled, then its sandbox is made, then its init containers run one after another, then
//! its containers are kept running; what is not there yet is looked at again.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    identity::PodId,
    node::{
        Shared,
        cri::{Container, SANDBOX},
    },
    pod::{
        containers::{Supervisor, hooks},
        events::tell,
        rejection::Rejection,
        sandbox,
        spec::{deadline, grace::grace_of, restart::restarts},
        status::{self, StatusManager},
        sync_error::SyncError,
        termination, volumes,
    },
};

/// A pod that is being brought to what it should be.
pub struct PodSync {
    shared: Arc<Shared>,
    id: PodId,
    rejection: Option<Rejection>,
    supervisor: Supervisor,
    tokens: volumes::Tokens,
    status: StatusManager,
    setup_failures: u32,
    setup_not_before: Option<Instant>,
    /// It has been active for too long, which has been told.
    overdue: bool,
}

impl PodSync {
    /// `nudge`: has the pod looked at again.
    pub fn new(shared: Arc<Shared>, id: PodId, rejection: Option<Rejection>, nudge: mpsc::Sender<()>) -> Self {
        Self {
            supervisor: Supervisor::new(shared.clone(), id.clone(), nudge),
            shared,
            id,
            rejection,
            tokens: volumes::Tokens::default(),
            status: StatusManager::default(),
            setup_failures: 0,
            setup_not_before: None,
            overdue: false,
        }
    }

    /// Brings the pod nearer to what it should be; returns when to look again if nothing happens before.
    pub async fn sync(&mut self, pod: &Pod) -> Option<Instant> {
        if status::is_over(pod) {
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
        if spec.active_deadline_seconds.is_some()
            && pod.status.as_ref().is_none_or(|status| status.start_time.is_none())
        {
            // Its time runs from what the API has, and is to run before anything is waited for.
            self.report(pod, &spec).await;
            return Some(now + Duration::from_secs(1));
        }
        let deadline = deadline::of(pod).filter(|deadline| !deadline::is_met(*deadline, &spec, &containers));
        let left = deadline.map(|deadline| Duration::try_from(deadline.duration_since(Timestamp::now())));
        if let Some(Ok(Duration::ZERO) | Err(_)) = left {
            return self.exceed(pod, &spec).await;
        }
        let due = left.and_then(Result::ok).map(|left| now + left);
        let mut again = due;
        if self.setup_not_before.is_none_or(|at| at <= now) {
            self.setup_not_before = None;
            let progress = self.make_progress(pod, &spec, &containers);
            let outcome = match due {
                Some(due) => timeout_at(due, progress).await,
                None => Ok(progress.await),
            };
            match outcome {
                // Whatever is being waited for.
                Err(_) => return self.exceed(pod, &spec).await,
                Ok(Ok(next)) => {
                    again = earliest([due, next]);
                    self.setup_failures = 0;
                }
                Ok(Err(SyncError { reason, message })) => {
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
    ) -> Result<Option<Instant>, SyncError> {
        let sandboxes =
            self.shared.runtime.sandboxes(&self.id.uid).await.map_err(SyncError::runtime("FailedCreatePodSandBox"))?;
        let ready = sandboxes.iter().find(|s| s.state == cri::PodSandboxState::SandboxReady as i32);
        let inits = spec.init_containers.clone().unwrap_or_default();
        let latest = |name: &str| containers.iter().find(|c| c.name == name);
        if ready.is_none() && !wants_sandbox(spec, &inits, containers) {
            return Ok(None);
        }
        let dir = self.shared.pods.make(self.id.uid.clone()).map_err(SyncError::of("FailedCreatePodSandBox"))?;
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
                sandbox::run(&self.shared, &self.id, pod, spec, attempt).await?
            }
        };
        let in_sandbox = |name: &str| latest(name).filter(|c| is_of_sandbox(c, &sandbox));
        for init in &inits {
            match in_sandbox(&init.name).map(|c| (c.status.state(), c.status.exit_code)) {
                Some((cri::ContainerState::ContainerExited, 0)) => {}
                Some((cri::ContainerState::ContainerRunning, _)) => return Ok(earliest(again)),
                _ => {
                    again.push(self.supervisor.start_if_due(pod, spec, init, latest(&init.name), &sandbox).await);
                    return Ok(earliest(again));
                }
            }
        }
        for wanted in &spec.containers {
            let running =
                in_sandbox(&wanted.name).filter(|c| c.status.state() == cri::ContainerState::ContainerRunning);
            if let Some(current) = running {
                self.supervisor.watch_over(pod, wanted, current);
            } else {
                again.push(self.supervisor.start_if_due(pod, spec, wanted, latest(&wanted.name), &sandbox).await);
            }
            if self.supervisor.begins(&wanted.name) {
                break;
            }
        }
        Ok(earliest(again))
    }

    async fn report(&mut self, pod: &Pod, spec: &PodSpec) {
        let (supervised, overdue) = (self.supervisor.containers(), self.overdue);
        self.status.report(&self.shared, &self.id, pod, spec, supervised, overdue).await;
    }

    /// Ends what has been active for too long: its containers have their grace, then the pod is `Failed`.
    async fn exceed(&mut self, pod: &Pod, spec: &PodSpec) -> Option<Instant> {
        if !std::mem::replace(&mut self.overdue, true) {
            tell(&self.shared, &self.id, false, deadline::REASON, deadline::MESSAGE).await;
        }
        self.supervisor.forget();
        termination::stop_containers(&self.shared, &self.id, pod, hooks::deadline(grace_of(pod))).await;
        self.report(pod, spec).await;
        // Until the API has it, and the pod is over.
        Some(Instant::now() + Duration::from_secs(1))
    }

    /// Says why the node does not run the pod.
    async fn reject(&mut self, pod: &Pod, rejection: &Rejection) -> Option<Instant> {
        if let Err(error) = self.status.reject(&self.shared, &self.id, pod, rejection).await {
            tracing::warn!(pod = %self.id.uid, %error, "saying that the pod is rejected");
            return Some(Instant::now() + Duration::from_secs(2));
        }
        // What an earlier kubelet may have started.
        self.rest().await
    }

    /// A pod that is over keeps its logs, and nothing that runs, nor volumes that others may want. `Some`: when to try
    /// again.
    async fn rest(&mut self) -> Option<Instant> {
        self.supervisor.forget();
        let error = termination::stop(&self.shared, &self.id).await.err()?;
        tracing::warn!(pod = %self.id.uid, error, "ending a pod that is over");
        Some(Instant::now() + Duration::from_secs(1))
    }
}

/// Whether anything is still to run; a pod whose containers have all ended for good needs no VM.
fn wants_sandbox(spec: &PodSpec, inits: &[ContainerSpec], containers: &[Container]) -> bool {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    inits.iter().chain(&spec.containers).any(|wanted| {
        let ended = containers.iter().find(|c| c.name == wanted.name);
        ended.is_none_or(|c| restarts(policy, c.status.exit_code))
    })
}

/// A container is of the sandbox that is there now, not of one that has died.
fn is_of_sandbox(container: &Container, sandbox: &str) -> bool {
    container.status.labels.get(SANDBOX).is_none_or(|id| id == sandbox)
}

fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}
