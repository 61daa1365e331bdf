//! CRI's RuntimeService.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use hypernetes_hypervisor::Accelerator;
use k8s_cri::v1::{self as cri, runtime_service_server::RuntimeService};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Request, Response, Status};

use super::{Service, detached};
use crate::{
    container::Container,
    error::{Error, Result},
    records::SandboxState,
    sandbox::Sandbox,
    streaming::{Session, Streams},
};

type Answer<T> = std::result::Result<Response<T>, Status>;

fn seconds(value: i64) -> Duration {
    // A year: whatever is longer was meant as forever, and does not overflow timers.
    Duration::from_secs(u64::try_from(value).unwrap_or(0).min(365 * 24 * 3600))
}

fn has_labels(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn id_matches(id: &str, wanted: &str) -> bool {
    wanted.is_empty() || id.starts_with(wanted)
}

fn condition(name: &str, problem: Option<(&str, String)>) -> cri::RuntimeCondition {
    let status = problem.is_none();
    let (reason, message) = problem.unwrap_or_default();
    cri::RuntimeCondition { r#type: name.into(), status, reason: reason.into(), message }
}

impl Service {
    fn verbose_info(&self, sandbox: &Sandbox) -> HashMap<String, String> {
        let record = sandbox.record();
        let mut info = HashMap::from([
            ("boot_id".to_owned(), record.boot_id),
            ("agent_version".to_owned(), record.agent_version),
            ("kernel_release".to_owned(), record.kernel_release),
        ]);
        if let Some(vm) = record.vm {
            info.insert("vm_pid".into(), vm.pid.to_string());
            info.insert("vm_cpus".into(), vm.spec.cpus.to_string());
            info.insert("vm_memory_mib".into(), vm.spec.memory_mib.to_string());
        }
        match record.state {
            SandboxState::NotReady { reason } | SandboxState::Stopped { reason } => {
                info.insert("reason".into(), reason);
            }
            SandboxState::Starting | SandboxState::Ready => {}
        }
        info
    }

    /// Usage of containers, sandbox by sandbox; a sandbox that does not answer has none.
    async fn stats_of(&self, containers: Vec<Arc<Container>>) -> Vec<cri::ContainerStats> {
        let mut by_sandbox: HashMap<String, Vec<Arc<Container>>> = HashMap::new();
        for container in containers.into_iter().filter(|c| c.is_running()) {
            by_sandbox.entry(container.sandbox_id.clone()).or_default().push(container);
        }
        let asked = by_sandbox.into_iter().map(|(id, containers)| async move {
            let sandbox = self.0.sandbox(&id)?;
            self.0.container_stats(&sandbox, &containers).await
        });
        futures::future::join_all(asked).await.into_iter().flat_map(Result::unwrap_or_default).collect()
    }
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
        let network = match self.0.cni.status() {
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
            info.insert("seccomp".into(), "profiles are not applied inside the guest yet".into());
        }
        let features = cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, ..Default::default() };
        let handler = |name: &str| cri::RuntimeHandler { name: name.into(), features: Some(features) };
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
            }),
            info,
            runtime_handlers: vec![handler(""), handler("hypernetes")],
            features: None,
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
        let containers = self.0.containers_of(&sandbox.id);
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            info: if request.verbose { self.verbose_info(&sandbox) } else { HashMap::new() },
            containers_statuses: containers.iter().map(|c| c.status()).collect(),
            timestamp: crate::runtime::now_nanos(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut items: Vec<_> = self
            .0
            .sandboxes()
            .iter()
            .map(|s| s.summary())
            .filter(|s| id_matches(&s.id, &filter.id))
            .filter(|s| filter.state.is_none_or(|wanted| wanted.state == s.state))
            .filter(|s| has_labels(&s.labels, &filter.label_selector))
            .collect();
        items.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
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
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut containers: Vec<_> = self
            .0
            .containers()
            .iter()
            .map(|c| c.summary())
            .filter(|c| id_matches(&c.id, &filter.id) && id_matches(&c.pod_sandbox_id, &filter.pod_sandbox_id))
            .filter(|c| filter.state.is_none_or(|wanted| wanted.state == c.state))
            .filter(|c| has_labels(&c.labels, &filter.label_selector))
            .collect();
        containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.0.container(&request.container_id)?;
        let mut info = HashMap::new();
        if request.verbose {
            info.insert("sandbox_id".into(), container.sandbox_id.clone());
        }
        Ok(Response::new(cri::ContainerStatusResponse { status: Some(container.status()), info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        self.0.container(&request.into_inner().container_id)?;
        Err(Error::Unimplemented("changing the resources of a running container").into())
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
        let session = Session::Exec { container_id: container.id.clone(), command: cmd, streams };
        Ok(Response::new(cri::ExecResponse { url: self.0.sessions.offer(session)? }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let cri::AttachRequest { container_id, stdin, tty, stdout, stderr } = request.into_inner();
        let container = self.0.container(&container_id)?;
        self.0.process_of(&container)?;
        let streams = Streams { stdin, stdout, stderr, tty }.check()?;
        let session = Session::Attach { container_id: container.id.clone(), streams };
        Ok(Response::new(cri::AttachResponse { url: self.0.sessions.offer(session)? }))
    }

    async fn port_forward(&self, request: Request<cri::PortForwardRequest>) -> Answer<cri::PortForwardResponse> {
        let cri::PortForwardRequest { pod_sandbox_id, port } = request.into_inner();
        let sandbox = self.0.sandbox(&pod_sandbox_id)?;
        sandbox.live()?;
        let ports = port.into_iter().map(u16::try_from).collect::<Result<Vec<u16>, _>>();
        let ports = ports.map_err(|_| Error::InvalidArgument("a port is out of range".into()))?;
        let session = Session::PortForward { sandbox_id: sandbox.id.clone(), ports };
        Ok(Response::new(cri::PortForwardResponse { url: self.0.sessions.offer(session)? }))
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
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut containers = self.0.containers();
        containers.retain(|c| {
            id_matches(&c.id, &filter.id)
                && id_matches(&c.sandbox_id, &filter.pod_sandbox_id)
                && has_labels(&c.record().config.labels, &filter.label_selector)
        });
        Ok(Response::new(cri::ListContainerStatsResponse { stats: self.stats_of(containers).await }))
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
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut sandboxes = self.0.sandboxes();
        sandboxes.retain(|s| {
            s.is_ready()
                && id_matches(&s.id, &filter.id)
                && has_labels(&s.record().config.labels, &filter.label_selector)
        });
        let asked = sandboxes.iter().map(|s| self.0.sandbox_stats(s));
        let stats = futures::future::join_all(asked).await.into_iter().filter_map(Result::ok).collect();
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
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
        Err(Error::Unimplemented("checkpointing a container").into())
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
        Err(Error::Unimplemented("listing metric descriptors").into())
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        Err(Error::Unimplemented("listing sandbox metrics").into())
    }

    async fn runtime_config(&self, _request: Request<cri::RuntimeConfigRequest>) -> Answer<cri::RuntimeConfigResponse> {
        let linux = Some(cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs as i32 });
        Ok(Response::new(cri::RuntimeConfigResponse { linux }))
    }
}
