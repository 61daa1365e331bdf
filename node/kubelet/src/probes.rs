//! Liveness, readiness and startup probes of one container. They run inside the pod: through the runtime, never from the
//! host's network, which no tenant's pod is on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hypernetes_hyperd_api::DialChunk;
use k8s_openapi::{
    api::core::v1::{Container as ContainerSpec, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    events::tell,
    identity::PodId,
    node::{
        Shared,
        cri::{Container, SANDBOX},
    },
    worker,
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
    id: String,
    sandbox: String,
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
        let prober = Arc::new(Prober {
            shared,
            pod_id,
            pod,
            container: wanted.clone(),
            id: current.id.clone(),
            sandbox: current.status.labels.get(SANDBOX).cloned().unwrap_or_default(),
            nudge,
        });
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
                let outcome = self.once(probe).await;
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
            match self.once(probe).await {
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
        let grace = worker::grace(self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds));
        if let Err(error) = self.shared.runtime.stop_container(&self.id, grace).await {
            tracing::warn!(container = self.id, %error, "stopping a container that is not healthy");
        }
        let _ = self.nudge.try_send(());
    }

    async fn once(&self, probe: &Probe) -> Result<(), String> {
        let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
        let attempt = async {
            if let Some(exec) = &probe.exec {
                let command = exec.command.clone().unwrap_or_default();
                let done =
                    self.shared.runtime.exec(&self.id, command, limit).await.map_err(|s| s.message().to_owned())?;
                let output = String::from_utf8_lossy(&done.stdout).chars().take(500).collect::<String>();
                return if done.exit_code == 0 {
                    Ok(())
                } else {
                    Err(format!("exit code {}: {output}", done.exit_code))
                };
            }
            if let Some(http) = &probe.http_get {
                let port = self.port(&http.port)?;
                let path = http.path.clone().unwrap_or_else(|| "/".into());
                let host = http.host.clone().unwrap_or_else(|| "localhost".into());
                let mut request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n"
                );
                for header in http.http_headers.iter().flatten() {
                    let clean = |text: &str| text.replace(['\r', '\n'], "");
                    request.push_str(&format!("{}: {}\r\n", clean(&header.name), clean(&header.value)));
                }
                request.push_str("\r\n");
                let answer = self.exchange(port, request.into_bytes()).await?;
                let code = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|c| c.parse::<u16>().ok());
                return match code {
                    Some(200..400) => Ok(()),
                    Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
                    None => Err("the answer is not HTTP".into()),
                };
            }
            if let Some(tcp) = &probe.tcp_socket {
                return self.exchange(self.port(&tcp.port)?, Vec::new()).await.map(drop);
            }
            Err("this kind of probe is not supported".into())
        };
        tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(format!("timeout after {} s", limit.as_secs())))
    }

    fn port(&self, port: &IntOrString) -> Result<u32, String> {
        match port {
            IntOrString::Int(number) => u32::try_from(*number).map_err(|_| "no such port".to_owned()),
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let found = ports.clone().find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port);
                found
                    .or_else(|| name.parse().ok())
                    .and_then(|p| u32::try_from(p).ok())
                    .ok_or_else(|| format!("no port is named {name}"))
            }
        }
    }

    /// Connects inside the pod, sends, and returns the first of what comes back; an empty request only connects.
    async fn exchange(&self, port: u32, request: Vec<u8>) -> Result<Vec<u8>, String> {
        let only_connect = request.is_empty();
        let first = DialChunk { pod_sandbox_id: self.sandbox.clone(), port, data: request, ..Default::default() };
        let (keep, rest) = mpsc::channel::<DialChunk>(1);
        let stream = futures::StreamExt::chain(
            futures::stream::iter([first]),
            tokio_stream::wrappers::ReceiverStream::new(rest),
        );
        let answer = self.shared.runtime.dial(stream).await;
        let mut answer = answer.map_err(|s| s.message().to_owned())?;
        if only_connect {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        while bytes.len() < 1024 && !bytes.contains(&b'\n') {
            match answer.message().await.map_err(|s| s.message().to_owned())? {
                Some(chunk) if chunk.close_write && chunk.data.is_empty() => break,
                Some(chunk) => bytes.extend(chunk.data),
                None => break,
            }
        }
        drop(keep);
        Ok(bytes)
    }
}

async fn delay(probe: &Probe) {
    tokio::time::sleep(Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0))).await;
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1))
}
