//! VMs for real: the guest's kernel boots, the agent answers, disks come and go.
//!
//! Needs root, QEMU, `scripts/guest-kernel.sh` and the static agent; says so when one is missing.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hypernetes_guest_protocol::{
    session,
    v1::{self, agent_client::AgentClient},
};
use hypernetes_hypervisor::{
    Accelerator, DiskSource, Hypervisor, Vm, VmSpec,
    qemu::{GuestFiles, Qemu, QemuConfig},
};
use tonic::transport::{Channel, Endpoint};

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn guest_files() -> GuestFiles {
    let guest = std::env::var_os("HYPERNETES_GUEST").map_or_else(|| checkout().join(".tools/guest"), PathBuf::from);
    let hyperstart = std::env::var_os("HYPERNETES_HYPERSTART");
    let files = GuestFiles {
        vmlinuz: guest.join("vmlinuz"),
        modules: guest.join("modules"),
        hyperstart: hyperstart.map_or_else(|| checkout().join("target/release/hyperstart"), PathBuf::from),
    };
    assert!(files.vmlinuz.exists(), "run scripts/guest-kernel.sh first");
    assert!(files.hyperstart.exists(), "run scripts/build.sh first");
    files
}

async fn qemu(directory: &Path) -> Qemu {
    let config =
        QemuConfig { directory: directory.to_owned(), guest: guest_files(), accelerator: Some(Accelerator::Tcg) };
    Qemu::new(config).await.unwrap()
}

fn spec(id: &str) -> VmSpec {
    VmSpec { id: id.into(), cpus: 1, memory_mib: 192, nic: None, disk_slots: 6 }
}

/// Ends its VM with the test, however that ends.
struct Running {
    vm: Box<dyn Vm>,
    agent: AgentClient<Channel>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.vm.record().pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

async fn connect(vm: &dyn Vm) -> AgentClient<Channel> {
    let path = vm.agent_socket().to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let mut stream = tokio::net::UnixStream::connect(path).await?;
            session::open(&mut stream).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://agent");
    let connecting = endpoint.connect_with_connector(connector);
    match tokio::time::timeout(Duration::from_secs(60), connecting).await {
        Ok(channel) => AgentClient::new(channel.unwrap()),
        Err(_) => panic!("the agent did not answer; console:\n{}", vm.console_tail().await),
    }
}

async fn boot(qemu: &Qemu, spec: VmSpec) -> Running {
    let began = Instant::now();
    let vm = qemu.create(spec).await.unwrap();
    let mut agent = connect(&*vm).await;
    let hello = agent.hello(v1::HelloRequest { min_version: 1, max_version: 1 }).await.unwrap().into_inner();
    println!("agent {} on {} after {:?}", hello.agent_version, hello.kernel_release, began.elapsed());
    let configure = v1::ConfigureSandboxRequest {
        hostname: "pod".into(),
        unix_time_nanos: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64,
        entropy: vec![42; 32],
        ..Default::default()
    };
    agent.configure_sandbox(configure).await.unwrap();
    Running { vm, agent }
}

/// An EROFS image of busybox with links for its applets, padded as images are.
fn image(directory: &Path) -> PathBuf {
    let root = directory.join("image");
    for name in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("apt-get install busybox-static");
    for applet in ["sh", "cat", "echo", "sleep", "id", "head", "tail", "mount", "sync", "seq", "ps", "stty", "dd"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/tmp:/bin/sh\n").unwrap();
    let path = directory.join("image.erofs");
    let status = std::process::Command::new("mkfs.erofs").arg(&path).arg(&root).output().unwrap().status;
    assert!(status.success());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64 << 30).unwrap();
    path
}

fn process(args: &[&str]) -> v1::Process {
    v1::Process {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        capabilities: vec!["CAP_CHOWN".into(), "CAP_SETUID".into(), "CAP_SETGID".into(), "CAP_KILL".into()],
        ..Default::default()
    }
}

impl Running {
    async fn attach(&self, path: &Path, read_only: bool) -> u32 {
        self.vm.attach_disk(DiskSource { path: path.to_owned(), read_only }).await.unwrap().0
    }

    async fn create(&mut self, id: &str, root: u32, args: &[&str], mounts: Vec<v1::Mount>) {
        let request = v1::CreateContainerRequest {
            container_id: id.into(),
            root: Some(v1::Disk { slot: root, fs_type: "erofs".into(), read_only: true }),
            process: Some(process(args)),
            mounts,
            resources: Some(v1::Resources { memory_bytes: 48 << 20, ..Default::default() }),
            ..Default::default()
        };
        self.agent.create_container(request).await.unwrap();
    }

    async fn start(&mut self, id: &str, exec: &str, spec: Option<v1::Process>) -> Result<(), tonic::Status> {
        let request = v1::StartProcessRequest { container_id: id.into(), exec_id: exec.into(), process: spec };
        self.agent.start_process(request).await.map(drop)
    }

    async fn wait(&mut self, id: &str, exec: &str) -> v1::WaitProcessResponse {
        let request = v1::WaitProcessRequest { container_id: id.into(), exec_id: exec.into() };
        tokio::time::timeout(Duration::from_secs(60), self.agent.wait_process(request))
            .await
            .unwrap()
            .unwrap()
            .into_inner()
    }

    async fn output(&mut self, id: &str, exec: &str) -> String {
        let request = v1::ReadOutputRequest { container_id: id.into(), exec_id: exec.into(), ..Default::default() };
        // The stream of acknowledgements stays open: it ends with the output.
        let (_acknowledge, requests) = tokio::sync::mpsc::channel::<v1::ReadOutputRequest>(1);
        let first = tokio_stream::once(request);
        let requests = tokio_stream::StreamExt::chain(first, tokio_stream::wrappers::ReceiverStream::new(requests));
        let mut chunks = self.agent.read_output(requests).await.unwrap().into_inner();
        let (mut text, mut ends) = (Vec::new(), 0);
        while ends < 2 {
            let chunk = chunks.message().await.unwrap().expect("both streams end");
            text.extend(chunk.data);
            ends += usize::from(chunk.eof);
        }
        String::from_utf8(text).unwrap()
    }

    async fn exec(&mut self, id: &str, name: &str, args: &[&str]) -> (i32, String) {
        self.start(id, name, Some(process(args))).await.unwrap();
        let output = self.output(id, name).await;
        let exit = self.wait(id, name).await;
        self.remove(id, name).await;
        (exit.exit_code, output)
    }

    async fn remove(&mut self, id: &str, exec: &str) {
        let request = v1::RemoveProcessRequest { container_id: id.into(), exec_id: exec.into() };
        self.agent.remove_process(request).await.unwrap();
    }

    async fn kill(&mut self, id: &str) {
        let request = v1::SignalProcessRequest { container_id: id.into(), signal: 9, all: true, ..Default::default() };
        self.agent.signal_process(request).await.unwrap();
        self.wait(id, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_run_in_a_vm() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let mut vm = boot(&qemu, spec("containers")).await;
    let image = image(directory.path());
    let root = vm.attach(&image, true).await;

    vm.create("one", root, &["sh", "-c", "echo out; echo err >&2; exit 7"], vec![]).await;
    vm.start("one", "", None).await.unwrap();
    assert_eq!(vm.wait("one", "").await.exit_code, 7);
    let output = vm.output("one", "").await;
    assert!(output.contains("out\n") && output.contains("err\n"), "{output}");
    vm.remove("one", "").await;

    vm.create("two", root, &["sleep", "1000"], vec![]).await;
    vm.start("two", "", None).await.unwrap();
    assert_eq!(vm.exec("two", "a", &["echo", "hello"]).await, (0, "hello\n".into()));
    assert_eq!(vm.exec("two", "b", &["sh", "-c", "exit 42"]).await.0, 42);
    let (_, ps) = vm.exec("two", "c", &["ps"]).await;
    assert!(ps.contains("sleep 1000") && !ps.contains("hyperstart"), "{ps}");
    let missing = vm.start("two", "d", Some(process(&["no-such-program"]))).await.unwrap_err();
    assert!(missing.message().contains("executable file not found in $PATH"), "{missing}");
    let web =
        v1::Process { user: Some(v1::User { name: "web".into(), ..Default::default() }), ..process(&["id", "-u"]) };
    vm.start("two", "e", Some(web)).await.unwrap();
    assert_eq!(vm.output("two", "e").await, "1000\n");
    // A terminal.
    vm.start("two", "f", Some(v1::Process { tty: true, ..process(&["stty", "size"]) })).await.unwrap();
    assert_eq!(vm.output("two", "f").await.trim(), "24 80");
    // Standard input.
    vm.start("two", "g", Some(v1::Process { stdin: true, ..process(&["cat"]) })).await.unwrap();
    let write =
        v1::WriteStdinRequest { container_id: "two".into(), exec_id: "g".into(), data: b"typed".into(), close: true };
    vm.agent.write_stdin(write).await.unwrap();
    assert_eq!(vm.output("two", "g").await, "typed");
    vm.kill("two").await;
    vm.remove("two", "").await;

    // Over its limit the container ends, and is said to.
    vm.create("greedy", root, &["sh", "-c", "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done"], vec![]).await;
    vm.start("greedy", "", None).await.unwrap();
    let exit = vm.wait("greedy", "").await;
    assert!(exit.oom_killed && exit.signal == 9, "{exit:?}");
    vm.remove("greedy", "").await;
    vm.vm.detach_disk(hypernetes_hypervisor::DiskSlot(root)).await.unwrap();
    vm.vm.kill().await.unwrap();
    assert!(!vm.vm.record().directory.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_loses_no_output() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let mut vm = boot(&qemu, spec("reconnect")).await;
    let image = image(directory.path());
    let root = vm.attach(&image, true).await;
    vm.create("c", root, &["sh", "-c", "seq 1 20000; sleep 1; echo end"], vec![]).await;
    vm.start("c", "", None).await.unwrap();
    let (mut text, mut offset) = (Vec::new(), 0);
    for cut in 0.. {
        // A new process takes over: another record, another connection.
        let record = vm.vm.record();
        vm.vm = qemu.adopt(record).await.unwrap();
        // The port has one user at a time: the old connection goes first, as with a process that was killed.
        vm.agent = AgentClient::new(Endpoint::from_static("http://nobody").connect_lazy());
        vm.agent = connect(&*vm.vm).await;
        let (acknowledge, requests) = tokio::sync::mpsc::channel(8);
        let request =
            |offset| v1::ReadOutputRequest { container_id: "c".into(), stdout_offset: offset, ..Default::default() };
        acknowledge.send(request(offset)).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut chunks = vm.agent.read_output(requests).await.unwrap().into_inner();
        let mut read = 0;
        let ended = loop {
            let chunk = chunks.message().await.unwrap().expect("a chunk");
            if chunk.stream == 1 {
                continue;
            }
            assert_eq!(chunk.offset, offset);
            offset += chunk.data.len() as u64;
            read += chunk.data.len();
            text.extend(chunk.data);
            acknowledge.send(request(offset)).await.unwrap();
            if chunk.eof {
                break true;
            }
            if cut < 4 && read > 10_000 {
                break false;
            }
        };
        if ended {
            break;
        }
    }
    let lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
    let expected: Vec<String> = (1..=20_000).map(|n| n.to_string()).chain(["end".into()]).collect();
    assert!(lines == expected, "{} lines, the last {:?}", lines.len(), lines.last());
    vm.vm.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_moves_from_vm_to_vm() {
    let directory = tempfile::tempdir().unwrap();
    let qemu = qemu(directory.path()).await;
    let image = image(directory.path());
    let volume = directory.path().join("volume.raw");
    std::fs::File::create(&volume).unwrap().set_len(64 << 20).unwrap();
    assert!(std::process::Command::new("mkfs.ext4").arg("-q").arg(&volume).status().unwrap().success());
    for (round, script) in ["echo kept > /v/file; sync", "cat /v/file"].iter().enumerate() {
        let mut vm = boot(&qemu, spec(&format!("volume-{round}"))).await;
        let root = vm.attach(&image, true).await;
        let slot = vm.attach(&volume, false).await;
        let disk = v1::Disk { slot, fs_type: "ext4".into(), read_only: false };
        let mount =
            v1::Mount { destination: "/v".into(), source: Some(v1::mount::Source::Disk(disk)), ..Default::default() };
        vm.create("c", root, &["sh", "-c", script], vec![mount]).await;
        vm.start("c", "", None).await.unwrap();
        assert_eq!(vm.wait("c", "").await.exit_code, 0);
        let output = vm.output("c", "").await;
        assert_eq!(output, if round == 0 { "" } else { "kept\n" });
        vm.remove("c", "").await;
        vm.vm.detach_disk(hypernetes_hypervisor::DiskSlot(slot)).await.unwrap();
        vm.vm.kill().await.unwrap();
    }
    let check = std::process::Command::new("fsck.ext4").args(["-fn"]).arg(&volume).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}
