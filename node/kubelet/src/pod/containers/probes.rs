//! Liveness, readiness and startup probes of one container. They run inside the pod: through the runtime, never from the
//! host's network, which no tenant's pod is on.

mod handler;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, Probe};
use tokio::{sync::mpsc, task::JoinSet};

use self::handler::Handler;
use crate::{
    identity::PodId,
    node::{
        Shared,
        cri::{Container, SANDBOX},
    },
    pod::{events::tell, spec::grace},
};

/// The probes of a running container; they end with this.
pub struct Probes {
    pub container: String,
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
    pub fn start(
        shared: Arc<Shared>,
        pod_id: PodId,
        pod: Pod,
        wanted: &ContainerSpec,
        current: &Container,
        nudge: mpsc::Sender<()>,
    ) -> Self {
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
        tasks.spawn(prober.run(started.clone(), ready.clone()));
        Self { container: current.id.clone(), started, ready, _tasks: tasks }
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
                self.kill("Startup").await;
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
                self.kill("Liveness").await;
            }
        };
        let readiness = async {
            let Some(probe) = &self.container.readiness_probe else { return };
            delay(probe).await;
            let mut counted = 0;
            loop {
                let outcome = self.handler.probe(probe).await;
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
            match self.handler.probe(probe).await {
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

    async fn kill(&self, kind: &str) {
        let text = format!("Container {} failed {} probe, will be restarted", self.container.name, kind.to_lowercase());
        tell(&self.shared, &self.pod_id, false, "Killing", &text).await;
        let grace = grace::grace(self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds));
        if let Err(error) = self.shared.runtime.stop_container(&self.handler.container_id, grace).await {
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
