//! The runtime, as the kubelet calls it. Every call has a deadline: one that does not answer for one pod holds up neither
//! that pod's end nor the others.

use std::{collections::BTreeSet, path::Path, time::Duration};

use hypernetes_api::{TenantId, Uid, names};
use hypernetes_hyperd_api::{DialChunk, ForgetTenantRequest, ListTenantsRequest, hyperd_client::HyperdClient};
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::{Code, Response, Status, Streaming, transport::Channel};

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Which sandbox a container was made in: CRI's status does not say.
pub const SANDBOX: &str = "hypernetes.io/sandbox";
/// Largest answer of the runtime.
const MAX_MESSAGE: usize = 16 << 20;

/// For what the runtime knows without asking anybody.
const LOOK: Duration = Duration::from_secs(10);
/// For what it has to do: upstream's `runtimeRequestTimeout`.
const ACT: Duration = Duration::from_secs(120);
/// For a sandbox, as upstream: twice that.
const RUN_SANDBOX: Duration = Duration::from_secs(240);
/// For ending a sandbox, which is asked for again if it takes longer.
const END_SANDBOX: Duration = Duration::from_secs(30);
const PULL: Duration = Duration::from_secs(30 * 60);
/// What a call with a time of its own may take beyond it.
const SLACK: Duration = Duration::from_secs(3);

/// The answer, unless it comes too late: then `DeadlineExceeded`.
async fn within<T>(
    limit: Duration,
    what: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the container runtime did not answer within {} s ({what})",
            limit.as_secs()
        ))),
    }
}

/// On a sandbox and on an image that is pulled: what our runtime lets the tenant have on this node. Others ignore it.
pub const LOG_BYTES: &str = "hypernetes.io/log-bytes";
const IMAGE_BYTES: &str = "hypernetes.io/image-bytes";

/// The runtime tells who may have what is there by who asks for it, and puts down for whom it pulls.
fn of_tenant(image: String, tenant: &TenantId) -> cri::ImageSpec {
    let annotations = [(names::TENANT_ANNOTATION.to_owned(), tenant.to_string())].into();
    cri::ImageSpec { image, annotations, ..Default::default() }
}

#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// What our runtime has beside CRI.
    hyperd: HyperdClient<Channel>,
}

/// A container as the runtime has it.
#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    pub status: cri::ContainerStatus,
}

/// A container that runs.
#[derive(Debug, Clone)]
pub struct Running {
    pub id: String,
    pub name: String,
    pub sandbox: String,
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

    pub async fn version(&self) -> Result<cri::VersionResponse, Status> {
        let request = cri::VersionRequest { version: "v1".into() };
        within(LOOK, "version", self.runtime.clone().version(request)).await
    }

    /// Sandboxes of a pod, newest first.
    pub async fn sandboxes(&self, uid: &Uid) -> Result<Vec<cri::PodSandbox>, Status> {
        self.sandboxes_labelled(vec![(POD_UID, &**uid)]).await
    }

    /// Sandboxes that have all these labels, newest first.
    pub async fn sandboxes_labelled(&self, labels: Vec<(&str, &str)>) -> Result<Vec<cri::PodSandbox>, Status> {
        let labels = labels.into_iter().map(|(label, value)| (label.to_owned(), value.to_owned()));
        let filter = cri::PodSandboxFilter { label_selector: labels.collect(), ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let mut items = within(LOOK, "listing sandboxes", self.runtime.clone().list_pod_sandbox(request)).await?.items;
        items.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        Ok(items)
    }

    /// All sandboxes, for what is left of pods that are gone.
    pub async fn all_sandboxes(&self) -> Result<Vec<cri::PodSandbox>, Status> {
        let request = cri::ListPodSandboxRequest::default();
        Ok(within(LOOK, "listing sandboxes", self.runtime.clone().list_pod_sandbox(request)).await?.items)
    }

    async fn list_containers(&self, uid: &Uid) -> Result<Vec<cri::Container>, Status> {
        let filter = cri::ContainerFilter {
            label_selector: [(POD_UID.to_owned(), uid.to_string())].into(),
            ..Default::default()
        };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        Ok(within(LOOK, "listing containers", self.runtime.clone().list_containers(request)).await?.containers)
    }

    /// Containers of a pod with their statuses, newest attempt of each name first.
    pub async fn containers(&self, uid: &Uid) -> Result<Vec<Container>, Status> {
        let listed = self.list_containers(uid).await?;
        let mut containers = Vec::with_capacity(listed.len());
        for one in listed {
            let request = cri::ContainerStatusRequest { container_id: one.id.clone(), verbose: false };
            let answer = within(LOOK, "a container's status", self.runtime.clone().container_status(request)).await;
            let status = match answer {
                Ok(response) => response.status,
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => return Err(status),
            };
            if let (Some(status), Some(metadata)) = (status, one.metadata) {
                containers.push(Container { id: one.id, name: metadata.name, attempt: metadata.attempt, status });
            }
        }
        containers.sort_by_key(|c| std::cmp::Reverse(c.attempt));
        Ok(containers)
    }

    /// A pod's containers that run.
    pub async fn running(&self, uid: &Uid) -> Result<Vec<Running>, Status> {
        let listed = self.list_containers(uid).await?.into_iter();
        let running = listed.filter(|c| c.state() == cri::ContainerState::ContainerRunning);
        let name = |metadata: Option<cri::ContainerMetadata>| metadata.unwrap_or_default().name;
        Ok(running.map(|c| Running { id: c.id, name: name(c.metadata), sandbox: c.pod_sandbox_id }).collect())
    }

    pub async fn run_sandbox(&self, config: cri::PodSandboxConfig) -> Result<String, Status> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let made = within(RUN_SANDBOX, "running a sandbox", self.runtime.clone().run_pod_sandbox(request)).await?;
        Ok(made.pod_sandbox_id)
    }

    pub async fn sandbox_status(&self, id: &str) -> Result<Option<cri::PodSandboxStatus>, Status> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(within(LOOK, "a sandbox's status", self.runtime.clone().pod_sandbox_status(request)).await?.status)
    }

    /// Stops and removes a sandbox with all that is in it.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        // A sandbox that cannot be stopped may still be removed.
        let stopped = self.stop_sandbox(id).await;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        match within(END_SANDBOX, "removing a sandbox", self.runtime.clone().remove_pod_sandbox(request)).await {
            Err(status) => Err(stopped.err().unwrap_or(status)),
            Ok(_) => Ok(()),
        }
    }

    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        within(END_SANDBOX, "stopping a sandbox", self.runtime.clone().stop_pod_sandbox(request)).await.map(drop)
    }

    /// The container's id.
    pub async fn create_container(&self, request: cri::CreateContainerRequest) -> Result<String, Status> {
        let made = within(ACT, "creating a container", self.runtime.clone().create_container(request)).await?;
        Ok(made.container_id)
    }

    pub async fn start_container(&self, id: String) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id };
        within(ACT, "starting a container", self.runtime.clone().start_container(request)).await.map(drop)
    }

    /// Asks a container to end and ends it after `grace`, which has to be bounded.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Status> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        let limit = grace.saturating_add(SLACK);
        within(limit, "stopping a container", self.runtime.clone().stop_container(request)).await.map(drop)
    }

    pub async fn image(&self, image: String, tenant: &TenantId) -> Result<Option<cri::Image>, Status> {
        let image = Some(of_tenant(image, tenant));
        let request = cri::ImageStatusRequest { image, verbose: false };
        Ok(within(LOOK, "an image's status", self.images.clone().image_status(request)).await?.image)
    }

    /// The image's reference. `max_bytes`: of all images that the tenant may have pulled on this node.
    pub async fn pull(
        &self,
        image: String,
        tenant: &TenantId,
        max_bytes: u64,
        auth: Option<cri::AuthConfig>,
    ) -> Result<String, Status> {
        let mut image = of_tenant(image, tenant);
        image.annotations.insert(IMAGE_BYTES.into(), max_bytes.to_string());
        let request = cri::PullImageRequest { image: Some(image), auth, sandbox_config: None };
        Ok(within(PULL, "pulling an image", self.images.clone().pull_image(request)).await?.image_ref)
    }

    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(1).max(1);
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd: command, timeout: seconds };
        within(timeout.saturating_add(SLACK), "a command", self.runtime.clone().exec_sync(request)).await
    }

    /// Where a session waits for its client, three times alike.
    pub async fn exec_session(&self, request: cri::ExecRequest) -> Result<String, Status> {
        Ok(within(LOOK, "exec", self.runtime.clone().exec(request)).await?.url)
    }

    pub async fn attach_session(&self, request: cri::AttachRequest) -> Result<String, Status> {
        Ok(within(LOOK, "attach", self.runtime.clone().attach(request)).await?.url)
    }

    pub async fn port_forward_session(&self, request: cri::PortForwardRequest) -> Result<String, Status> {
        Ok(within(LOOK, "port-forward", self.runtime.clone().port_forward(request)).await?.url)
    }

    pub async fn is_running(&self, id: &str) -> bool {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let status = within(LOOK, "a container's status", self.runtime.clone().container_status(request)).await;
        let status = status.ok().and_then(|answer| answer.status);
        status.is_some_and(|status| status.state() == cri::ContainerState::ContainerRunning)
    }

    /// What happens to containers, for as long as the runtime is there.
    pub async fn events(&self) -> Result<Streaming<cri::ContainerEventResponse>, Status> {
        let request = cri::GetEventsRequest {};
        within(LOOK, "events", self.runtime.clone().get_container_events(request)).await
    }

    /// The tenants of whom the runtime keeps something beyond their pods. One that is not ours keeps nothing by tenant.
    pub async fn tenants(&self) -> Result<BTreeSet<TenantId>, Status> {
        match within(LOOK, "listing tenants", self.hyperd.clone().list_tenants(ListTenantsRequest {})).await {
            Ok(answer) => Ok(answer.tenants.iter().filter_map(|tenant| tenant.parse().ok()).collect()),
            Err(status) if status.code() == Code::Unimplemented => Ok(BTreeSet::new()),
            Err(status) => Err(status),
        }
    }

    /// Has the runtime forget a tenant that is deleted.
    pub async fn forget_tenant(&self, tenant: &TenantId) -> Result<(), Status> {
        let request = ForgetTenantRequest { tenant: tenant.to_string() };
        match within(LOOK, "forgetting a tenant", self.hyperd.clone().forget_tenant(request)).await {
            Err(status) if status.code() != Code::Unimplemented => Err(status),
            _ => Ok(()),
        }
    }

    /// A connection into a sandbox; the caller bounds how long it is used.
    pub async fn dial(
        &self,
        stream: impl futures::Stream<Item = DialChunk> + Send + 'static,
    ) -> Result<Streaming<DialChunk>, Status> {
        within(ACT, "dialling into a sandbox", self.hyperd.clone().dial(stream)).await
    }
}
