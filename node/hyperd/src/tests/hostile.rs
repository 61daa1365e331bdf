//! A guest whose agent does what it can against hyperd, beside one that behaves.

use super::*;
use crate::fake::misdeeds::{self, Misdeed};

/// How long each misdeed lasts.
const TIME: Duration = Duration::from_millis(600);
/// More than what is under way in a few connections, and far less than what a flood brings within [`TIME`].
const MEMORY: u64 = 256 << 20;
/// Of one record, its config included.
const RECORD: u64 = 64 << 10;

/// Resident memory of this process in bytes; the hostile agents are in it, too.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn largest_file(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misdeeds_are_bounded_and_harm_no_other_pod() {
    let node = Node::start().await;
    let (good, _) = node.sandbox_of("acme", 0).await;
    let neighbour = node.create_and_start(&good, shell("good", "while :; do echo tick; sleep 0.05; done")).await;
    let answers = async || {
        let cmd = ["/bin/echo", "here"].map(str::to_owned).to_vec();
        let request = cri::ExecSyncRequest { container_id: neighbour.clone(), cmd, timeout: 10 };
        let answer = node.runtime().await.exec_sync(request).await.unwrap().into_inner();
        assert_eq!(answer.stdout, b"here\n");
    };
    answers().await;
    let before = resident();
    let termination = node.path("pods").join(POD_UID).join("containers/bad/1");
    std::fs::create_dir_all(termination.parent().unwrap()).unwrap();
    for (misdeed, attempt) in misdeeds::ALL.into_iter().zip(1..) {
        std::fs::write(&termination, "").unwrap();
        let (bad, machine) = node.sandbox_of("acme", attempt).await;
        *machine.guest.misdeed.lock() = Some(misdeed);
        let name = format!("bad{attempt}");
        let config = cri::ContainerConfig {
            mounts: vec![mount(&termination, "/dev/termination-log")],
            ..shell(&name, "sleep 1000")
        };
        let container = node.create_and_start(&bad, config).await;
        let seen = node.log("good/0.log").len();
        // An exec has the same said to it.
        let mut client = node.runtime().await;
        let cmd = vec!["true".to_owned()];
        let request = cri::ExecSyncRequest { container_id: container.clone(), cmd, timeout: 1 };
        let execs = tokio::spawn(async move { client.exec_sync(request).await });
        let stats = cri::PodSandboxStatsRequest { pod_sandbox_id: bad.clone() };
        let stats = node.runtime().await.pod_sandbox_stats(stats).await;
        assert!(stats.is_err(), "{misdeed:?}: a message that is too large was taken");
        tokio::time::sleep(TIME).await;
        answers().await;
        wait_until("the neighbour's log to go on", || node.log("good/0.log").len() > seen).await;

        let log = largest_file(&node.path("logs").join(&name));
        assert!(log <= LOG_MAX_BYTES, "{misdeed:?}: a log of {log} bytes");
        if matches!(misdeed, Misdeed::Flood | Misdeed::Endless | Misdeed::Jumps) {
            assert!(log > 0, "{misdeed:?}: nothing was logged");
        }
        let record = largest_file(&node.path("root/containers")).max(largest_file(&node.path("root/sandboxes")));
        assert!(record <= RECORD, "{misdeed:?}: a record of {record} bytes");
        let grown = resident().saturating_sub(before);
        assert!(grown < MEMORY, "{misdeed:?}: hyperd has grown by {} MiB", grown >> 20);
        if let Err(status) = execs.await.unwrap() {
            let message = status.message();
            assert!(message.len() < 1024 && !message.contains(char::is_control), "{misdeed:?}: {message:?}");
        }
        if misdeed == Misdeed::Again {
            let status = node.wait_exited(&container).await;
            assert!(status.finished_at >= status.started_at && status.reason == "OOMKilled", "{status:?}");
            let saved = std::fs::metadata(&termination).unwrap().len();
            assert!(saved <= 4096, "a termination message of {saved} bytes");
        }
        // The pod is ended however its guest behaves, and the neighbour never noticed.
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: bad };
        node.runtime().await.remove_pod_sandbox(request).await.unwrap();
        assert!(!machine.is_running());
        answers().await;
    }
    assert_eq!(node.container(&neighbour).await.state, cri::ContainerState::ContainerRunning as i32);
    assert_eq!(node.sandbox(&good).await.0.state, cri::PodSandboxState::SandboxReady as i32);
}

/// Clients that do not read what they asked for take nothing from the others of their pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_reads_is_in_nobodys_way() {
    let node = Node::start().await;
    let (sandbox, machine) = node.sandbox_of("acme", 0).await;
    let container = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    let agent = crate::agent::Agent::new(hypernetes_hypervisor::AgentAddress::Unix(machine.socket()));
    let mut unread = Vec::new();
    *machine.guest.misdeed.lock() = Some(Misdeed::Flood);
    for _ in 0..20 {
        unread.push(crate::output::Output::open(&agent, &container, "", (0, 0)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    agent.hello(Duration::from_secs(5)).await.unwrap();
}

/// A guest that has missed that it was called is called again, and soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_lost_is_made_again() {
    let node = Node::start().await;
    let (_, machine) = node.sandbox_of("acme", 0).await;
    let socket = node.path("line");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let behind = machine.socket();
    let line = tokio::spawn(async move {
        // Heard by nobody.
        let (_lost, _) = listener.accept().await.unwrap();
        // The caller has hung up before the guest can be called again: there is one line.
        let (mut caller, _) = listener.accept().await.unwrap();
        let mut guest = tokio::net::UnixStream::connect(behind).await.unwrap();
        tokio::io::copy_bidirectional(&mut caller, &mut guest).await
    });
    let began = std::time::Instant::now();
    crate::agent::Agent::new(hypernetes_hypervisor::AgentAddress::Unix(socket.clone()))
        .hello_within(Duration::from_secs(60))
        .await
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    line.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_waited_and_is_silent_now_is_replaced() {
    let node = Node::start().await;
    node.hypervisor.copies.store(true, Ordering::Relaxed);
    let (first, _) = node.sandbox_of("acme", 0).await;
    let waiting = || node.hypervisor.machines().into_iter().find(|machine| machine.spec().id != first);
    // Since it was rehearsed nobody speaks to it.
    wait_until("a VM to wait", || waiting().is_some_and(|machine| machine.guest.configured.lock().len() == 1)).await;
    let silent = waiting().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    *silent.guest.misdeed.lock() = Some(Misdeed::Silence);

    let (second, machine) = node.sandbox_of("acme", 1).await;
    assert_eq!(second, silent.spec().id);
    assert!(!silent.is_running() && machine.is_running());
    let container = node.create_and_start(&second, shell("a", "echo there")).await;
    node.wait_exited(&container).await;
    assert_eq!(node.log("a/0.log"), ["stdout F there"]);
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

/// More than [`crate::container::STOP_PATIENCE`], and less than one call to an agent may take.
const BOUNDED: Duration = Duration::from_secs(20);

async fn within_bounds<T>(what: &str, call: impl Future<Output = Result<T, tonic::Status>>) -> T {
    let answer = tokio::time::timeout(BOUNDED, call).await;
    answer.unwrap_or_else(|_| panic!("{what} is held up by a guest")).unwrap_or_else(|e| panic!("{what}: {e}"))
}

/// As the kubelet does when a pod is deleted.
async fn delete(node: &Node, sandbox: &str, container: &str) {
    let mut client = node.runtime().await;
    let stop = cri::StopContainerRequest { container_id: container.into(), timeout: 1 };
    within_bounds("StopContainer", client.stop_container(stop.clone())).await;
    within_bounds("a second StopContainer", client.stop_container(stop)).await;
    assert_eq!(node.container(container).await.state, cri::ContainerState::ContainerExited as i32);
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.into() };
    within_bounds("StopPodSandbox", client.stop_pod_sandbox(stop)).await;
    remove(node, sandbox).await;
}

async fn remove(node: &Node, sandbox: &str) {
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() };
    within_bounds("RemovePodSandbox", node.runtime().await.remove_pod_sandbox(remove)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_vm_hangs_can_be_ended() {
    let node = Node::start().await;
    let mut pods = Vec::new();
    for attempt in 0..3 {
        let (sandbox, machine) = node.sandbox_of("acme", attempt).await;
        let container = node.create_and_start(&sandbox, shell(&format!("c{attempt}"), "sleep 1000")).await;
        pods.push((sandbox, machine, container));
    }
    let [stopped, removed, good] = pods.as_slice() else { panic!() };
    for (_, machine, _) in [stopped, removed] {
        machine.guest.hung.send_replace(true);
    }
    tokio::join!(delete(&node, &stopped.0, &stopped.2), remove(&node, &removed.0));
    assert!(!stopped.1.is_running() && !removed.1.is_running());
    // The neighbour goes on, and is all that is left.
    assert!(good.1.is_running());
    assert_eq!(node.container(&good.2).await.state, cri::ContainerState::ContainerRunning as i32);
    let list = node.runtime().await.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.items.len(), 1);
    assert_eq!(std::fs::read_dir(node.path("root/sandboxes")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_vm_hung_before_a_restart_can_be_ended() {
    let mut node = Node::start().await;
    let mut pods = Vec::new();
    for attempt in 0..2 {
        let (sandbox, machine) = node.sandbox_of("acme", attempt).await;
        let container = node.create_and_start(&sandbox, shell(&format!("c{attempt}"), "sleep 1000")).await;
        machine.guest.hung.send_replace(true);
        pods.push((sandbox, machine, container));
    }
    // While it is being connected to, which takes longer than anybody waits.
    node.kill().await;
    node.run().await;
    tokio::join!(delete(&node, &pods[0].0, &pods[0].2), remove(&node, &pods[1].0));
    for (_, machine, _) in &pods {
        assert!(!machine.is_running());
    }
    for directory in ["root/sandboxes", "root/containers"] {
        assert_eq!(std::fs::read_dir(node.path(directory)).unwrap().count(), 0, "{directory}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_not_ready_can_be_ended_container_by_container() {
    let mut node = Node::start().await;
    let (sandbox, machine) = node.sandbox_of("acme", 0).await;
    let container = node.create_and_start(&sandbox, shell("a", "sleep 1000")).await;
    machine.guest.hung.send_replace(true);
    for _ in 0..400 {
        if node.sandbox(&sandbox).await.0.state == cri::PodSandboxState::SandboxNotready as i32 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.sandbox(&sandbox).await.0.state, cri::PodSandboxState::SandboxNotready as i32);
    // And nobody knows its line any more.
    node.kill().await;
    node.run().await;
    delete(&node, &sandbox, &container).await;
    assert!(!machine.is_running());
}
