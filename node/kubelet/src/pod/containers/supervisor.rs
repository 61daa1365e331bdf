//! Keeps a pod's containers running: starts them when they are due, backs off from those that fail, and probes those that run.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use tokio::{sync::mpsc, time::Instant};

use super::{
    hooks,
    probes::Probes,
    start::{Attempt, StartError, start},
};
use crate::{
    identity::PodId,
    node::{Shared, cri::Container},
    pod::{
        events::tell,
        spec::restart::{BACKOFF_RESET, backoff, restarts},
    },
};

/// What the kubelet knows of a container beyond what the runtime does.
#[derive(Default)]
pub struct Supervision {
    /// What it waits for: a reason and a message.
    pub waiting: Option<(String, String)>,
    pub failures: u32,
    pub not_before: Option<Instant>,
    pub image_failures: u32,
    /// The attempt that was started last, until it is watched over.
    pub fresh: Option<u32>,
    pub probes: Option<Probes>,
}

impl Supervision {
    /// Whether the container's first hook has run: before, nobody takes it for one that runs.
    pub fn begun(&self) -> bool {
        self.fresh.is_none() && self.probes.as_ref().is_none_or(Probes::begun)
    }

    pub fn started(&self) -> bool {
        self.probes.as_ref().is_some_and(Probes::started)
    }

    pub fn ready(&self) -> bool {
        self.probes.as_ref().is_some_and(Probes::ready)
    }

    /// Says when a container that has ended is due again, unless that is said.
    fn back_off(&mut self, ended: &Container) {
        if self.not_before.is_some() {
            return;
        }
        let ran = ended.status.finished_at.saturating_sub(ended.status.started_at);
        if Duration::from_nanos(u64::try_from(ran).unwrap_or(0)) > BACKOFF_RESET {
            self.failures = 0;
        }
        self.failures += 1;
        // The first restart is at once, as upstream's is.
        let delay =
            if self.failures > 1 || ended.attempt > 0 { backoff(self.failures.max(2) - 1) } else { Duration::ZERO };
        self.not_before = Some(Instant::now() + delay);
    }
}

/// The containers of one pod.
pub struct Supervisor {
    shared: Arc<Shared>,
    id: PodId,
    /// Has the pod looked at again.
    nudge: mpsc::Sender<()>,
    /// By name.
    containers: HashMap<String, Supervision>,
}

impl Supervisor {
    pub fn new(shared: Arc<Shared>, id: PodId, nudge: mpsc::Sender<()>) -> Self {
        Self { shared, id, nudge, containers: HashMap::new() }
    }

    pub fn containers(&self) -> &HashMap<String, Supervision> {
        &self.containers
    }

    /// Probes no container any more, nor waits to start one.
    pub fn forget(&mut self) {
        self.containers.clear();
    }

    /// Starts a container unless it has ended for good or waits for its back-off; returns when it is due.
    pub async fn start_if_due(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        wanted: &ContainerSpec,
        last: Option<&Container>,
        sandbox: &str,
    ) -> Option<Instant> {
        let supervision = self.containers.entry(wanted.name.clone()).or_default();
        (supervision.probes, supervision.fresh) = (None, None);
        let policy = spec.restart_policy.as_deref().unwrap_or("Always");
        if let Some(ended) = last.filter(|c| c.status.state() == cri::ContainerState::ContainerExited) {
            if !restarts(policy, ended.status.exit_code) {
                return None;
            }
            supervision.back_off(ended);
        }
        if let Some(at) = supervision.not_before.filter(|at| *at > Instant::now()) {
            if supervision.waiting.is_none() {
                let delay = at.saturating_duration_since(Instant::now()).as_secs() + 1;
                let message = format!("back-off {delay}s restarting failed container={} pod={}", wanted.name, self.id);
                supervision.waiting = Some(("CrashLoopBackOff".into(), message));
                let text = format!("Back-off restarting failed container {} in pod {}", wanted.name, self.id.name);
                tell(&self.shared, &self.id, true, "BackOff", &text).await;
            }
            return Some(at);
        }
        supervision.not_before = None;
        let number = last.map_or(0, |c| c.attempt.saturating_add(1));
        match start(&self.shared, &self.id, &Attempt { number, sandbox, pod, spec }, wanted).await {
            Ok(()) => {
                (supervision.waiting, supervision.image_failures) = (None, 0);
                supervision.fresh = hooks::post_start(wanted).map(|_| number);
                // The next look sees it run, and what is to be probed.
                let _ = self.nudge.try_send(());
                None
            }
            Err(error) => self.not_started(wanted, error).await,
        }
    }

    /// Tells why a container has not started; returns when it is due again.
    async fn not_started(&mut self, wanted: &ContainerSpec, error: StartError) -> Option<Instant> {
        let StartError { reason, message, image, ended } = error;
        let supervision = self.containers.entry(wanted.name.clone()).or_default();
        supervision.waiting = Some((reason.to_owned(), message.clone()));
        tell(&self.shared, &self.id, true, "Failed", &format!("Error: {message}")).await;
        if ended {
            // The runtime has it as ended: back-off follows from there.
            supervision.waiting = None;
            let _ = self.nudge.try_send(());
            return None;
        }
        supervision.image_failures += 1;
        let delay = if image { backoff(supervision.image_failures) } else { Duration::from_secs(2) };
        supervision.not_before = Some(Instant::now() + delay);
        if image && supervision.image_failures > 1 {
            supervision.waiting = Some((
                "ImagePullBackOff".into(),
                format!("Back-off pulling image {:?}: {message}", wanted.image.clone().unwrap_or_default()),
            ));
        }
        supervision.not_before
    }

    /// Whether a container's first hook is being run, or is to be: those behind it wait.
    pub fn begins(&self, name: &str) -> bool {
        self.containers.get(name).is_some_and(|supervision| !supervision.begun())
    }

    /// Has a container that runs probed, from its start on.
    pub fn watch_over(&mut self, pod: &Pod, wanted: &ContainerSpec, current: &Container) {
        let supervision = self.containers.entry(wanted.name.clone()).or_default();
        supervision.waiting = None;
        let has_started = supervision.fresh.take() == Some(current.attempt);
        if supervision.probes.as_ref().is_none_or(|p| p.container != current.id) {
            supervision.probes = Some(Probes::start(
                self.shared.clone(),
                self.id.clone(),
                pod.clone(),
                wanted,
                current,
                has_started,
                self.nudge.clone(),
            ));
        }
    }
}
