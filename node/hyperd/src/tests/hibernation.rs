//! Pods on the disk.

use super::*;

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
