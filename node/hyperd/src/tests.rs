//! hyperd as its clients see it, over a fake VM.

mod hostile;

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
}

impl Node {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hypervisor = FakeHypervisor::new(directory.path(), tokio::runtime::Handle::current());
        let mut node = Self { directory, hypervisor, hyperd: None };
        node.run().await;
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn run(&mut self) {
        let mut config = HyperdConfig::new(&self.path("root"), self.hypervisor.clone(), Arc::new(FakeImages));
        config.pods_dir = self.path("pods");
        config.volume_dirs = vec![self.path("volumes")];
        config.allowed_host_paths = vec![crate::AllowedHostPath { path: self.path("shared"), read_only: false }];
        config.boot_timeout = Duration::from_secs(3);
        config.health_interval = Duration::from_millis(300);
        config.health_timeout = Duration::from_secs(1);
        config.log_max_bytes = LOG_MAX_BYTES;
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
        for _ in 0..200 {
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
    for _ in 0..400 {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_life() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let events = client.get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let sandbox = node.run_sandbox().await;
    let (status, info) = node.sandbox(&sandbox).await;
    assert_eq!(status.state, cri::PodSandboxState::SandboxReady as i32);
    assert_eq!(info["boot_id"].len(), 36);
    assert_eq!(info["vm_pid"], "1");

    let first = node.create_and_start(&sandbox, shell("one", "echo out; echo err >&2; exit 3")).await;
    let second = node.create_and_start(&sandbox, shell("two", "echo fine; printf tail")).await;
    let status = node.wait_exited(&first).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    assert_eq!(status.image_id, Digest::of(b"test").to_string());
    assert_eq!(status.image.unwrap().image, "docker.io/library/test:latest");
    let status = node.wait_exited(&second).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    let mut lines = node.log("one/0.log");
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    assert_eq!(node.log("two/0.log"), ["stdout F fine", "stdout F tail"]);

    let list = client.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.containers.len(), 2);
    // Both share the image's disk.
    assert_eq!(node.machine().disks().len(), 1);
    client.remove_container(cri::RemoveContainerRequest { container_id: first.clone() }).await.unwrap();
    client.remove_container(cri::RemoveContainerRequest { container_id: first.clone() }).await.unwrap();
    assert_eq!(node.machine().disks().len(), 1);
    client.remove_container(cri::RemoveContainerRequest { container_id: second }).await.unwrap();
    assert_eq!(node.machine().disks().len(), 0);

    for _ in 0..2 {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        client.stop_pod_sandbox(request).await.unwrap();
    }
    assert!(!node.machine().is_running());
    assert_eq!(node.sandbox(&sandbox).await.0.state, cri::PodSandboxState::SandboxNotready as i32);
    for _ in 0..2 {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        client.remove_pod_sandbox(request).await.unwrap();
    }
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    assert_eq!(client.pod_sandbox_status(request).await.unwrap_err().code(), Code::NotFound);

    let kinds: Vec<i32> = events
        .take_while(|e| {
            let e = e.as_ref().unwrap();
            std::future::ready(!(e.container_id == sandbox && e.container_event_type == 3))
        })
        .map(|e| e.unwrap())
        .filter(|e| std::future::ready(e.container_id == first))
        .map(|e| e.container_event_type)
        .collect()
        .await;
    assert_eq!(kinds, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_proper_answers() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let sandbox = node.run_sandbox().await;
    let again = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    assert_eq!(client.run_pod_sandbox(again.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    let mut other = again;
    other.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt = 1;
    let linux = other.config.as_mut().unwrap().linux.get_or_insert_default();
    linux.security_context = Some(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(cri::NamespaceOption { network: 1, ..Default::default() }),
        ..Default::default()
    });
    let error = client.run_pod_sandbox(other.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("network"), "{error}");
    let linux = other.config.as_mut().unwrap().linux.as_mut().unwrap();
    linux.security_context = None;
    linux.resources = Some(cri::LinuxContainerResources { memory_limit_in_bytes: 900 << 30, ..Default::default() });
    let error = client.run_pod_sandbox(other).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("this host has"), "{error}");
    let empty = cri::RunPodSandboxRequest::default();
    assert_eq!(client.run_pod_sandbox(empty).await.unwrap_err().code(), Code::InvalidArgument);

    let mut unknown_image = shell("a", "true");
    unknown_image.image.as_mut().unwrap().image = "nope".into();
    assert_eq!(node.create(&sandbox, unknown_image).await.unwrap_err().code(), Code::NotFound);
    let mut host_mount = shell("a", "true");
    host_mount.mounts.push(mount(Path::new("/etc"), "/host"));
    let error = node.create(&sandbox, host_mount).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("virtual machine"), "{error}");
    let mut escaping_log = shell("a", "true");
    escaping_log.log_path = "../../x.log".into();
    assert_eq!(node.create(&sandbox, escaping_log).await.unwrap_err().code(), Code::InvalidArgument);
    let list = client.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(list.containers.is_empty());

    // A command that cannot be started.
    let mut wrong = shell("b", "");
    (wrong.command, wrong.args) = (vec!["/no/such".into()], vec![]);
    let id = node.create(&sandbox, wrong).await.unwrap();
    let error = client.start_container(cri::StartContainerRequest { container_id: id.clone() }).await.unwrap_err();
    assert!(error.message().contains("/no/such"), "{error}");
    let status = node.container(&id).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("StartError", 128));
    let request = cri::ExecSyncRequest { container_id: id, cmd: vec!["true".into()], timeout: 1 };
    assert_eq!(client.exec_sync(request).await.unwrap_err().code(), Code::FailedPrecondition);

    let mut images = ImageServiceClient::new(node.channel().await);
    let spec = |image: &str| Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let absent = cri::ImageStatusRequest { image: spec("nope"), verbose: false };
    assert!(images.image_status(absent).await.unwrap().into_inner().image.is_none());
    let absent = cri::PullImageRequest { image: spec("nope"), ..Default::default() };
    assert_eq!(images.pull_image(absent).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_out_of_order_and_repeated_ones_leave_nothing() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let sandbox = node.run_sandbox().await;
    let id = node.create(&sandbox, shell("a", "sleep 1000")).await.unwrap();
    assert_eq!(node.create(&sandbox, shell("a", "true")).await.unwrap_err().code(), Code::AlreadyExists);
    let exec = cri::ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".into()], timeout: 1 };
    assert_eq!(client.exec_sync(exec).await.unwrap_err().code(), Code::FailedPrecondition);
    let reopen = cri::ReopenContainerLogRequest { container_id: id.clone() };
    assert_eq!(client.reopen_container_log(reopen).await.unwrap_err().code(), Code::FailedPrecondition);
    // Stopping what does not run is no error, and no start.
    client.stop_container(cri::StopContainerRequest { container_id: id.clone(), timeout: 1 }).await.unwrap();
    let start = |id: &str| cri::StartContainerRequest { container_id: id.into() };
    client.start_container(start(&id)).await.unwrap();
    assert!(node.path("logs/a/0.log").exists(), "a reader finds the log at once");
    assert_eq!(client.start_container(start(&id)).await.unwrap_err().code(), Code::FailedPrecondition);
    client.stop_container(cri::StopContainerRequest { container_id: id.clone(), timeout: 1 }).await.unwrap();
    assert_eq!(client.start_container(start(&id)).await.unwrap_err().code(), Code::FailedPrecondition);
    let update = cri::UpdateContainerResourcesRequest { container_id: id.clone(), ..Default::default() };
    assert_eq!(client.update_container_resources(update).await.unwrap_err().code(), Code::FailedPrecondition);
    let late = node.create(&sandbox, shell("late", "true")).await.unwrap();

    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    client.stop_pod_sandbox(stop.clone()).await.unwrap();
    assert_eq!(node.create(&sandbox, shell("b", "true")).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.start_container(start(&late)).await.unwrap_err().code(), Code::FailedPrecondition);
    let stats = cri::PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    assert_eq!(client.pod_sandbox_stats(stats).await.unwrap_err().code(), Code::FailedPrecondition);
    let again = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    assert_eq!(client.run_pod_sandbox(again).await.unwrap_err().code(), Code::AlreadyExists);

    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    client.remove_pod_sandbox(remove.clone()).await.unwrap();
    client.remove_pod_sandbox(remove).await.unwrap();
    client.stop_pod_sandbox(stop).await.unwrap();
    for directory in ["root/sandboxes", "root/containers"] {
        assert_eq!(std::fs::read_dir(node.path(directory)).unwrap().count(), 0, "{directory}");
    }
    let other = node.run_sandbox().await;
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: other }).await.unwrap();
}

/// A container with everything that CRI can say of its security and limits, as the agent is told it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_may_is_told_to_the_agent() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let sandbox = node.run_sandbox().await;
    let mut config = shell("a", "sleep 1000");
    config.annotations = [(crate::EPHEMERAL_STORAGE_ANNOTATION.to_owned(), "1048576".to_owned())].into();
    config.stop_signal = cri::Signal::Sigrtminplus3 as i32;
    config.mounts = vec![cri::Mount {
        container_path: "/models".into(),
        readonly: true,
        image: Some(cri::ImageSpec { image: "test".into(), ..Default::default() }),
        image_sub_path: "a".into(),
        ..Default::default()
    }];
    let limits = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 500,
        unified: [("pids.max".to_owned(), "9".to_owned())].into(),
        ..Default::default()
    };
    config.linux = Some(cri::LinuxContainerConfig {
        resources: Some(limits.clone()),
        security_context: Some(cri::LinuxContainerSecurityContext {
            seccomp: Some(cri::SecurityProfile::default()),
            supplemental_groups_policy: cri::SupplementalGroupsPolicy::Strict as i32,
            ..Default::default()
        }),
    });
    let id = node.create_and_start(&sandbox, config.clone()).await;
    let machine = node.machine();
    let told = machine.guest.containers.lock()[&id].clone();
    let process = told.process.unwrap();
    assert_eq!((process.seccomp.len(), process.oom_score_adj), (2, Some(500)));
    assert!(process.user.unwrap().strict_groups && told.share_pid_namespace);
    assert_eq!((told.writable_bytes, told.resources.unwrap().unified["pids.max"].as_str()), (1 << 20, "9"));
    let mount = told.mounts.iter().find(|m| m.destination == "/models").unwrap();
    assert!(mount.read_only && mount.sub_path == "a");
    assert_eq!(machine.disks().len(), 1, "the root and the volume are one image");

    let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let response = client.container_status(request).await.unwrap().into_inner();
    let status = response.status.unwrap();
    let user = status.user.clone().unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1001, vec![1001, 7]));
    assert_eq!(status.stop_signal(), cri::Signal::Sigrtminplus3);
    assert_eq!(status.mounts[0].image.as_ref().unwrap().image_ref, status.image_id);
    let info: serde_json::Value = serde_json::from_str(&response.info["info"]).unwrap();
    assert_eq!(info["seccompPrograms"], 2);

    let mut update = async |container_id: &str, linux: cri::LinuxContainerResources| {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: container_id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        client.update_container_resources(request).await.map(drop).map_err(|status| status.code())
    };
    let memory = |memory_limit_in_bytes| cri::LinuxContainerResources { memory_limit_in_bytes, ..Default::default() };
    assert_eq!(update(&id, memory(100 << 20)).await, Ok(()));
    let told = machine.guest.containers.lock()[&id].clone().resources.unwrap();
    assert_eq!((told.memory_bytes, told.unified.len()), (100 << 20, 1));
    let expected = cri::LinuxContainerResources { memory_limit_in_bytes: 100 << 20, ..limits };
    assert_eq!(node.container(&id).await.resources.unwrap().linux, Some(expected));
    assert_eq!(update(&id, memory(1 << 40)).await, Err(Code::FailedPrecondition));
    assert_eq!(update(&id, memory(1)).await, Err(Code::InvalidArgument));
    assert_eq!(update("absent", memory(0)).await, Err(Code::NotFound));

    // One container of the pod may show its processes to another, and to nobody else.
    let mut debugger = shell("debug", "sleep 1000");
    let target = |target_id: &str| cri::LinuxContainerConfig {
        security_context: Some(cri::LinuxContainerSecurityContext {
            namespace_options: Some(cri::NamespaceOption {
                pid: cri::NamespaceMode::Target as i32,
                target_id: target_id.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    debugger.linux = Some(target("absent"));
    assert_eq!(node.create(&sandbox, debugger.clone()).await.unwrap_err().code(), Code::NotFound);
    debugger.linux = Some(target(&id));
    let debug = node.create(&sandbox, debugger).await.unwrap();
    assert_eq!(machine.guest.containers.lock()[&debug].pid_target, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_agent_is_asked_for_nothing_that_it_does_not_know() {
    let node = Node::start().await;
    node.hypervisor.mischief.old.store(true, Ordering::Relaxed);
    let sandbox = node.run_sandbox().await;
    let plain = node.create_and_start(&sandbox, shell("a", "sleep 1000")).await;
    assert_eq!(node.container(&plain).await.user, None);
    let mut confined = shell("b", "true");
    confined.linux.get_or_insert_default().security_context.get_or_insert_default().seccomp =
        Some(cri::SecurityProfile::default());
    let error = node.create(&sandbox, confined).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("recreate the pod"), "{error}");
    let request = cri::UpdateContainerResourcesRequest { container_id: plain, ..Default::default() };
    let error = node.runtime().await.update_container_resources(request).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_usage_and_metrics() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let status = client.status(cri::StatusRequest::default()).await.unwrap().into_inner();
    assert!(status.runtime_handlers.iter().all(|h| h.features.unwrap().recursive_read_only_mounts));
    assert!(status.features.unwrap().supplemental_groups_policy);
    let sandbox = node.run_sandbox().await;
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        ids.push(node.create_and_start(&sandbox, shell(name, "sleep 1000")).await);
    }
    let filter = Some(cri::ContainerFilter { id: ids[0].clone(), ..Default::default() });
    let mut stream = client.stream_containers(cri::StreamContainersRequest { filter }).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().containers[0].id, ids[0]);
    assert!(stream.message().await.unwrap().is_none());
    let request = cri::StreamPodSandboxesRequest::default();
    let mut stream = client.stream_pod_sandboxes(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().pod_sandboxes.len(), 1);
    let mut images = ImageServiceClient::new(node.channel().await);
    let mut stream = images.stream_images(cri::StreamImagesRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().images.len(), 1);

    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats = client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
    assert_eq!(stats.network.unwrap().default_interface.unwrap().name, "eth0[2J");
    assert_eq!(stats.process.unwrap().process_count.unwrap().value, 2);
    assert_eq!(stats.containers[0].cpu.unwrap().psi.unwrap().some.unwrap().avg10, 1.0);

    let request = cri::ListMetricDescriptorsRequest {};
    let descriptors = client.list_metric_descriptors(request).await.unwrap().into_inner().descriptors;
    let request = cri::ListPodSandboxMetricsRequest {};
    let metrics = client.list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics;
    assert_eq!(metrics.len(), 1);
    assert_eq!(metrics[0].container_metrics.len(), 2);
    let all = metrics[0].metrics.iter().chain(metrics[0].container_metrics.iter().flat_map(|c| &c.metrics));
    for metric in all {
        let descriptor = descriptors.iter().find(|d| d.name == metric.name).unwrap();
        assert_eq!(metric.label_values.len(), descriptor.label_keys.len(), "{}", metric.name);
    }
    let request = cri::CheckpointContainerRequest { container_id: ids[0].clone(), ..Default::default() };
    assert_eq!(client.checkpoint_container(request).await.unwrap_err().code(), Code::Unimplemented);

    let mut resize = async |memory_limit_in_bytes| {
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox.clone(),
            overhead: None,
            resources: Some(cri::LinuxContainerResources { memory_limit_in_bytes, ..Default::default() }),
        };
        client.update_pod_sandbox_resources(request).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(resize(32 << 20).await, Ok(()));
    assert_eq!(resize(1 << 40).await, Err(Code::InvalidArgument));
    assert_eq!(resize(1 << 30).await, Err(Code::FailedPrecondition));
}

#[tokio::test(flavor = "multi_thread")]
async fn running_pods_survive_the_death_of_hyperd() {
    let mut node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let go = node.path("go");
    let script = format!(
        "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.005; done; until [ -e {} ]; do sleep 0.05; done; echo end; exit 7",
        go.display()
    );
    let container = node.create_and_start(&sandbox, shell("loop", &script)).await;
    let (_, info) = node.sandbox(&sandbox).await;
    let log = "loop/0.log";
    wait_until("some lines", || node.log(log).len() > 20).await;
    for _ in 0..3 {
        node.kill().await;
        assert!(node.machine().is_running());
        tokio::time::sleep(Duration::from_millis(200)).await;
        node.run().await;
        assert_eq!(node.sandbox(&sandbox).await.0.state, cri::PodSandboxState::SandboxReady as i32);
        let seen = node.log(log).len();
        wait_until("the log to go on", || node.log(log).len() > seen || seen == 300).await;
    }
    assert_eq!(node.sandbox(&sandbox).await.1["boot_id"], info["boot_id"]);
    assert_eq!(node.container(&container).await.state, cri::ContainerState::ContainerRunning as i32);
    wait_until("all lines", || node.log(log).len() == 300).await;
    std::fs::write(go, "").unwrap();
    assert_eq!(node.wait_exited(&container).await.exit_code, 7);
    let expected: Vec<String> =
        (0..300).map(|i| format!("stdout F line {i}")).chain(["stdout F end".to_owned()]).collect();
    assert_eq!(node.log(log), expected);
}

/// What a guest asks of a host path is answered, whatever it is, before and after hyperd's death, until nobody uses it.
#[tokio::test(flavor = "multi_thread")]
async fn host_paths_are_served_to_guests_of_any_kind() {
    use hypernetes_guest_protocol::v1::{HostPathList, HostPathRequest, HostPathStat, host_path_request::Operation};
    let mut node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    std::fs::create_dir_all(node.path("shared/d")).unwrap();
    let ask = |id, path: &str, operation| HostPathRequest { id, path: path.into(), operation, ..Default::default() };
    let guest = node.machine().guest.clone();
    *guest.host_path_requests.lock() = vec![
        ask(1, "d", Some(Operation::Stat(HostPathStat::default()))),
        ask(u64::MAX, "../../etc/passwd", Some(Operation::Stat(HostPathStat::default()))),
        ask(1, "", None),
        ask(2, "", Some(Operation::List(HostPathList { cookie: u64::MAX }))),
    ];
    let replies = || {
        let mut replies: Vec<_> = guest.host_path_replies.lock().iter().map(|r| (r.id, r.errno, r.end)).collect();
        replies.sort_unstable();
        replies
    };
    let mut config = shell("one", "sleep 1000");
    config.mounts.push(mount(&node.path("shared"), "/x"));
    let one = node.create_and_start(&sandbox, config).await;
    let errno = |error: nix::errno::Errno| error as u32;
    wait_until("answers", || replies().len() >= 4).await;
    let seen = replies();
    let (invalid, unknown) = (errno(nix::errno::Errno::EINVAL), errno(nix::errno::Errno::ENOSYS));
    assert!(seen.contains(&(1, 0, false)) && seen.contains(&(1, unknown, false)), "{seen:?}");
    assert!(seen.contains(&(u64::MAX, invalid, false)) && seen.iter().any(|r| r.0 == 2), "{seen:?}");

    node.kill().await;
    guest.host_path_replies.lock().clear();
    node.run().await;
    wait_until("answers of hyperd's successor", || replies().len() >= 4).await;
    // Another container has it, too: it stays when the first goes.
    let mut config = shell("two", "sleep 1000");
    config.mounts.push(mount(&node.path("shared"), "/y"));
    let two = node.create_and_start(&sandbox, config).await;
    for (container_id, ends) in [(one, false), (two, true)] {
        node.runtime().await.remove_container(cri::RemoveContainerRequest { container_id }).await.unwrap();
        if ends {
            wait_until("the end", || replies().iter().any(|r| r.2)).await;
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!replies().iter().any(|r| r.2));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_are_noticed_at_once_and_after_a_restart() {
    let mut node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    node.machine().end();
    assert_eq!(node.wait_exited(&container).await.exit_code, 137);
    let (status, info) = node.sandbox(&sandbox).await;
    assert_eq!(status.state, cri::PodSandboxState::SandboxNotready as i32);
    assert!(info["reason"].contains("VM ended"), "{info:?}");
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    node.runtime().await.remove_pod_sandbox(request).await.unwrap();

    let sandbox = node.run_sandbox().await;
    let container = node.create_and_start(&sandbox, shell("two", "sleep 1000")).await;
    node.kill().await;
    for machine in node.hypervisor.machines() {
        machine.end();
    }
    node.run().await;
    assert_eq!(node.wait_exited(&container).await.reason, "Error");
    let (status, info) = node.sandbox(&sandbox).await;
    assert_eq!(status.state, cri::PodSandboxState::SandboxNotready as i32);
    assert!(info["reason"].contains("while hyperd did not run"), "{info:?}");
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    node.runtime().await.remove_pod_sandbox(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_agent_falls_silent_is_not_ready() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    node.hypervisor.mischief.silent.store(true, Ordering::Relaxed);
    let mut reason = None;
    for _ in 0..200 {
        let (status, mut info) = node.sandbox(&sandbox).await;
        if status.state == cri::PodSandboxState::SandboxNotready as i32 {
            reason = info.remove("reason");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(reason.as_ref().is_some_and(|r| r.contains("does not answer")), "{reason:?}");
    let error = node.create(&sandbox, shell("a", "true")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    node.runtime().await.remove_pod_sandbox(request).await.unwrap();
    assert!(!node.machine().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_sandbox_is_undone_after_a_restart() {
    let mut node = Node::start().await;
    node.hypervisor.mischief.silent.store(true, Ordering::Relaxed);
    let mut client = node.runtime().await;
    let request = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    let creating = tokio::spawn(async move { client.run_pod_sandbox(request).await });
    let hypervisor = node.hypervisor.clone();
    wait_until("the VM to be there", || !hypervisor.machines().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.kill().await;
    assert!(creating.await.unwrap().is_err());
    node.run().await;
    let list = node.runtime().await.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap();
    assert!(list.into_inner().items.is_empty());
    assert!(!node.machine().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_asks_first_and_kills_then() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let polite =
        node.create_and_start(&sandbox, shell("a", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")).await;
    let stubborn =
        node.create_and_start(&sandbox, shell("b", "trap '' TERM; echo up; while :; do sleep 0.05; done")).await;
    wait_until("both to be up", || node.log("a/0.log").len() == 1 && node.log("b/0.log").len() == 1).await;
    let mut client = node.runtime().await;
    for (container_id, timeout, expected) in [(&polite, 20, 5), (&stubborn, 1, 137)] {
        for _ in 0..2 {
            let request = cri::StopContainerRequest { container_id: container_id.clone(), timeout };
            client.stop_container(request).await.unwrap();
        }
        assert_eq!(node.container(container_id).await.exit_code, expected);
    }
    let request = cri::StopContainerRequest { container_id: "absent".into(), timeout: 0 };
    client.stop_container(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_sync_has_output_codes_and_limits() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container_id = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    let exec = async |script: &str, timeout| {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = cri::ExecSyncRequest { container_id: container_id.clone(), cmd, timeout };
        Ok::<_, tonic::Status>(node.runtime().await.exec_sync(request).await?.into_inner())
    };
    let answer = exec("echo o; echo e >&2; exit 9", 10).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout, answer.stderr), (9, b"o\n".to_vec(), b"e\n".to_vec()));
    // A child that is left behind holds the output open.
    let answer = exec("sleep 100 & echo started", 10).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout), (0, b"started\n".to_vec()));
    assert_eq!(exec("sleep 100", 1).await.unwrap_err().code(), Code::DeadlineExceeded);
    let answer = node
        .runtime()
        .await
        .max_decoding_message_size(64 << 20)
        .exec_sync(cri::ExecSyncRequest {
            container_id: container_id.clone(),
            cmd: ["head", "-c", "20000000", "/dev/zero"].map(str::to_owned).to_vec(),
            timeout: 60,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.stdout.len(), 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_websocket() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container_id = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    let request = cri::ExecRequest {
        container_id,
        cmd: ["/bin/sh", "-c", "read x; echo got $x; cat; echo bye >&2; exit 4"].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let url = node.runtime().await.exec(request).await.unwrap().into_inner().url;
    let connect = async || {
        let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
        tokio_tungstenite::connect_async(request).await
    };
    let (mut socket, response) = connect().await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    assert!(connect().await.is_err(), "a token works once");
    for message in [&b"\0hello\n"[..], b"\0more", b"\xff\0"] {
        socket.send(Message::Binary(message.to_vec().into())).await.unwrap();
    }
    let mut channels = [const { Vec::new() }; 5];
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(_) => break,
            _ => {}
        }
    }
    assert_eq!(channels[1], b"got hello\nmore");
    assert_eq!(channels[2], b"bye\n");
    let status: serde_json::Value = serde_json::from_slice(&channels[3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_spdy() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container_id = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    let exec = async |script: &str, protocol| {
        let request = cri::ExecRequest {
            container_id: container_id.clone(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let url = node.runtime().await.exec(request).await.unwrap().into_inner().url;
        spdy(url, protocol).await.unwrap()
    };
    let script = "read x; echo got $x; wc -c; echo bye >&2; exit 4";
    for (protocols, protocol) in
        [("v4.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io"), ("channel.k8s.io", "channel.k8s.io")]
    {
        let (chosen, mut client) = exec(script, protocols).await;
        assert_eq!(chosen, protocol);
        let errors = client.open(&[("streamtype", "error")]).await;
        let unasked = client.open(&[("streamtype", "resize")]).await;
        client.until(|c| c.heard(unasked).reset.is_some()).await;
        let stdin = client.open(&[("streamtype", "stdin")]).await;
        client.data(stdin, b"hello\n", false).await;
        let stdout = client.open(&[("streamtype", "stdout")]).await;
        let stderr = client.open(&[("streamtype", "stderr")]).await;
        for _ in 0..40 {
            client.data(stdin, &[b'x'; 10_000], false).await;
        }
        client.data(stdin, b"", true).await;
        client.until(|c| c.ended).await;
        for id in [errors, stdout, stderr] {
            assert!(client.heard(id).finished);
        }
        assert_eq!(client.heard(stdout).data, b"got hello\n400000\n");
        assert_eq!(client.heard(stderr).data, b"bye\n");
        assert_eq!(client.goodbye, Some(0));
        let told = String::from_utf8(client.heard(errors).data).unwrap();
        if protocol == "v4.channel.k8s.io" {
            let status: serde_json::Value = serde_json::from_str(&told).unwrap();
            assert_eq!(status["details"]["causes"][0]["message"], "4");
        } else {
            assert_eq!(told, "command terminated with non-zero exit code: exit status 4");
        }
    }
    // A process whose client goes away is killed.
    let pid = node.path("pid");
    let (_, mut client) =
        exec(&format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid.display()), "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        client.open(&[("streamtype", kind)]).await;
    }
    wait_until("the process to start", || pid.exists()).await;
    let process = format!("/proc/{}", std::fs::read_to_string(pid).unwrap().trim());
    assert!(Path::new(&process).exists());
    drop(client);
    wait_until("the process to be killed", || !Path::new(&process).exists()).await;
}

/// A server that gives back what it gets.
async fn echo_server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    port
}

/// A port at which nothing listens.
async fn closed_port() -> u16 {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// What kubectl does with a forwarded port: several connections in one session, large data, one that fails.
async fn forward_ports<I, O>(client: &mut Client<I, O>)
where
    I: futures::Stream<Item = Bytes> + Unpin,
    O: futures::Sink<Bytes> + Unpin,
{
    let (open, closed) = (echo_server().await.to_string(), closed_port().await.to_string());
    let mut connections = Vec::new();
    for (request, port) in [("0", &open), ("1", &closed), ("2", &open)] {
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request)];
        let errors = client.open(&headers("error")).await;
        client.data(errors, b"", true).await;
        let data = client.open(&headers("data")).await;
        client.until(|c| c.heard(data).replied).await;
        connections.push((errors, data));
    }
    let [first, failing, second] = connections[..] else { panic!() };
    client.until(|c| c.heard(failing.0).finished && c.heard(failing.1).finished).await;
    let message = String::from_utf8(client.heard(failing.0).data).unwrap();
    assert!(message.starts_with(&format!("error forwarding port {closed} to pod ")), "{message}");
    assert!(message.contains("refused"), "{message}");

    client.data(first.1, b"ping", false).await;
    client.until(|c| c.heard(first.1).data == b"ping").await;
    for _ in 0..8 {
        client.data(second.1, &[3; 50_000], false).await;
    }
    client.data(second.1, b"end", true).await;
    client.until(|c| c.heard(second.0).finished && c.heard(second.1).finished).await;
    assert_eq!(client.heard(second.1).data.len(), 400_003);
    assert!(client.heard(second.0).data.is_empty());
    // The other connection is still there.
    client.data(first.1, b"pong", true).await;
    client.until(|c| c.heard(first.0).finished && c.heard(first.1).finished).await;
    assert_eq!(client.heard(first.1).data, b"pingpong");

    let nonsense = client.open(&[("streamtype", "data"), ("port", "0"), ("requestid", "3")]).await;
    client.until(|c| c.heard(nonsense).reset.is_some()).await;
    let reset = client.open(&[("streamtype", "error"), ("port", &open), ("requestid", "4")]).await;
    client.reset(reset).await;
    client.ping(1).await;
    client.until(|c| c.pongs == [1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_ports_in_a_tunnel() {
    let node = Node::start().await;
    let pod_sandbox_id = node.run_sandbox().await;
    let request = cri::PortForwardRequest { pod_sandbox_id, port: vec![] };
    let url = node.runtime().await.port_forward(request).await.unwrap().into_inner().url;
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io".parse().unwrap());
    let (socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
    let (to_server, from_server) = socket.split();
    let incoming = from_server.filter_map(async |message| match message {
        Ok(Message::Binary(bytes)) => Some(bytes),
        _ => None,
    });
    let outgoing = to_server.with(async |bytes| Ok::<_, tokio_tungstenite::tungstenite::Error>(Message::Binary(bytes)));
    let mut client = Client::new(Box::pin(incoming), Box::pin(outgoing));
    forward_ports(&mut client).await;
    // Version 7 of the protocol.
    client.raw(&b"\x80\x07\0\x06\0\0\0\x04\0\0\0\x01"[..]).await;
    client.until(|c| c.ended).await;
    assert_eq!(client.goodbye, Some(1));
}

/// `POST`, an upgrade to SPDY, and a session.
async fn spdy(
    url: String,
    protocols: &'static str,
) -> Result<
    (String, Client<impl futures::Stream<Item = Bytes> + Unpin, impl futures::Sink<Bytes> + Unpin>),
    http::StatusCode,
> {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::post(url)
        .header("host", &address)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", protocols)
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(response.status());
    }
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    assert_eq!(response.headers()["connection"], "Upgrade");
    let protocol = response.headers()["x-stream-protocol-version"].to_str().unwrap().to_owned();
    let (read, write) = tokio::io::split(TokioIo::new(hyper::upgrade::on(response).await.unwrap()));
    let incoming = tokio_util::io::ReaderStream::new(read).filter_map(async |bytes| bytes.ok());
    let outgoing = tokio_util::codec::FramedWrite::new(write, tokio_util::codec::BytesCodec::new());
    Ok((protocol, Client::new(Box::pin(incoming), outgoing)))
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_ports_over_spdy() {
    let node = Node::start().await;
    let pod_sandbox_id = node.run_sandbox().await;
    let url = async || {
        let request = cri::PortForwardRequest { pod_sandbox_id: pod_sandbox_id.clone(), port: vec![] };
        node.runtime().await.port_forward(request).await.unwrap().into_inner().url
    };
    let (protocol, mut client) = spdy(url().await, "portforward.k8s.io").await.unwrap();
    assert_eq!(protocol, "portforward.k8s.io");
    forward_ports(&mut client).await;
    assert_eq!(spdy(url().await, "something.else").await.err(), Some(http::StatusCode::FORBIDDEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn dialing_into_a_pod() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let mut client = HyperdClient::new(node.channel().await);
    let first =
        DialChunk { pod_sandbox_id: sandbox.clone(), port: port.into(), data: b"ping".into(), ..Default::default() };
    let last = DialChunk { close_write: true, ..Default::default() };
    let mut answers = client.dial(futures::stream::iter([first, last])).await.unwrap().into_inner();
    let mut data = Vec::new();
    while let Some(chunk) = answers.message().await.unwrap() {
        data.extend_from_slice(&chunk.data);
    }
    assert_eq!(data, b"ping");
    let wrong = DialChunk { pod_sandbox_id: sandbox, port: 70_000, ..Default::default() };
    let error = client.dial(futures::stream::iter([wrong])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_copied_followed_and_read_back() {
    let node = Node::start().await;
    let pod = node.path("pods").join(POD_UID);
    let config = pod.join("volumes/kubernetes.io~configmap/cfg");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("key"), "one").unwrap();
    let termination = pod.join("containers/a/1234");
    std::fs::create_dir_all(termination.parent().unwrap()).unwrap();
    std::fs::write(&termination, "").unwrap();
    let volume_dir = pod.join("volumes/kubernetes.io~csi/pvc-1/mount");
    std::fs::create_dir_all(&volume_dir).unwrap();
    let volume = node.path("volumes/v.raw");
    std::fs::File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    let descriptor = serde_json::json!({"id": "1", "driver": "file", "path": volume, "fsType": "ext4"});
    std::fs::write(volume_dir.join("volume.hypernetes.json"), descriptor.to_string()).unwrap();

    let sandbox = node.run_sandbox().await;
    let mut spec =
        shell("a", "for f in $FILES/termination-*/file; do echo bye > $f; done; cat $FILES/sandbox-etc/hostname");
    spec.mounts =
        vec![mount(&config, "/etc/cfg"), mount(&termination, "/dev/termination-log"), mount(&volume_dir, "/data")];
    let container = node.create_and_start(&sandbox, spec).await;
    node.wait_exited(&container).await;
    assert_eq!(std::fs::read_to_string(&termination).unwrap(), "bye\n");
    assert_eq!(node.log("a/0.log"), ["stdout F web"]);
    assert_eq!(node.machine().disks().len(), 2);

    let set = crate::files::FileSetSource::new(&config).set;
    let machine = node.machine();
    assert_eq!(machine.guest.file(&set, "key").unwrap(), "one");
    std::fs::write(config.join("key.new"), "two").unwrap();
    std::fs::rename(config.join("key.new"), config.join("key")).unwrap();
    wait_until("the change to arrive", || machine.guest.file(&set, "key").as_deref() == Some("two")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_added_and_deleted() {
    let node = Node::start().await;
    let (net, bin) = (node.path("root/cni/net.d"), node.path("root/cni/bin"));
    for dir in [&net, &bin] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let calls = node.path("calls");
    let plugin = bin.join("fake");
    let script = format!(
        r#"#!/bin/sh
echo $CNI_COMMAND >> {calls}
[ -e {fail} ] && {{ echo '{{"code":100,"msg":"no"}}'; exit 1; }}
echo '{{"cniVersion":"1.0.0","interfaces":[{{"name":"tap7","mac":"52:54:00:00:00:07"}}],"ips":[{{"address":"10.244.0.7/16","gateway":"10.244.0.1"}}],"routes":[{{"dst":"0.0.0.0/0"}}]}}'"#,
        calls = calls.display(),
        fail = node.path("fail").display()
    );
    crate::fake::script(&plugin, &script);
    std::fs::write(
        net.join("1.conflist"),
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"fake","capabilities":{"hypernetes.io/tap":true}}]}"#,
    )
    .unwrap();

    let mut client = node.runtime().await;
    let status = client.status(cri::StatusRequest { verbose: true }).await.unwrap().into_inner().status.unwrap();
    assert!(status.conditions.iter().all(|c| c.status), "{status:?}");
    let sandbox = node.run_sandbox().await;
    assert_eq!(node.sandbox(&sandbox).await.0.network.unwrap().ip, "10.244.0.7");
    let machine = node.machine();
    assert_eq!(machine.spec().nic.unwrap().tap, "tap7");
    let [identity, network] = machine.guest.configured.lock().clone().try_into().unwrap();
    assert!(identity.entropy.len() >= 32);
    assert_eq!(network.interfaces[0].addresses, ["10.244.0.7/16"]);
    assert_eq!(network.routes[0].gateway, "10.244.0.1");
    assert!(network.files.iter().any(|file| file.path == "hosts" && file.data.starts_with(b"127.0.0.1\tlocalhost")));
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    // A verbose status asks the plugins whether all is as it was.
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "ADD\nCHECK\nDEL\n");

    std::fs::write(node.path("fail"), "").unwrap();
    let request = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    let error = client.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("code 100"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_was_being_added_when_hyperd_was_killed_is_undone() {
    let mut node = Node::start().await;
    let (net, bin) = (node.path("root/cni/net.d"), node.path("root/cni/bin"));
    for dir in [&net, &bin] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let calls = node.path("calls");
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND $CNI_NETNS >> {}\n[ $CNI_COMMAND = ADD ] && exec sleep 60\nexit 0\n",
        calls.display()
    );
    crate::fake::script(&bin.join("slow"), &script);
    let list = net.join("1.conflist");
    std::fs::write(&list, r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"slow"}]}"#).unwrap();
    let request = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    let mut client = node.runtime().await;
    let asked = tokio::spawn(async move { client.run_pod_sandbox(request).await });
    wait_until("the plugin to be called", || calls.exists()).await;
    let netns = std::fs::read_dir(node.path("root/netns")).unwrap().next().unwrap().unwrap().path();
    node.kill().await;
    asked.abort();
    std::fs::remove_file(list).unwrap();
    node.run().await;
    let calls = std::fs::read_to_string(&calls).unwrap();
    assert_eq!(calls, format!("ADD {0}\nDEL {0}\n", netns.display()));
    for left in ["root/netns", "root/networks", "root/sandboxes"] {
        assert_eq!(std::fs::read_dir(node.path(left)).unwrap().count(), 0, "{left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_guest_harms_only_itself() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let mischief = node.hypervisor.mischief.clone();
    let request = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    for flag in [&mischief.silent, &mischief.wrong_version] {
        flag.store(true, Ordering::Relaxed);
        let error = client.run_pod_sandbox(request.clone()).await.unwrap_err();
        assert!(error.message().contains("did not boot") && error.message().contains("last words"), "{error}");
        flag.store(false, Ordering::Relaxed);
    }
    // Nothing is left of what failed.
    assert!(node.hypervisor.machines().iter().all(|m| !m.is_running()));
    let list = client.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner();
    assert!(list.items.is_empty());
    assert_eq!(std::fs::read_dir(node.path("root/sandboxes")).unwrap().count(), 0);

    let sandbox = node.run_sandbox().await;
    mischief.absurd_stats.store(true, Ordering::Relaxed);
    mischief.lying_output.store(true, Ordering::Relaxed);
    let container = node.create_and_start(&sandbox, shell("liar", "echo x; exit 1")).await;
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats = client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value <= 256 << 20);
    assert!(stats.network.unwrap().interfaces.len() < 100);
    assert_eq!(stats.containers[0].cpu.unwrap().psi.unwrap().some.unwrap().avg10, 0.0);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value < 60_000_000_000);
    assert_eq!(node.wait_exited(&container).await.exit_code, 1);
    assert!(node.log("liar/0.log").is_empty());
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
}

/// Numbers without end, each once.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

/// The numbers in the log so far: all of them, each once.
fn counted(node: &Node, name: &str) -> usize {
    let lines = node.log(name);
    for (line, n) in lines.iter().zip(1..) {
        assert_eq!(*line, format!("stdout F {n}"));
    }
    lines.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hibernated_pod_goes_on_where_it_was() {
    let mut node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container = node.create_and_start(&sandbox, shell("one", COUNT)).await;
    wait_until("output", || counted(&node, "one/0.log") > 5).await;
    node.hibernate(&sandbox).await.unwrap();
    node.hibernate(&sandbox).await.unwrap();
    let machine = node.machine();
    assert!(!machine.is_running());
    assert_eq!(node.hypervisor.saved(), std::slice::from_ref(&sandbox));

    // CRI's view, also of the next hyperd.
    let before = counted(&node, "one/0.log");
    for _ in 0..2 {
        let (status, info) = node.sandbox(&sandbox).await;
        assert_eq!(status.state, cri::PodSandboxState::SandboxNotready as i32);
        assert_eq!(info["reason"], "it is hibernated");
        let told = node.container(&container).await;
        assert_eq!(told.state, cri::ContainerState::ContainerRunning as i32, "{told:?}");
        let mut client = node.runtime().await;
        let stop = cri::StopContainerRequest { container_id: container.clone(), timeout: 1 };
        let remove = cri::RemoveContainerRequest { container_id: container.clone() };
        for refused in [
            node.create(&sandbox, shell("two", "true")).await.unwrap_err(),
            client.stop_container(stop).await.unwrap_err(),
            client.remove_container(remove).await.unwrap_err(),
        ] {
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains("is hibernated: resume it first"), "{refused}");
        }
        node.kill().await;
        node.run().await;
    }
    assert_eq!(counted(&node, "one/0.log"), before);

    let asked = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    node.resume(&sandbox).await.unwrap();
    node.resume(&sandbox).await.unwrap();
    assert!(node.hypervisor.saved().is_empty());
    let configured = machine.guest.configured.lock().last().cloned().unwrap();
    assert!(u128::from(configured.unix_time_nanos) >= asked.as_nanos());
    assert!(configured.entropy.len() >= 32 && configured.hostname.is_empty());
    wait_until("more output", || counted(&node, "one/0.log") > before + 5).await;
    assert_eq!(node.sandbox(&sandbox).await.0.state, cri::PodSandboxState::SandboxReady as i32);
    let stop = cri::StopContainerRequest { container_id: container.clone(), timeout: 0 };
    node.runtime().await.stop_container(stop).await.unwrap();
    assert_eq!(node.wait_exited(&container).await.exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hibernated_pod_is_removed_like_any_other() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container = node.create_and_start(&sandbox, shell("one", COUNT)).await;
    node.hibernate(&sandbox).await.unwrap();
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.runtime().await.stop_pod_sandbox(request).await.unwrap();
    assert!(node.hypervisor.saved().is_empty());
    assert_eq!(node.wait_exited(&container).await.exit_code, 137);
    assert_eq!(node.resume(&sandbox).await.unwrap_err().code(), Code::FailedPrecondition);
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.runtime().await.remove_pod_sandbox(request).await.unwrap();
    assert_eq!(node.resume(&sandbox).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_hibernated_goes_on() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    node.create_and_start(&sandbox, shell("one", COUNT)).await;
    node.hypervisor.disk_full.store(true, Ordering::Relaxed);
    let error = node.hibernate(&sandbox).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(node.machine().is_running() && node.hypervisor.saved().is_empty());
    let before = counted(&node, "one/0.log");
    wait_until("output", || counted(&node, "one/0.log") > before + 5).await;
    assert_eq!(node.sandbox(&sandbox).await.0.state, cri::PodSandboxState::SandboxReady as i32);
    node.hypervisor.disk_full.store(false, Ordering::Relaxed);
    node.hibernate(&sandbox).await.unwrap();
    node.resume(&sandbox).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_hyperd_had_saved_is_the_pod_or_nothing() {
    let mut node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    node.create_and_start(&sandbox, shell("one", COUNT)).await;
    wait_until("output", || counted(&node, "one/0.log") > 5).await;
    let path = node.path("root/sandboxes").join(format!("{sandbox}.json"));
    let ready = std::fs::read(&path).unwrap();

    // Killed before the record says that the pod is hibernated: its VM goes on.
    let record = node.machine().record();
    node.hypervisor.hibernate(&record).await.unwrap();
    node.kill().await;
    node.run().await;
    wait_until("nothing to be saved", || node.hypervisor.saved().is_empty()).await;
    let before = counted(&node, "one/0.log");
    wait_until("output", || counted(&node, "one/0.log") > before + 5).await;
    assert!(node.machine().is_running());

    // Killed after that, and before its VM was ended: what was saved is the pod.
    node.hypervisor.hibernate(&record).await.unwrap();
    node.kill().await;
    let mut hibernated: serde_json::Value = serde_json::from_slice(&ready).unwrap();
    hibernated["state"] = serde_json::json!({"phase": "hibernated"});
    std::fs::write(&path, hibernated.to_string()).unwrap();
    node.run().await;
    assert!(!node.machine().is_running());
    assert_eq!(node.hypervisor.saved(), std::slice::from_ref(&sandbox));
    node.resume(&sandbox).await.unwrap();
    let before = counted(&node, "one/0.log");
    wait_until("output", || counted(&node, "one/0.log") > before + 5).await;
}
