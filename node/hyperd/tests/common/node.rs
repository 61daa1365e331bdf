//! A node's hyperd with real VMs. Needs QEMU, the guest's kernel and busybox.

use std::{
    future::Future,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use hypernetes_hyperd::{AllowedHostPath, HyperdConfig, TENANT_ANNOTATION};
use hypernetes_hyperd_api::{ImportImageRequest, InfoRequest, hyperd_client::HyperdClient};
use hypernetes_hypervisor::{
    Accelerator, GuestFiles,
    qemu::{Qemu, QemuConfig, TemplateLimits},
};
use hypernetes_image::{ImageStore, Limits};
use k8s_cri::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use tonic::transport::Channel;

use super::layout::busybox_layout;

pub const POD_UID: &str = "0b5ee2a8-1111-4222-8333-444455556666";

/// Leaves in a directory of the kubelet's what the CSI driver does: the volume is `volumes/<tenant>/<volume>.raw`.
#[allow(dead_code, reason = "not every test has volumes")]
pub fn describe_volume(directory: &Path, tenant: &str, volume: &str) {
    let text =
        serde_json::json!({"version": 2, "engine": "file", "tenant": tenant, "volume": volume, "readOnly": false});
    let path = directory.join("volume.hypernetes.json");
    std::fs::write(&path, text.to_string()).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What make build puts there; the environment may name another place.
fn built(variable: &str, name: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| checkout().join("target/release").join(name), PathBuf::from)
}

pub struct Node {
    guest: GuestFiles,
    directory: tempfile::TempDir,
    pub hyperd: Option<tokio::runtime::Runtime>,
}

impl Node {
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub async fn run(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let guest = self.guest.clone();
        let (root, pods, volumes) = (self.path("root"), self.path("pods"), self.path("volumes"));
        let shared = self.path("shared");
        runtime.spawn(async move {
            std::fs::create_dir_all(&root).unwrap();
            let config = QemuConfig {
                directory: root.join("vmm"),
                jail: Some(built("HYPERNETES_VMM_JAILER", "hypernetes-vmm")),
                fork: Some(built("HYPERNETES_FORK_LIBRARY", "libhypernetes_fork_preload.so")),
                rehearsal: Some(hypernetes_hyperd::rehearsal::of_templates(&guest.hyperstart, &root).unwrap()),
                guest,
                // The jailer is another package's program; with it the whole system's tests run.
                accelerator: Some(Accelerator::Tcg),
                templates: TemplateLimits { delay: Duration::ZERO, ..TemplateLimits::default() },
            };
            let hypervisor = Arc::new(Qemu::new(config).await.unwrap());
            let images = Arc::new(ImageStore::open(root.join("images"), Limits::default()).unwrap());
            let mut config = HyperdConfig::new(&root, hypervisor, images);
            config.pods_dir = pods;
            config.volume_dirs = vec![volumes];
            let allow = |path: &str, read_only| AllowedHostPath { path: shared.join(path), read_only };
            config.allowed_host_paths = vec![allow("", false), allow("look", true)];
            hypernetes_hyperd::run(config, std::future::pending()).await.unwrap();
        });
        self.hyperd = Some(runtime);
        let socket = self.path("root/hyperd.sock");
        within(Duration::from_secs(60), "hyperd to serve", async || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(())
        })
        .await;
    }

    /// The death of hyperd, and its successor.
    pub async fn restart(&mut self) {
        self.hyperd.take().unwrap().shutdown_background();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.run().await;
    }

    /// An image of busybox, with more files.
    pub async fn import(&self, name: &str, files: &[(&str, &str)]) {
        let layout = self.path("layouts").join(name);
        busybox_layout(&layout, files);
        let request = ImportImageRequest { path: layout.display().to_string(), name: name.into() };
        let mut client = HyperdClient::new(self.channel().await);
        let mut progress = client.import_image(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(step) = progress.message().await.unwrap() {
            last = Some(step);
        }
        assert!(last.unwrap().image_id.starts_with("sha256:"));
    }

    pub async fn channel(&self) -> Channel {
        hypernetes_hyperd_api::connect(&self.path("root/hyperd.sock")).await.unwrap()
    }

    pub async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel().await)
    }

    pub async fn start(&self, sandbox: &str, name: &str, script: &str, mounts: Vec<cri::Mount>) -> String {
        self.start_as(sandbox, self.config(name, script, mounts)).await
    }

    /// A container with its own processes.
    pub fn config(&self, name: &str, script: &str, mounts: Vec<cri::Mount>) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: "test/busybox:1".into(), ..Default::default() }),
            args: vec![script.into()],
            log_path: format!("{name}.log"),
            mounts,
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(cri::NamespaceOption { pid: 1, ..Default::default() }),
                    ..Default::default()
                }),
                resources: None,
            }),
            ..Default::default()
        }
    }

    pub async fn start_as(&self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let container_id = self.create(sandbox, config).await.unwrap();
        let mut client = self.runtime().await;
        client.start_container(cri::StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
        container_id
    }

    pub async fn create(&self, sandbox: &str, config: cri::ContainerConfig) -> Result<String, tonic::Status> {
        let request =
            cri::CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: None };
        Ok(self.runtime().await.create_container(request).await?.into_inner().container_id)
    }

    pub async fn exec(&self, container_id: &str, script: &str) -> (i32, String) {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = cri::ExecSyncRequest { container_id: container_id.into(), cmd, timeout: 120 };
        let answer = within(Duration::from_secs(60), "the sandbox to be connected to", async || {
            match self.runtime().await.exec_sync(request.clone()).await {
                Ok(answer) => Some(answer.into_inner()),
                // hyperd has just been started again.
                Err(status) if status.message().ends_with("try again soon") => None,
                Err(status) => panic!("{status}"),
            }
        })
        .await;
        (answer.exit_code, String::from_utf8(answer.stdout).unwrap())
    }

    pub async fn exited(&self, container_id: &str) -> cri::ContainerStatus {
        within(Duration::from_secs(60), "a container to end", async || {
            let request = cri::ContainerStatusRequest { container_id: container_id.into(), verbose: false };
            let status = self.runtime().await.container_status(request).await.unwrap().into_inner().status.unwrap();
            (status.state == cri::ContainerState::ContainerExited as i32).then_some(status)
        })
        .await
    }

    pub fn log(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("logs").join(name)).unwrap_or_default();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    pub async fn run_sandbox(&self, tenant: &str) -> String {
        self.run_sandbox_with(tenant, None).await
    }

    pub async fn run_sandbox_with(&self, tenant: &str, linux: Option<cri::LinuxPodSandboxConfig>) -> String {
        // A pod has one sandbox of each attempt.
        static ATTEMPT: AtomicU32 = AtomicU32::new(0);
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".into(),
                uid: POD_UID.into(),
                namespace: "default".into(),
                attempt: ATTEMPT.fetch_add(1, Ordering::Relaxed),
            }),
            hostname: "web-1".into(),
            log_directory: self.path("logs").display().to_string(),
            annotations: [(TENANT_ANNOTATION.to_owned(), tenant.to_owned())].into(),
            linux,
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.runtime().await.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    /// The VM of a sandbox, as hyperd tells it.
    pub async fn machine(&self, sandbox: &str) -> hypernetes_hyperd_api::VirtualMachine {
        let info = HyperdClient::new(self.channel().await).info(InfoRequest {}).await.unwrap().into_inner();
        info.machines.into_iter().find(|m| m.sandbox_id == sandbox).unwrap()
    }

    /// Runs a sandbox, and says whether its VM was copied from a template.
    pub async fn run_timed(&self, tenant: &str) -> (String, bool) {
        let started = Instant::now();
        let sandbox = self.run_sandbox(tenant).await;
        let elapsed = started.elapsed();
        let line = std::fs::read(format!("/proc/{}/cmdline", self.machine(&sandbox).await.pid)).unwrap();
        let copied = line.split(|b| *b == 0).any(|word| word == b"-incoming" || word.starts_with(b"template-"));
        eprintln!("RunPodSandbox took {elapsed:?} {}", if copied { "with a copy" } else { "with a boot" });
        (sandbox, copied)
    }

    pub async fn remove(&self, sandbox: &str) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() };
        self.runtime().await.remove_pod_sandbox(request).await.unwrap();
    }
}

impl Drop for Node {
    /// No VM is left behind: none of a test that failed, and none that waited for a pod.
    fn drop(&mut self) {
        if let Some(hyperd) = self.hyperd.take() {
            hyperd.shutdown_background();
        }
        for entry in std::fs::read_dir(self.path("root/vmm/machines")).into_iter().flatten().flatten() {
            let record = std::fs::read_to_string(entry.path().join("pid")).unwrap_or_default();
            if let Some(pid) = record.split(' ').next().and_then(|pid| pid.parse().ok()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

pub async fn within<T, F: Future<Output = Option<T>>>(limit: Duration, what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn node() -> Node {
    let guest = GuestFiles::in_checkout(&checkout());
    let mut node = Node { guest, directory: tempfile::tempdir().unwrap(), hyperd: None };
    // The VMM runs as a user of its own, and has to reach its directory.
    std::fs::set_permissions(node.directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    node.run().await;
    node.import("test/busybox:1", &[]).await;
    node
}
