//! One CRI runtime, as its kubelet uses it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use tonic::transport::{Channel, Endpoint};

use crate::figures::{Figures, Step};

/// All pods are of one tenant, as templates want it.
const TENANT: (&str, &str) = ("hypernetes.io/tenant", "bench");
/// Of a pod without a network.
const UNCONNECTED: (&str, &str) = ("hypernetes.io/network", "none");
const EXECS: usize = 5;

pub struct Runtime {
    pub name: String,
    pub socket: PathBuf,
    client: RuntimeServiceClient<Channel>,
    image: String,
    memory_bytes: i64,
    /// Its pods have the network that the runtime gives them.
    pub connected: bool,
}

impl Runtime {
    pub async fn connect(socket: &Path, image: &str, memory_mib: i64) -> Result<Self> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://cri").connect_with_connector(connector).await;
        let mut client = RuntimeServiceClient::new(channel.with_context(|| socket.display().to_string())?);
        let version = client.version(cri::VersionRequest::default()).await?.into_inner();
        Ok(Self {
            name: format!("{} {}", version.runtime_name, version.runtime_version),
            socket: socket.to_owned(),
            client,
            image: image.to_owned(),
            memory_bytes: memory_mib << 20,
            connected: true,
        })
    }

    /// The same one, for pods without a network.
    pub fn unconnected(&self) -> Self {
        Self {
            name: format!("{}, pods without a network", self.name),
            socket: self.socket.clone(),
            client: self.client(),
            image: self.image.clone(),
            memory_bytes: self.memory_bytes,
            connected: false,
        }
    }

    pub fn client(&self) -> RuntimeServiceClient<Channel> {
        self.client.clone()
    }

    fn pod(&self) -> cri::PodSandboxConfig {
        let uid = uuid::Uuid::new_v4().to_string();
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: format!("bench-{}", &uid[..8]),
                namespace: "default".into(),
                uid,
                attempt: 0,
            }),
            annotations: std::iter::once(TENANT)
                .chain((!self.connected).then_some(UNCONNECTED))
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            linux: Some(cri::LinuxPodSandboxConfig {
                resources: (self.memory_bytes > 0).then(|| cri::LinuxContainerResources {
                    memory_limit_in_bytes: self.memory_bytes,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// A pod whose container runs: ids of both.
    async fn start(&self, figures: &mut Figures) -> Result<(String, String)> {
        let mut client = self.client();
        let config = self.pod();
        let began = Instant::now();
        let sandbox = client
            .run_pod_sandbox(cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() })
            .await?
            .into_inner()
            .pod_sandbox_id;
        let made = Instant::now();
        figures.add(Step::RunPodSandbox, made - began);
        let container = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: vec!["sleep".into(), "36000".into()],
            ..Default::default()
        };
        let container = client
            .create_container(cri::CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(container),
                sandbox_config: Some(config),
            })
            .await?
            .into_inner()
            .container_id;
        let created = Instant::now();
        figures.add(Step::CreateContainer, created - made);
        client.start_container(cri::StartContainerRequest { container_id: container.clone() }).await?;
        figures.add(Step::StartContainer, created.elapsed());
        figures.add(Step::ToRunning, began.elapsed());
        Ok((sandbox, container))
    }

    /// Makes a pod, uses it and removes it.
    pub async fn one_pod(&self, figures: &mut Figures) -> Result<()> {
        let (sandbox, container) = self.start(figures).await?;
        let mut client = self.client();
        for _ in 0..EXECS {
            let began = Instant::now();
            let exec = cri::ExecSyncRequest { container_id: container.clone(), cmd: vec!["true".into()], timeout: 30 };
            client.exec_sync(exec).await?;
            figures.add(Step::ExecTrue, began.elapsed());
        }
        let began = Instant::now();
        client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
        let stopped = Instant::now();
        figures.add(Step::StopPodSandbox, stopped - began);
        client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await?;
        figures.add(Step::RemovePodSandbox, stopped.elapsed());
        Ok(())
    }

    /// Makes pods at once: how long until the last runs, and their ids.
    pub async fn crowd(&self, count: usize) -> Result<(Duration, Vec<String>)> {
        let began = Instant::now();
        let started = try_join_all((0..count).map(|_| async {
            let (sandbox, _) = self.start(&mut Figures::default()).await?;
            Ok::<_, anyhow::Error>(sandbox)
        }));
        let pods = started.await?;
        Ok((began.elapsed(), pods))
    }

    pub async fn remove(&self, pods: &[String]) {
        for pod in pods {
            let mut client = self.client();
            let _ = client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await;
            let _ = client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.clone() }).await;
        }
    }
}
