//! What the tests with VMs share.
#![allow(dead_code)]

pub mod capture;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hypernetes_guest_protocol::v1::{self, agent_client::AgentClient};
use hypernetes_hypervisor::{
    Accelerator, DiskSource, GuestFiles, Hypervisor, Vm, VmSpec,
    qemu::{Qemu, QemuConfig, TemplateLimits},
};
use tonic::transport::{Channel, Endpoint};

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

pub fn guest_files() -> GuestFiles {
    GuestFiles::in_checkout(&checkout())
}

/// One whose templates are forked.
pub async fn qemu(directory: &Path) -> Qemu {
    let library = std::env::var_os("HYPERNETES_FORK_LIBRARY");
    let library =
        library.map_or_else(|| checkout().join("target/release/libhypernetes_fork_preload.so"), PathBuf::from);
    assert!(library.exists(), "run scripts/build.sh first");
    qemu_with(directory, Some(library)).await
}

/// One whose templates are files, as with KVM.
pub async fn qemu_that_restores(directory: &Path) -> Qemu {
    qemu_with(directory, None).await
}

async fn qemu_with(directory: &Path, fork: Option<PathBuf>) -> Qemu {
    // What goes wrong behind a test's back is part of what it shows when it fails.
    let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("hypernetes_hypervisor=debug").try_init();
    let config = QemuConfig {
        directory: directory.to_owned(),
        guest: GuestFiles::in_checkout(&checkout()),
        jail: Some(env!("CARGO_BIN_EXE_hypernetes-vmm").into()),
        fork,
        rehearsal: None,
        accelerator: Some(Accelerator::Tcg),
        templates: TemplateLimits { delay: Duration::ZERO, ..TemplateLimits::default() },
    };
    Qemu::new(config).await.unwrap()
}

/// A VM's id that no other test has: the control groups of all of them are the host's.
pub fn own(id: &str) -> String {
    format!("{id}-{}", std::process::id())
}

pub fn spec(id: &str) -> VmSpec {
    VmSpec { id: own(id), tenant: String::new(), cpus: 1, memory_mib: 192, nic: None, disk_slots: 6 }
}

/// Ends its VM with the test, however that ends.
pub struct Running {
    pub vm: Box<dyn Vm>,
    pub agent: AgentClient<Channel>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.vm.record().pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

pub async fn connect(vm: &dyn Vm) -> AgentClient<Channel> {
    let address = vm.agent();
    let connector = tower::service_fn(move |_| {
        let address = address.clone();
        async move { address.connect().await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://agent");
    let connecting = endpoint.connect_with_connector(connector);
    match tokio::time::timeout(Duration::from_secs(60), connecting).await {
        Ok(channel) => AgentClient::new(channel.unwrap()),
        Err(_) => panic!("the agent did not answer; console:\n{}", vm.console_tail().await),
    }
}

pub async fn boot(qemu: &Qemu, spec: VmSpec) -> Running {
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
pub fn image(directory: &Path) -> PathBuf {
    let root = directory.join("image");
    for name in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("apt-get install busybox-static");
    for applet in
        ["sh", "cat", "echo", "sleep", "id", "head", "tail", "mount", "sync", "seq", "ps", "grep", "stty", "dd"]
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/tmp:/bin/sh\n").unwrap();
    let path = directory.join("image.erofs");
    let status = std::process::Command::new("mkfs.erofs").arg(&path).arg(&root).output().unwrap().status;
    assert!(status.success());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64 << 30).unwrap();
    path
}

pub fn process(args: &[&str]) -> v1::Process {
    v1::Process {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        capabilities: vec!["CAP_CHOWN".into(), "CAP_SETUID".into(), "CAP_SETGID".into(), "CAP_KILL".into()],
        ..Default::default()
    }
}

impl Running {
    pub async fn attach(&self, path: &Path, read_only: bool) -> u32 {
        self.vm.attach_disk(DiskSource { path: path.to_owned(), read_only }).await.unwrap().0
    }

    pub async fn create(&mut self, id: &str, root: u32, args: &[&str], mounts: Vec<v1::Mount>) {
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

    pub async fn start(&mut self, id: &str, exec: &str, spec: Option<v1::Process>) -> Result<(), tonic::Status> {
        let request = v1::StartProcessRequest { container_id: id.into(), exec_id: exec.into(), process: spec };
        self.agent.start_process(request).await.map(drop)
    }

    pub async fn wait(&mut self, id: &str, exec: &str) -> v1::WaitProcessResponse {
        let request = v1::WaitProcessRequest { container_id: id.into(), exec_id: exec.into() };
        tokio::time::timeout(Duration::from_secs(60), self.agent.wait_process(request))
            .await
            .unwrap()
            .unwrap()
            .into_inner()
    }

    pub async fn output(&mut self, id: &str, exec: &str) -> String {
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

    pub async fn exec(&mut self, id: &str, name: &str, args: &[&str]) -> (i32, String) {
        self.start(id, name, Some(process(args))).await.unwrap();
        let output = self.output(id, name).await;
        let exit = self.wait(id, name).await;
        self.remove(id, name).await;
        (exit.exit_code, output)
    }

    pub async fn remove(&mut self, id: &str, exec: &str) {
        let request = v1::RemoveProcessRequest { container_id: id.into(), exec_id: exec.into() };
        self.agent.remove_process(request).await.unwrap();
    }

    pub async fn kill(&mut self, id: &str) {
        let request = v1::SignalProcessRequest { container_id: id.into(), signal: 9, all: true, ..Default::default() };
        self.agent.signal_process(request).await.unwrap();
        self.wait(id, "").await;
    }
}
