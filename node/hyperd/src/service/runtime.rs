//! CRI's RuntimeService.

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use hypernetes_hypervisor::Accelerator;
use k8s_cri::v1::{self as cri, runtime_service_server::RuntimeService};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Request, Response, Status};

use super::{
    Service, detached, info,
    list::{Pieces, pieces},
};
use crate::{
    error::{Error, Result},
    metrics,
    streaming::{Session, Streams},
};

type Answer<T> = std::result::Result<Response<T>, Status>;

fn seconds(value: i64) -> Duration {
    // A year: whatever is longer was meant as forever, and does not overflow timers.
    Duration::from_secs(u64::try_from(value).unwrap_or(0).min(365 * 24 * 3600))
}

fn condition(name: &str, problem: Option<(&str, String)>) -> cri::RuntimeCondition {
    let status = problem.is_none();
    let (reason, message) = problem.unwrap_or_default();
    cri::RuntimeCondition { r#type: name.into(), status, reason: reason.into(), message }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _request: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "hyperd".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let network = match self.0.cni.status().await {
            Ok(Some(_)) => None,
            Ok(None) => Some((
                "NetworkPluginNotReady",
                format!("no network configuration in {}", self.0.config.cni_config_dir.display()),
            )),
            Err(error) => Some(("NetworkPluginNotReady", error.to_string())),
        };
        let mut info = HashMap::new();
        if request.into_inner().verbose {
            let described = self.0.config.hypervisor.describe();
            let accelerator = match described.accelerator {
                Accelerator::Kvm => "kvm",
                Accelerator::Tcg => "tcg",
            };
            info.insert("vmm".into(), described.vmm);
            info.insert("accelerator".into(), accelerator.into());
            info.insert("accelerator_reason".into(), described.accelerator_reason);
        }
        let features = cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true };
        let handler = |name: &str| cri::RuntimeHandler { name: name.into(), features: Some(features) };
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
            }),
            info,
            runtime_handlers: vec![handler(""), handler("hypernetes")],
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        }))
    }

    async fn run_pod_sandbox(&self, request: Request<cri::RunPodSandboxRequest>) -> Answer<cri::RunPodSandboxResponse> {
        let cri::RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = config.ok_or_else(|| Status::invalid_argument("the sandbox has no configuration"))?;
        let runtime = self.0.clone();
        let pod_sandbox_id = detached(async move { runtime.run_sandbox(config, runtime_handler).await }).await?;
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let (runtime, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        detached(async move { runtime.stop_sandbox(&id).await }).await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let (runtime, id) = (self.0.clone(), request.into_inner().pod_sandbox_id);
        detached(async move { runtime.remove_sandbox(&id).await }).await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.0.sandbox(&request.pod_sandbox_id)?;
        let containers_statuses = self.0.statuses_of(&sandbox.id);
        let mut info = HashMap::new();
        if request.verbose {
            let network = self.0.cni.check(&sandbox.id).await;
            // After what takes time: it is to say the same as the status below.
            info = info::of_sandbox(&sandbox);
            info.insert("network_check".into(), network.map_or_else(|error| error.to_string(), |()| "ok".into()));
        }
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            info,
            containers_statuses,
            timestamp: crate::runtime::now_nanos(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let items = self.sandbox_list(request.into_inner().filter);
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
    }

    type StreamPodSandboxesStream = Pieces<cri::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = self.sandbox_list(request.into_inner().filter);
        Ok(pieces(items, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let cri::CreateContainerRequest { pod_sandbox_id, config, sandbox_config: _ } = request.into_inner();
        let config = config.ok_or_else(|| Status::invalid_argument("the container has no configuration"))?;
        let runtime = self.0.clone();
        let container_id = detached(async move { runtime.create_container(&pod_sandbox_id, config).await }).await?;
        Ok(Response::new(cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let (runtime, id) = (self.0.clone(), request.into_inner().container_id);
        detached(async move { runtime.start_container(&id).await }).await?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<cri::StopContainerRequest>) -> Answer<cri::StopContainerResponse> {
        let (runtime, request) = (self.0.clone(), request.into_inner());
        let grace = seconds(request.timeout);
        detached(async move { runtime.stop_container(&request.container_id, grace).await }).await?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let (runtime, id) = (self.0.clone(), request.into_inner().container_id);
        detached(async move { runtime.remove_container(&id).await }).await?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let containers = self.container_list(request.into_inner().filter);
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    type StreamContainersStream = Pieces<cri::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let containers = self.container_list(request.into_inner().filter);
        Ok(pieces(containers, |containers| cri::StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.0.container(&request.container_id)?;
        let info = if request.verbose { info::of_container(&container) } else { HashMap::new() };
        Ok(Response::new(cri::ContainerStatusResponse { status: Some(container.status()), info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let cri::UpdateContainerResourcesRequest { container_id, linux, .. } = request.into_inner();
        let (runtime, linux) = (self.0.clone(), linux.unwrap_or_default());
        detached(async move { runtime.update_container(&container_id, linux).await }).await?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead, resources } = request.into_inner();
        let runtime = self.0.clone();
        detached(async move { runtime.update_sandbox(&pod_sandbox_id, overhead, resources).await }).await?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.0.reopen_log(&request.into_inner().container_id).await?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let cri::ExecSyncRequest { container_id, cmd, timeout } = request.into_inner();
        let container = self.0.container(&container_id)?;
        let captured = self.0.exec_sync(&container, cmd, seconds(timeout)).await?;
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: captured.stdout,
            stderr: captured.stderr,
            exit_code: captured.exit_code,
        }))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request.into_inner();
        let container = self.0.container(&container_id)?;
        self.0.process_of(&container)?;
        if cmd.is_empty() {
            return Err(Error::InvalidArgument("no command to run".into()).into());
        }
        let streams = Streams { stdin, stdout, stderr, tty }.check()?;
        let owner = self.0.owner(&container.sandbox_id)?;
        let session = Session::Exec { container_id: container.id.clone(), command: cmd, streams };
        Ok(Response::new(cri::ExecResponse { url: self.0.sessions.offer(owner, session)? }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let cri::AttachRequest { container_id, stdin, tty, stdout, stderr } = request.into_inner();
        let container = self.0.container(&container_id)?;
        self.0.process_to_attach(&container)?;
        let streams = Streams { stdin, stdout, stderr, tty }.check()?;
        let owner = self.0.owner(&container.sandbox_id)?;
        let session = Session::Attach { container_id: container.id.clone(), streams };
        Ok(Response::new(cri::AttachResponse { url: self.0.sessions.offer(owner, session)? }))
    }

    async fn port_forward(&self, request: Request<cri::PortForwardRequest>) -> Answer<cri::PortForwardResponse> {
        let cri::PortForwardRequest { pod_sandbox_id, port } = request.into_inner();
        let sandbox = self.0.sandbox(&pod_sandbox_id)?;
        sandbox.live()?;
        let ports = port.into_iter().map(u16::try_from).collect::<Result<Vec<u16>, _>>();
        let ports = ports.map_err(|_| Error::InvalidArgument("a port is out of range".into()))?;
        let owner = self.0.owner(&sandbox.id)?;
        let session = Session::PortForward { sandbox_id: sandbox.id.clone(), ports };
        Ok(Response::new(cri::PortForwardResponse { url: self.0.sessions.offer(owner, session)? }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.0.container(&request.into_inner().container_id)?;
        let sandbox = self.0.sandbox(&container.sandbox_id)?;
        let stats = self.0.container_stats(&sandbox, &[container]).await?.pop();
        Ok(Response::new(cri::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let stats = self.container_stats_list(request.into_inner().filter).await;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Pieces<cri::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = self.container_stats_list(request.into_inner().filter).await;
        Ok(pieces(stats, |container_stats| cri::StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.0.sandbox(&request.into_inner().pod_sandbox_id)?;
        let stats = Some(self.0.sandbox_stats(&sandbox).await?);
        Ok(Response::new(cri::PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let stats = self.sandbox_stats_list(request.into_inner().filter).await;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Pieces<cri::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = self.sandbox_stats_list(request.into_inner().filter).await;
        Ok(pieces(stats, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    /// The pod CIDR of the node means nothing here: addresses come from the tenants' networks.
    async fn update_runtime_config(
        &self,
        _request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn checkpoint_container(
        &self,
        _request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        let message = "containers in virtual machines cannot be checkpointed: there is nothing on the node to freeze";
        Err(Status::unimplemented(message))
    }

    type GetContainerEventsStream = Pin<Box<dyn Stream<Item = Result<cri::ContainerEventResponse, Status>> + Send>>;

    async fn get_container_events(
        &self,
        _request: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = BroadcastStream::new(self.0.events.subscribe()).map(|event| {
            event.map_err(|BroadcastStreamRecvError::Lagged(missed)| {
                Status::data_loss(format!("{missed} events were missed; list the containers again"))
            })
        });
        // After an error nothing follows: the reader has to start anew.
        let events = events.scan(false, |failed, event| {
            let item = (!*failed).then_some(event);
            *failed |= item.as_ref().is_some_and(Result::is_err);
            std::future::ready(item)
        });
        Ok(Response::new(events.boxed()))
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Ok(Response::new(cri::ListMetricDescriptorsResponse { descriptors: metrics::descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        Ok(Response::new(cri::ListPodSandboxMetricsResponse { pod_metrics: self.metrics_list().await }))
    }

    type StreamPodSandboxMetricsStream = Pieces<cri::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let metrics = self.metrics_list().await;
        Ok(pieces(metrics, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
    }

    async fn runtime_config(&self, _request: Request<cri::RuntimeConfigRequest>) -> Answer<cri::RuntimeConfigResponse> {
        let linux = Some(cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs as i32 });
        Ok(Response::new(cri::RuntimeConfigResponse { linux }))
    }
}
