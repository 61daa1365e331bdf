//! Liveness, readiness and startup probes of one container, behind the hook of its start. They run inside the pod: through the runtime,
//! never from the host's network, which no tenant's pod is on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, Probe};
use tokio::{sync::mpsc, task::JoinSet};

use super::{handler::Handler, hooks};
use crate::{
    identity::PodId,
    node::{
        Shared,
        cri::{Container, SANDBOX},
    },
    pod::{events::tell, spec::grace},
};

const AGENT: &str = "kube-probe/1.36";

/// The probes of a running container; they end with this.
pub struct Probes {
    pub container: String,
    begun: Arc<AtomicBool>,
    started: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

struct Prober {
    shared: Arc<Shared>,
    pod_id: PodId,
    pod: Pod,
    container: ContainerSpec,
    handler: Handler,
    nudge: mpsc::Sender<()>,
}

impl Probes {
    /// `has_started`: just now, and the hook of that has not run.
    pub fn start(
        shared: Arc<Shared>,
        pod_id: PodId,
        pod: Pod,
        wanted: &ContainerSpec,
        current: &Container,
        has_started: bool,
        nudge: mpsc::Sender<()>,
    ) -> Self {
        let hook = if has_started { hooks::post_start(wanted).cloned() } else { None };
        let begun = Arc::new(AtomicBool::new(hook.is_none()));
        let started = Arc::new(AtomicBool::new(wanted.startup_probe.is_none()));
        let ready = Arc::new(AtomicBool::new(wanted.startup_probe.is_none() && wanted.readiness_probe.is_none()));
        let handler = Handler {
            runtime: shared.runtime.clone(),
            container_id: current.id.clone(),
            sandbox: current.status.labels.get(SANDBOX).cloned().unwrap_or_default(),
            ports: wanted.ports.clone().unwrap_or_default(),
        };
        let prober = Arc::new(Prober { shared, pod_id, pod, container: wanted.clone(), handler, nudge });
        let mut tasks = JoinSet::new();
        let (hooked, probed) = (begun.clone(), (started.clone(), ready.clone()));
        tasks.spawn(async move {
            if let Some(hook) = hook {
                if !hooks::has_started(&prober.shared, &prober.pod_id, &prober.handler, &hook).await {
                    return prober.stop("FailedPostStartHook", None).await;
                }
                hooked.store(true, Ordering::Relaxed);
                let _ = prober.nudge.try_send(());
            }
            prober.run(probed.0, probed.1).await;
        });
        Self { container: current.id.clone(), begun, started, ready, _tasks: tasks }
    }

    /// Whether the hook of the start has run.
    pub fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub fn started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

impl Prober {
    async fn run(self: Arc<Self>, started: Arc<AtomicBool>, ready: Arc<AtomicBool>) {
        if let Some(probe) = &self.container.startup_probe {
            if !self.until(probe, "Startup", true).await {
                self.kill("Startup", probe).await;
                return;
            }
            started.store(true, Ordering::Relaxed);
            ready.store(self.container.readiness_probe.is_none(), Ordering::Relaxed);
            let _ = self.nudge.try_send(());
        }
        let liveness = async {
            let Some(probe) = &self.container.liveness_probe else { return };
            delay(probe).await;
            // Alive until it fails so often.
            if !self.until(probe, "Liveness", false).await {
                self.kill("Liveness", probe).await;
            }
        };
        let readiness = async {
            let Some(probe) = &self.container.readiness_probe else { return };
            delay(probe).await;
            let mut counted = 0;
            loop {
                let outcome = self.attempt(probe).await;
                let good = outcome.is_ok();
                let was = ready.load(Ordering::Relaxed);
                if let Err(why) = outcome
                    && was
                {
                    self.unhealthy("Readiness", &why).await;
                }
                counted = if good == was { 0 } else { counted + 1 };
                let threshold =
                    if good { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
                if good != was && counted >= threshold {
                    ready.store(good, Ordering::Relaxed);
                    counted = 0;
                    let _ = self.nudge.try_send(());
                }
                tokio::time::sleep(period(probe)).await;
            }
        };
        tokio::join!(liveness, readiness);
    }

    /// Probes until it succeeds (true, when that is what is waited for) or has failed too often (false).
    async fn until(&self, probe: &Probe, kind: &str, success_ends: bool) -> bool {
        if success_ends {
            delay(probe).await;
        }
        let mut failures = 0;
        loop {
            match self.attempt(probe).await {
                Ok(()) if success_ends => return true,
                Ok(()) => failures = 0,
                Err(why) => {
                    self.unhealthy(kind, &why).await;
                    failures += 1;
                    if failures >= probe.failure_threshold.unwrap_or(3) {
                        return false;
                    }
                }
            }
            tokio::time::sleep(period(probe)).await;
        }
    }

    async fn unhealthy(&self, kind: &str, why: &str) {
        tell(&self.shared, &self.pod_id, true, "Unhealthy", &format!("{kind} probe failed: {why}")).await;
    }

    /// One attempt, within the probe's own time.
    ///
    /// # Errors
    /// Why the container is not well, in the words of the event.
    async fn attempt(&self, probe: &Probe) -> Result<(), String> {
        let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
        let attempt = async {
            if let Some(exec) = &probe.exec {
                return self.handler.run(exec, limit).await;
            }
            if let Some(http) = &probe.http_get {
                return match self.handler.get(http, AGENT).await? {
                    200..400 => Ok(()),
                    code => Err(format!("HTTP probe failed with statuscode: {code}")),
                };
            }
            if let Some(tcp) = &probe.tcp_socket {
                return self.handler.connect(tcp).await;
            }
            Err("this kind of probe is not supported".into())
        };
        tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(format!("timeout after {} s", limit.as_secs())))
    }

    async fn kill(&self, kind: &str, probe: &Probe) {
        let text = format!("Container {} failed {} probe, will be restarted", self.container.name, kind.to_lowercase());
        self.stop(&text, probe.termination_grace_period_seconds).await;
    }

    /// Within the pod's grace, if it is not given another. Its supervisor finds it ended.
    async fn stop(&self, why: &str, grace: Option<i64>) {
        tell(&self.shared, &self.pod_id, false, "Killing", why).await;
        let own = || self.pod.spec.as_ref()?.termination_grace_period_seconds;
        let deadline = hooks::deadline(grace::grace(grace.or_else(own)));
        let (shared, id) = (&self.shared, &self.pod_id);
        if let Err(error) = hooks::stop(shared, id, Some(&self.container), &self.handler, deadline).await {
            tracing::warn!(container = self.handler.container_id, %error, "stopping a container that is not healthy");
        }
        let _ = self.nudge.try_send(());
    }
}

async fn delay(probe: &Probe) {
    tokio::time::sleep(Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0))).await;
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1))
}
