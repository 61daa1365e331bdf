//! What the kubelet asks of pods and containers, in order and out of it.

use hypernetes_hyperd_api::{ForgetTenantRequest, ListTenantsRequest};

use super::*;

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
    assert_eq!(stream.message().await.unwrap().unwrap().images.len(), 2);

    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats = client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
    let network = stats.network.unwrap();
    assert_eq!(network.default_interface.unwrap().name, "eth0");
    assert_eq!(network.interfaces[0].name, "sit0[2J");
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

/// What one tenant has pulled with its credentials, another does not run, whatever it calls it.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_for_who_has_pulled_it() {
    let node = Node::start().await;
    let mut images = ImageServiceClient::new(node.channel().await);
    let id = Digest::of(b"private").to_string();
    let (acme, _) = node.sandbox_of("acme", 0).await;
    let (globex, _) = node.sandbox_of("globex", 1).await;
    let nobodys = node.run_sandbox_again(2).await;
    let asks = |name: &str, of: &str| cri::ContainerConfig {
        image: Some(cri::ImageSpec { image: of.into(), ..Default::default() }),
        ..shell(name, "true")
    };
    for (n, image) in ["private", id.as_str()].into_iter().enumerate() {
        let name = format!("c{n}");
        for sandbox in [&globex, &nobodys] {
            let error = node.create(sandbox, asks(&name, image)).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "{error}");
            let mut mounted = shell(&name, "true");
            mounted.mounts.push(cri::Mount {
                container_path: "/private".into(),
                readonly: true,
                image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
                ..Default::default()
            });
            assert_eq!(node.create(sandbox, mounted).await.unwrap_err().code(), Code::NotFound);
        }
        node.create(&acme, asks(&name, image)).await.unwrap();
        // The kubelet is told so that it pulls; the operator's tools see all.
        for (tenant, there) in [(Some("acme"), true), (Some("globex"), false), (None, true)] {
            let tenant = tenant.map(|tenant| (crate::TENANT_ANNOTATION.to_owned(), tenant.to_owned()));
            let annotations = tenant.into_iter().collect();
            let spec = cri::ImageSpec { image: image.into(), annotations, ..Default::default() };
            let request = cri::ImageStatusRequest { image: Some(spec), verbose: false };
            assert_eq!(images.image_status(request).await.unwrap().into_inner().image.is_some(), there);
        }
    }
    // Of a tenant that is deleted nothing is kept, once its pods are gone.
    let mut hyperd = HyperdClient::new(node.channel().await);
    let forget = || ForgetTenantRequest { tenant: "acme".into() };
    assert_eq!(hyperd.list_tenants(ListTenantsRequest {}).await.unwrap().into_inner().tenants, ["acme"]);
    assert_eq!(hyperd.forget_tenant(forget()).await.unwrap_err().code(), Code::FailedPrecondition);
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: acme };
    node.runtime().await.remove_pod_sandbox(request).await.unwrap();
    for _ in 0..2 {
        hyperd.forget_tenant(forget()).await.unwrap();
        assert!(hyperd.list_tenants(ListTenantsRequest {}).await.unwrap().into_inner().tenants.is_empty());
    }
    let (again, _) = node.sandbox_of("acme", 3).await;
    assert_eq!(node.create(&again, asks("again", &id)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_crashes_again_and_again_leaves_one_log_behind() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let other = node.create_and_start(&sandbox, shell("other", "true")).await;
    node.wait_exited(&other).await;
    let mut ids = Vec::new();
    for attempt in 0..5 {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "crash".into(), attempt }),
            log_path: format!("crash/{attempt}.log"),
            ..shell("crash", "echo out; exit 1")
        };
        let id = node.create_and_start(&sandbox, config).await;
        node.wait_exited(&id).await;
        ids.push(id);
    }
    // The last, and the one before it, whose log `kubectl logs --previous` shows.
    let logs = || std::fs::read_dir(node.path("logs/crash")).unwrap().count();
    wait_until("the others to be gone", || logs() == 2).await;
    let list = node.runtime().await.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    let mut left: Vec<_> = list.containers.into_iter().map(|container| container.id).collect();
    left.sort();
    let mut expected = vec![ids[3].clone(), ids[4].clone(), other];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(node.log("crash/3.log"), ["stdout F out"]);
}
