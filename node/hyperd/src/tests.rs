//! hyperd as its clients see it, over a fake VM.

mod ahead;
mod hibernation;
mod hostile;
mod memory;
mod network;
mod paths;
mod pods;
mod streams;
mod survival;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use hypernetes_hyperd_api::{DialChunk, HibernateSandboxRequest, ResumeSandboxRequest, hyperd_client::HyperdClient};
use hypernetes_hypervisor::Hypervisor;
use hypernetes_image::Digest;
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use tonic::{Code, transport::Channel};

use crate::{
    HyperdConfig,
    fake::{FakeHypervisor, FakeImages, Machine},
    streaming::spdy::testing::Client,
};

const POD_UID: &str = "0b5ee2a8-1111-4222-8333-444455556666";

const LOG_MAX_BYTES: u64 = 4 << 20;

/// A hyperd in a runtime of its own, so that it can be killed.
struct Node {
    directory: tempfile::TempDir,
    hypervisor: Arc<FakeHypervisor>,
    hyperd: Option<tokio::runtime::Runtime>,
    /// Of all VMs together.
    vm_memory_mib: u64,
}

impl Node {
    async fn start() -> Self {
        Self::with_memory(u64::MAX).await
    }

    async fn with_memory(vm_memory_mib: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = FakeHypervisor::new(directory.path(), tokio::runtime::Handle::current());
        let mut node = Self { directory, hypervisor, hyperd: None, vm_memory_mib };
        node.run().await;
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn run(&mut self) {
        let mut config =
            HyperdConfig::new(&self.path("root"), self.hypervisor.clone(), Arc::new(FakeImages::of("acme")));
        config.pods_dir = self.path("pods");
        config.volume_dirs = vec![self.path("volumes")];
        config.allowed_host_paths = vec![crate::AllowedHostPath { path: self.path("shared"), read_only: false }];
        config.boot_timeout = Duration::from_secs(3);
        config.health_interval = Duration::from_millis(300);
        config.health_timeout = Duration::from_secs(1);
        config.log_max_bytes = LOG_MAX_BYTES;
        config.vm_memory_mib = self.vm_memory_mib;
        std::fs::create_dir_all(self.path("pods").join(POD_UID)).unwrap();
        std::fs::create_dir_all(self.path("volumes")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(async { crate::run(config, std::future::pending()).await.unwrap() });
        self.hyperd = Some(runtime);
        let socket = self.path("root/hyperd.sock");
        wait_until("hyperd to serve", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    }

    /// As `kill -9` would.
    async fn kill(&mut self) {
        self.hyperd.take().unwrap().shutdown_background();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn channel(&self) -> Channel {
        let socket = self.path("root/hyperd.sock");
        hypernetes_hyperd_api::connect(&socket).await.unwrap()
    }

    async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel().await)
    }

    async fn run_sandbox(&self) -> String {
        let request = cri::RunPodSandboxRequest { config: Some(self.sandbox_config()), ..Default::default() };
        self.runtime().await.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    /// Another of the same pod.
    async fn run_sandbox_again(&self, attempt: u32) -> String {
        let mut config = self.sandbox_config();
        config.metadata.as_mut().unwrap().attempt = attempt;
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.runtime().await.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    /// One of a tenant's, which a pool may have made ready.
    async fn sandbox_of(&self, tenant: &str, attempt: u32) -> (String, Arc<Machine>) {
        let mut config = self.sandbox_config();
        config.metadata.as_mut().unwrap().attempt = attempt;
        config.annotations.insert(crate::TENANT_ANNOTATION.into(), tenant.into());
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let id = self.runtime().await.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
        let machine = self.hypervisor.machines().into_iter().find(|machine| machine.spec().id == id).unwrap();
        (id, machine)
    }

    fn sandbox_config(&self) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".into(),
                uid: POD_UID.into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            log_directory: self.path("logs").display().to_string(),
            ..Default::default()
        }
    }

    async fn create(&self, sandbox: &str, config: cri::ContainerConfig) -> Result<String, tonic::Status> {
        let request =
            cri::CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: None };
        Ok(self.runtime().await.create_container(request).await?.into_inner().container_id)
    }

    async fn create_and_start(&self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let container_id = self.create(sandbox, config).await.unwrap();
        let request = cri::StartContainerRequest { container_id: container_id.clone() };
        self.runtime().await.start_container(request).await.unwrap();
        container_id
    }

    async fn container(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.runtime().await.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    async fn sandbox(&self, id: &str) -> (cri::PodSandboxStatus, std::collections::HashMap<String, String>) {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        let response = self.runtime().await.pod_sandbox_status(request).await.unwrap().into_inner();
        (response.status.unwrap(), response.info)
    }

    async fn wait_exited(&self, id: &str) -> cri::ContainerStatus {
        for _ in 0..1200 {
            let status = self.container(id).await;
            if status.state == cri::ContainerState::ContainerExited as i32 {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the container {id} did not end");
    }

    fn log(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("logs").join(name)).unwrap_or_default();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn machine(&self) -> Arc<Machine> {
        self.hypervisor.machines().pop().unwrap()
    }
}

impl Node {
    async fn hibernate(&self, sandbox: &str) -> Result<(), tonic::Status> {
        let request = HibernateSandboxRequest { pod_sandbox_id: sandbox.into() };
        HyperdClient::new(self.channel().await).hibernate_sandbox(request).await.map(drop)
    }

    async fn resume(&self, sandbox: &str) -> Result<(), tonic::Status> {
        let request = ResumeSandboxRequest { pod_sandbox_id: sandbox.into() };
        HyperdClient::new(self.channel().await).resume_sandbox(request).await.map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for machine in self.hypervisor.machines() {
            machine.end();
        }
        self.hypervisor.forget_unless(|_| false);
        if let Some(hyperd) = self.hyperd.take() {
            hyperd.shutdown_background();
        }
    }
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2400 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("waited too long for {what}");
}

fn shell(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: "test".into(), ..Default::default() }),
        args: vec![script.into()],
        log_path: format!("{name}/0.log"),
        ..Default::default()
    }
}

fn mount(host: &Path, container: &str) -> cri::Mount {
    cri::Mount { host_path: host.display().to_string(), container_path: container.into(), ..Default::default() }
}
