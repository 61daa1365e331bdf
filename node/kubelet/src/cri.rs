//! The runtime, as the kubelet calls it.

use std::{path::Path, time::Duration};

use hypernetes_hyperd_api::hyperd_client::HyperdClient;
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::{Status, transport::Channel};

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Largest answer of the runtime.
const MAX_MESSAGE: usize = 16 << 20;

#[derive(Clone)]
pub struct Runtime {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    /// What our runtime has beside CRI.
    pub hyperd: HyperdClient<Channel>,
}

/// A container as the runtime has it.
#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    pub status: cri::ContainerStatus,
}

impl Runtime {
    /// A runtime that is just starting again is connected to when it is there.
    pub fn connect(socket: &Path) -> Self {
        let channel = hypernetes_hyperd_api::connect_lazily(socket);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            hyperd: HyperdClient::new(channel),
        }
    }

    /// Sandboxes of a pod, newest first.
    pub async fn sandboxes(&self, uid: &str) -> Result<Vec<cri::PodSandbox>, Status> {
        let filter = cri::PodSandboxFilter {
            label_selector: [(POD_UID.to_owned(), uid.to_owned())].into(),
            ..Default::default()
        };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let mut items = self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items;
        items.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        Ok(items)
    }

    /// All sandboxes, for what is left of pods that are gone.
    pub async fn all_sandboxes(&self) -> Result<Vec<cri::PodSandbox>, Status> {
        Ok(self.runtime.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items)
    }

    /// Containers of a pod with their statuses, newest attempt of each name first.
    pub async fn containers(&self, uid: &str) -> Result<Vec<Container>, Status> {
        let filter = cri::ContainerFilter {
            label_selector: [(POD_UID.to_owned(), uid.to_owned())].into(),
            ..Default::default()
        };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let listed = self.runtime.clone().list_containers(request).await?.into_inner().containers;
        let mut containers = Vec::with_capacity(listed.len());
        for one in listed {
            let request = cri::ContainerStatusRequest { container_id: one.id.clone(), verbose: false };
            let status = match self.runtime.clone().container_status(request).await {
                Ok(response) => response.into_inner().status,
                Err(status) if status.code() == tonic::Code::NotFound => None,
                Err(status) => return Err(status),
            };
            if let (Some(status), Some(metadata)) = (status, one.metadata) {
                containers.push(Container { id: one.id, name: metadata.name, attempt: metadata.attempt, status });
            }
        }
        containers.sort_by_key(|c| std::cmp::Reverse(c.attempt));
        Ok(containers)
    }

    pub async fn sandbox_status(&self, id: &str) -> Result<Option<cri::PodSandboxStatus>, Status> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(self.runtime.clone().pod_sandbox_status(request).await?.into_inner().status)
    }

    /// Stops and removes a sandbox with all that is in it.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let mut runtime = self.runtime.clone();
        runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }

    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        self.runtime.clone().stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop)
    }

    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Status> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        self.runtime.clone().stop_container(request).await.map(drop)
    }

    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let timeout = i64::try_from(timeout.as_secs()).unwrap_or(1).max(1);
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd: command, timeout };
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    pub async fn is_running(&self, id: &str) -> bool {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let status = self.runtime.clone().container_status(request).await.ok().and_then(|r| r.into_inner().status);
        status.is_some_and(|status| status.state() == cri::ContainerState::ContainerRunning)
    }
}
