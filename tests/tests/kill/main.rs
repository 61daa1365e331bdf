//! kill -9 of hyperd at every step of a pod's life, with VMs, a pool and a network.
//!
//! `HYPERNETES_KILL_POINTS` says how many moments are tried, spread evenly over the steps: each step is one call, and is
//! cut at even parts of the time that it takes. In the suite there are few; let it run with hundreds after a change of
//! what hyperd remembers.

mod full_disk;
mod node;
mod remains;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use k8s_cri::v1 as cri;
use node::{Node, within};
use parking_lot::Mutex;
use tonic::Status;

/// Calls of a pod's life, in their order; then nothing is called, while the pool is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Step {
    Run,
    Create,
    Start,
    Exec,
    StopContainer,
    RemoveContainer,
    StopSandbox,
    RemoveSandbox,
    Idle,
}

const STEPS: [Step; 9] = [
    Step::Run,
    Step::Create,
    Step::Start,
    Step::Exec,
    Step::StopContainer,
    Step::RemoveContainer,
    Step::StopSandbox,
    Step::RemoveSandbox,
    Step::Idle,
];
/// How long hyperd is left alone after a pod's life.
const IDLE: Duration = Duration::from_secs(2);
const CONTAINER: &str = "counter";

/// How far a pod's life has come.
#[derive(Debug, Default, Clone)]
struct Progress {
    sent: Option<Step>,
    acknowledged: Option<Step>,
    sandbox: String,
    container: String,
    took: Vec<Duration>,
}

impl Progress {
    fn is_acknowledged(&self, step: Step) -> bool {
        self.acknowledged >= Some(step)
    }

    fn is_sent(&self, step: Step) -> bool {
        self.sent >= Some(step)
    }
}

async fn live(
    node: &Node,
    config: cri::PodSandboxConfig,
    progress: &Mutex<Progress>,
    sent: &tokio::sync::watch::Sender<Option<Step>>,
    last: Step,
) -> Result<(), Status> {
    let mut client = node.client().await?;
    let begun = progress.lock().acknowledged;
    for step in STEPS.into_iter().filter(|step| Some(*step) > begun && *step <= last) {
        let Progress { sandbox, container, .. } = progress.lock().clone();
        progress.lock().sent = Some(step);
        sent.send_replace(Some(step));
        let began = Instant::now();
        match step {
            Step::Run => {
                let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
                progress.lock().sandbox = client.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
            }
            Step::Create => {
                let config = Some(node.container_config(CONTAINER));
                let request = cri::CreateContainerRequest { pod_sandbox_id: sandbox, config, sandbox_config: None };
                progress.lock().container = client.create_container(request).await?.into_inner().container_id;
            }
            Step::Start => {
                client.start_container(cri::StartContainerRequest { container_id: container }).await?;
            }
            Step::Exec => {
                let answer = exec(node, &container, "echo kept >/data/file && cat /data/file").await?;
                assert_eq!(answer, "kept\n");
            }
            Step::StopContainer => {
                client.stop_container(cri::StopContainerRequest { container_id: container, timeout: 10 }).await?;
            }
            Step::RemoveContainer => {
                client.remove_container(cri::RemoveContainerRequest { container_id: container }).await?;
            }
            Step::StopSandbox => {
                client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: sandbox }).await?;
            }
            Step::RemoveSandbox => {
                client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await?;
            }
            Step::Idle => tokio::time::sleep(IDLE).await,
        }
        let mut progress = progress.lock();
        progress.acknowledged = Some(step);
        progress.took.push(began.elapsed());
    }
    Ok(())
}

async fn exec(node: &Node, container_id: &str, script: &str) -> Result<String, Status> {
    let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let request = cri::ExecSyncRequest { container_id: container_id.into(), cmd, timeout: 30 };
    let answer = node.client().await?.exec_sync(request).await?.into_inner();
    Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
}

/// What hyperd's successor has to find.
struct Before {
    progress: Progress,
    vms: Vec<remains::RunningVm>,
    counted: usize,
}

/// Compares what the successor says with what there is, and with what was acknowledged.
async fn check(node: &Node, before: &Before, seen: &mut BTreeSet<String>) {
    let progress = &before.progress;
    let sandboxes = node.sandboxes().await;
    seen.extend(remains::machines(node));
    let known: BTreeSet<String> = sandboxes.iter().map(|s| s.id.clone()).collect();
    // What waited in the pool, and what was being made, ends with hyperd.
    let old: BTreeSet<i32> = before.vms.iter().map(|vm| vm.pid).collect();
    within("the VMs of nobody to end", async || {
        let of_nobody = |vm: &remains::RunningVm| old.contains(&vm.pid) && !known.contains(&vm.id);
        (!remains::vms(node).iter().any(of_nobody)).then_some(())
    })
    .await;
    assert!(sandboxes.len() <= 1, "{sandboxes:?}");
    let sandbox = sandboxes.first();
    let is_ready = sandbox.is_some_and(|s| s.state() == cri::PodSandboxState::SandboxReady);
    if progress.is_acknowledged(Step::Run) && !progress.is_sent(Step::StopSandbox) {
        assert!(is_ready, "an acknowledged sandbox is {sandbox:?}");
        assert_eq!(sandbox.unwrap().id, progress.sandbox);
    }
    if progress.is_acknowledged(Step::StopSandbox) {
        assert!(!is_ready, "a stopped sandbox is {sandbox:?}");
    }
    if progress.is_acknowledged(Step::RemoveSandbox) {
        assert!(sandbox.is_none(), "a removed sandbox is {sandbox:?}");
    }
    if !progress.is_acknowledged(Step::Run) {
        assert!(sandbox.is_none() || is_ready, "a sandbox that was not acknowledged is {sandbox:?}");
    }
    if let Some(sandbox) = sandbox {
        // Ready is who runs, and in the VM that it had.
        let pid = before.vms.iter().find(|vm| vm.id == sandbox.id).map(|vm| vm.pid);
        let runs = remains::vms(node).iter().any(|vm| vm.id == sandbox.id && Some(vm.pid) == pid);
        assert_eq!(runs, is_ready, "{sandbox:?}, whose VM was {pid:?}");
    }

    let containers = node.containers().await;
    assert!(containers.len() <= 1, "{containers:?}");
    let container = containers.first();
    let state = container.map(|c| c.state());
    use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    let wanted: &[_] = if progress.is_acknowledged(Step::RemoveContainer) {
        &[None]
    } else if progress.is_sent(Step::RemoveContainer) {
        &[None, Some(ContainerExited)]
    } else if progress.is_acknowledged(Step::StopContainer) {
        &[Some(ContainerExited)]
    } else if progress.is_sent(Step::StopContainer) {
        &[Some(ContainerRunning), Some(ContainerExited)]
    } else if progress.is_acknowledged(Step::Start) {
        &[Some(ContainerRunning)]
    } else if progress.is_sent(Step::Start) {
        // Before the successor has asked the agent it is what it was.
        &[Some(ContainerCreated), Some(ContainerRunning), Some(ContainerExited)]
    } else if progress.is_acknowledged(Step::Create) {
        &[Some(ContainerCreated)]
    } else {
        &[None, Some(ContainerCreated)]
    };
    assert!(wanted.contains(&state), "the container is {container:?}");
    if progress.is_acknowledged(Step::Start) && !progress.is_sent(Step::StopContainer) {
        within("the counter to go on", async || (node.counted(CONTAINER) > before.counted + 2).then_some(())).await;
    }
    if is_ready {
        carry_on(node, &sandbox.unwrap().id, container).await;
    }
}

/// What a kubelet does with a pod that it finds: starts what has not been started, replaces what has ended.
async fn carry_on(node: &Node, sandbox: &str, container: Option<&cri::Container>) {
    let mut client = node.client().await.unwrap();
    if let Some(container) = container {
        let container_id = container.id.clone();
        if container.state() == cri::ContainerState::ContainerCreated {
            // It may be running meanwhile.
            within("the container to be started", async || {
                let request = cri::StartContainerRequest { container_id: container_id.clone() };
                match node.client().await.unwrap().start_container(request).await {
                    Ok(_) => Some(()),
                    Err(status) if status.message().contains("started before") => Some(()),
                    Err(status) if status.message().contains("connected to again") => None,
                    Err(status) => panic!("a container that was complete does not start: {status}"),
                }
            })
            .await;
        }
        // The kubelet asks again, too, while the VM is being connected to.
        within("the container to be removed", async || {
            let request = cri::RemoveContainerRequest { container_id: container_id.clone() };
            node.client().await.unwrap().remove_container(request).await.ok()
        })
        .await;
    }
    let config = node.container_config("replacement");
    let request =
        cri::CreateContainerRequest { pod_sandbox_id: sandbox.to_owned(), config: Some(config), sandbox_config: None };
    let container_id = within("the pod to be connected to", async || {
        match node.client().await.unwrap().create_container(request.clone()).await {
            Ok(answer) => Some(answer.into_inner().container_id),
            Err(status) if status.message().contains("connected to again") => None,
            Err(status) => panic!("another container cannot be made: {status}"),
        }
    })
    .await;
    client.start_container(cri::StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
    assert_eq!(exec(node, &container_id, "echo again >/data/again && cat /data/again").await.unwrap(), "again\n");
}

async fn remove_all(node: &Node) {
    for sandbox in node.sandboxes().await {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id };
        node.client().await.unwrap().remove_pod_sandbox(request).await.unwrap();
    }
    // A VM that waits may just be being connected, or ended.
    vanishes(|| remains::leftovers(node)).await;
}

/// Waits until nothing is left.
async fn vanishes(left: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + node::PATIENCE;
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "of what was removed there is left: {:?}", left());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nothing is left of a node that was stopped and has had no pod any more.
async fn leaves_nothing(node: &Node, seen: &BTreeSet<String>) {
    vanishes(|| remains::strays(node, &BTreeSet::new(), seen)).await;
    vanishes(|| remains::leftovers(node)).await;
}

/// Of such a pod nothing may be left but its VM.
async fn remove_containers(node: &Node, sandbox: &str) {
    for container in node.containers().await {
        let request = cri::RemoveContainerRequest { container_id: container.id };
        node.client().await.unwrap().remove_container(request).await.unwrap();
    }
    let record = std::fs::read(node.path("root/sandboxes").join(format!("{sandbox}.json"))).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let disks = record["vm"]["disks"].as_array().unwrap();
    assert!(!disks.is_empty() && disks.iter().all(serde_json::Value::is_null), "{disks:?}");
    assert_eq!(remains::names(&node.path("root/containers")), BTreeSet::new());
}

/// A pod's life, cut in a step after a part of its time.
async fn cut(
    node: &mut Node,
    sandbox: Option<String>,
    step: Step,
    after: Duration,
    seen: &mut BTreeSet<String>,
) -> Before {
    let config = node.sandbox_config();
    let mut progress = Progress::default();
    if let Some(sandbox) = sandbox {
        (progress.sandbox, progress.acknowledged, progress.sent) = (sandbox, Some(Step::Run), Some(Step::Run));
    }
    let progress = Mutex::new(progress);
    let (sender, mut sent) = tokio::sync::watch::channel(None);
    let killed = async {
        sent.wait_for(|sent| *sent >= Some(step)).await.unwrap();
        tokio::time::sleep(after).await;
    };
    tokio::select! {
        () = killed => {}
        outcome = live(node, config, &progress, &sender, Step::Idle) => outcome.unwrap(),
    }
    node.kill();
    seen.extend(remains::machines(node));
    Before { progress: progress.into_inner(), vms: remains::vms(node), counted: node.counted(CONTAINER) }
}

async fn test() {
    let points: u32 = std::env::var("HYPERNETES_KILL_POINTS").map_or(4, |n| n.parse().unwrap());
    let mut node = Node::new();
    let starting = node.start().await;
    node.import_image();
    // What a life takes when nobody disturbs it, with a VM that boots and with one of the pool.
    let mut took = Vec::new();
    for _ in 0..2 {
        let config = node.sandbox_config();
        let progress = Mutex::new(Progress::default());
        live(&node, config, &progress, &tokio::sync::watch::Sender::new(None), Step::Idle).await.unwrap();
        took = progress.into_inner().took;
    }
    eprintln!("hyperd starts within {starting:?}; the steps take {took:?}");
    let mut seen = BTreeSet::new();
    for point in 0..points {
        let at = f64::from(point) * STEPS.len() as f64 / f64::from(points);
        let step = STEPS[at as usize];
        let part = if points as usize <= STEPS.len() { 0.5 } else { at.fract() };
        let after = took[at as usize].mul_f64(part);
        let began = Instant::now();
        // A pod goes on with another container if it can: what its VM had to bear adds up.
        let sandboxes = node.sandboxes().await;
        let before = cut(&mut node, sandboxes.into_iter().next().map(|s| s.id), step, after, &mut seen).await;
        if point % 3 == 2 {
            // Its successor does not live long.
            node.spawn();
            tokio::time::sleep(starting.mul_f64(f64::from(point % 10) / 8.0)).await;
            node.kill();
            seen.extend(remains::machines(&node));
        }
        node.start().await;
        check(&node, &before, &mut seen).await;
        let next = STEPS.get(((f64::from(point) + 1.0) * STEPS.len() as f64 / f64::from(points)) as usize);
        let goes_on = next.is_some_and(|next| (Step::Create..=Step::RemoveContainer).contains(next));
        let sandbox = node.sandboxes().await.into_iter().find(|s| s.state() == cri::PodSandboxState::SandboxReady);
        match sandbox {
            Some(sandbox) if goes_on => remove_containers(&node, &sandbox.id).await,
            _ => remove_all(&node).await,
        }
        eprintln!("{point}: {step:?} after {after:?}: {:?}", began.elapsed());
    }
    node.stop();
    leaves_nothing(&node, &seen).await;
}

/// A test on a thread of its own, whose network and mounts become the node's.
fn on_a_thread<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn at_every_step_of_a_pods_life() {
    on_a_thread(test);
}

/// A pod with a running container.
async fn running(node: &mut Node) -> Progress {
    let config = node.sandbox_config();
    let progress = Mutex::new(Progress::default());
    live(node, config, &progress, &tokio::sync::watch::Sender::new(None), Step::Exec).await.unwrap();
    progress.into_inner()
}

async fn is_reported_as_ended(node: &Node, sandbox: &str, why: &str) {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
    within("the sandbox to be not ready", async || {
        let answer = node.client().await.unwrap().pod_sandbox_status(request.clone()).await.unwrap().into_inner();
        let ended = answer.status.unwrap().state() == cri::PodSandboxState::SandboxNotready;
        let reason = answer.info.get("reason").filter(|_| ended)?;
        assert!(reason.contains(why), "{reason}");
        Some(())
    })
    .await;
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_vm_that_dies_or_hangs_and_a_host_that_restarts() {
    use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
    on_a_thread(async || {
        let mut node = Node::new();
        node.start().await;
        node.import_image();
        let vm_of = |node: &Node, sandbox: &str| remains::vms(node).into_iter().find(|vm| vm.id == sandbox).unwrap();

        let pod = running(&mut node).await;
        signal(vm_of(&node, &pod.sandbox).pid, SIGKILL);
        let died = Instant::now();
        is_reported_as_ended(&node, &pod.sandbox, "VM ended").await;
        within("the container to have ended", async || {
            (node.containers().await[0].state() == cri::ContainerState::ContainerExited).then_some(())
        })
        .await;
        eprintln!("a VM that ends is noticed after {:?}", died.elapsed());
        // Its directory and its groups go with it, before anybody asks.
        within("what the VM had to be gone", async || {
            let gone = !remains::machines(&node).contains(&pod.sandbox) && remains::groups(&pod.sandbox).is_empty();
            gone.then_some(())
        })
        .await;
        remove_all(&node).await;

        let pod = running(&mut node).await;
        signal(vm_of(&node, &pod.sandbox).pid, SIGSTOP);
        let hung = Instant::now();
        is_reported_as_ended(&node, &pod.sandbox, "not answer").await;
        eprintln!("a VM that hangs is noticed after {:?}", hung.elapsed());
        remove_all(&node).await;
        let runs = || remains::vms(&node).iter().any(|vm| vm.id == pod.sandbox);
        within("the VM to be gone", async || (!runs()).then_some(())).await;

        // A VM that hangs while there is no hyperd keeps its successor from nothing.
        let pod = running(&mut node).await;
        node.kill();
        let vm = vm_of(&node, &pod.sandbox).pid;
        let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(vm))).unwrap();
        assert_eq!(session.as_raw(), vm, "a stopped VM gets SIGHUP when the last of its session's parents ends");
        signal(vm, SIGSTOP);
        eprintln!("hyperd started within {:?}", node.start().await);
        is_reported_as_ended(&node, &pod.sandbox, "not answer").await;
        remove_all(&node).await;

        let pod = running(&mut node).await;
        node.kill();
        for vm in remains::vms(&node) {
            signal(vm.pid, SIGKILL);
        }
        within("the VMs to be gone", async || remains::vms(&node).is_empty().then_some(())).await;
        // Mounts are gone, and the VM's pid is another process's.
        nix::mount::umount2(&node.path("root/netns").join(&pod.sandbox), nix::mount::MntFlags::MNT_DETACH).unwrap();
        let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = other.id();
        let machine = node.path("root/vmm/machines").join(&pod.sandbox);
        std::fs::write(machine.join("pid"), format!("{pid} 1\n")).unwrap();
        let path = node.path("root/sandboxes").join(format!("{}.json", pod.sandbox));
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["vm"]["pid"] = pid.into();
        record["vm"]["start_time_ticks"] = 1.into();
        std::fs::write(&path, record.to_string()).unwrap();
        node.start().await;
        is_reported_as_ended(&node, &pod.sandbox, "while hyperd did not run").await;
        assert!(!machine.exists());
        remove_all(&node).await;
        assert!(other.try_wait().unwrap().is_none(), "a process that is none of hyperd's was ended");
        other.kill().unwrap();
        other.wait().unwrap();
        node.stop();
        leaves_nothing(&node, &BTreeSet::from([pod.sandbox])).await;
    });
}
