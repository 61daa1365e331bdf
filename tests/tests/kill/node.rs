//! A hyperd as a process of its own, on a host of the test's own: its network and its mounts are nobody else's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_cri::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use nix::{
    mount::MsFlags,
    sched::{CloneFlags, unshare},
};
use tonic::transport::Channel;

pub const POD_UID: &str = "0b5ee2a8-1111-4222-8333-444455556666";
const IMAGE: &str = "demo/web:1";
/// How long anything may take, on a busy machine that emulates its VMs.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Node {
    pub directory: tempfile::TempDir,
    binary: PathBuf,
    guest: PathBuf,
    hyperd: Option<Child>,
    /// Of every hyperd that there was.
    pub pids: Vec<u32>,
    attempt: u32,
}

impl Node {
    /// Has to be called on a thread that is left to this node: it gets a network and mounts of its own.
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        tool("ip", &["link", "set", "lo", "up"]);
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let place = |variable: &str, usual: &str| {
            std::env::var_os(variable).map_or_else(|| checkout.join(usual), PathBuf::from)
        };
        let node = Self {
            directory: tempfile::tempdir().unwrap(),
            binary: place("HYPERNETES_TEST_BINARY", "target/release/hypernetes"),
            guest: place("HYPERNETES_GUEST", ".tools/guest"),
            hyperd: None,
            pids: Vec::new(),
            attempt: 0,
        };
        // VMMs run as users of their own, and have to reach their directories.
        fs::set_permissions(node.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        for name in ["root/cni/net.d", "volumes/acme", "logs"] {
            fs::create_dir_all(node.path(name)).unwrap();
        }
        let network = serde_json::json!({"cniVersion": "1.0.0", "name": "kill", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {"type": "host-local", "dataDir": node.path("ipam"), "subnet": "10.87.0.0/24",
                "routes": [{"dst": "0.0.0.0/0"}]},
        }]});
        fs::write(node.path("root/cni/net.d/10-kill.conflist"), network.to_string()).unwrap();
        fs::File::create(node.path("volumes/acme/1.raw")).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir_all(node.volume_mount()).unwrap();
        // What the CSI driver leaves for hyperd.
        let descriptor = node.volume_mount().join("volume.hypernetes.json");
        let volume =
            serde_json::json!({"version": 2, "engine": "file", "tenant": "acme", "volume": "1", "readOnly": false});
        fs::write(&descriptor, volume.to_string()).unwrap();
        fs::set_permissions(&descriptor, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn volume_mount(&self) -> PathBuf {
        self.path("pods").join(POD_UID).join("volumes/kubernetes.io~csi/pvc-1/mount")
    }

    pub fn import_image(&self) {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut command = Command::new(&self.binary);
        command.args(["image", "import", "--root"]).arg(self.path("root"));
        let output = command.arg(checkout.join(".tools/demo-web.tar")).args(["--name", IMAGE]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts hyperd without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.hyperd.is_none());
        let log = fs::File::options().create(true).append(true).open(self.path("hyperd.log")).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("hyperd").arg("--root").arg(self.path("root")).arg("--guest").arg(&self.guest);
        command.arg("--pods-dir").arg(self.path("pods")).arg("--volumes").arg(self.path("volumes"));
        let hyperd = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.pids.push(hyperd.id());
        self.hyperd = Some(hyperd);
    }

    /// Starts hyperd. Gives how long it took until it served.
    pub async fn start(&mut self) -> Duration {
        let began = Instant::now();
        self.spawn();
        let socket = self.path("root/hyperd.sock");
        within("hyperd to serve", async || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
        began.elapsed()
    }

    pub fn kill(&mut self) {
        if let Some(mut hyperd) = self.hyperd.take() {
            hyperd.kill().unwrap();
            hyperd.wait().unwrap();
        }
    }

    /// Ends hyperd as an operator does.
    pub fn stop(&mut self) {
        let mut hyperd = self.hyperd.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(hyperd.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(hyperd.wait().unwrap().success());
    }

    pub async fn client(&self) -> Result<RuntimeServiceClient<Channel>, tonic::Status> {
        let channel = hypernetes_hyperd_api::connect(&self.path("root/hyperd.sock")).await;
        Ok(RuntimeServiceClient::new(channel.map_err(|e| tonic::Status::unavailable(e.to_string()))?))
    }

    /// The next attempt of the pod. It has a tenant, so that it comes from templates and the pool.
    pub fn sandbox_config(&mut self) -> cri::PodSandboxConfig {
        self.attempt += 1;
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".into(),
                uid: POD_UID.into(),
                namespace: "default".into(),
                attempt: self.attempt,
            }),
            hostname: "web".into(),
            log_directory: self.path("logs").display().to_string(),
            annotations: [("hypernetes.io/tenant".to_owned(), "acme".to_owned())].into(),
            ..Default::default()
        }
    }

    pub fn container_config(&self, name: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: self.attempt }),
            image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: vec!["/bin/sh".into(), "-c".into()],
            args: vec!["trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo count $i; sleep 0.1; done".into()],
            log_path: self.log_name(name),
            mounts: vec![cri::Mount {
                host_path: self.volume_mount().display().to_string(),
                container_path: "/data".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn log_name(&self, name: &str) -> String {
        format!("{name}-{}.log", self.attempt)
    }

    /// What the container has counted to, by its log, which must have no gap and nothing twice.
    pub fn counted(&self, name: &str) -> usize {
        let text = fs::read_to_string(self.path("logs").join(self.log_name(name))).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        for (line, number) in complete.lines().zip(1..) {
            assert!(line.ends_with(&format!(" stdout F count {number}")), "line {number} of the log: {line}");
        }
        complete.lines().count()
    }

    pub async fn sandboxes(&self) -> Vec<cri::PodSandbox> {
        let list = self.client().await.unwrap().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await;
        list.unwrap().into_inner().items
    }

    pub async fn containers(&self) -> Vec<cri::Container> {
        let list = self.client().await.unwrap().list_containers(cri::ListContainersRequest::default()).await;
        list.unwrap().into_inner().containers
    }

    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(self.path("hyperd.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Node {
    /// A test that failed leaves no VM behind.
    fn drop(&mut self) {
        self.kill();
        for vm in super::remains::vms(self) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(vm.pid), nix::sys::signal::Signal::SIGKILL);
        }
        for place in fs::read_dir(self.path("root/netns")).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&place.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        if std::thread::panicking() {
            eprintln!("== the last lines of hyperd's log\n{}", self.last_words());
        }
    }
}

pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub async fn within<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
