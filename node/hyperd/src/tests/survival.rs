//! What becomes of pods when hyperd, a VM or an agent ends or falls silent.

use super::*;

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
