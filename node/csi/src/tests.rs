//! The driver over its socket, with a real API server and volume service in process.

mod calls;
mod crashes;

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use hypernetes_api::{
    AllTenants, names,
    types::volume::{Attachment, Volume, VolumeSpec},
};
use hypernetes_client::Clients;
use hypernetes_testing::{
    server::{ACME, GLOBEX, InProcess},
    wait::eventually,
};
use hypernetes_volume::{Volumes, VolumesConfig};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Endpoint};

use crate::{
    CsiConfig, context,
    v1::{self, node_client::NodeClient},
};

const GIB: u64 = 1 << 30;
/// Longest wait for what happens in milliseconds.
const SOON: Duration = Duration::from_secs(60);

/// A host with its driver, and the server.
struct Host {
    in_process: InProcess,
    volumes: Option<Arc<Volumes>>,
    driver: Driver,
}

impl Deref for Host {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.in_process
    }
}

/// A driver with threads of its own: when it goes, nothing of it goes on, as after a signal 9.
struct Driver(Option<tokio::runtime::Runtime>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Within a runtime one may not wait for the end of another, but elsewhere.
            let end = std::thread::spawn(move || runtime.shutdown_timeout(SOON));
            let _ = end.join();
        }
    }
}

impl Host {
    async fn new() -> Self {
        let in_process = InProcess::start();
        let driver = drive(in_process.directory(), &in_process.clients, "n1");
        let mut host = Self { in_process, volumes: None, driver };
        host.serve_volumes();
        for tenant in [ACME, GLOBEX] {
            host.project(tenant, tenant).await;
        }
        host
    }

    fn serve_volumes(&mut self) {
        let config = VolumesConfig::new(self.path("volumes"), "https://cloud.example");
        self.volumes = Some(Volumes::start(&self.clients, AllTenants::grant(), config).unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// A volume that is available.
    async fn volume(&self, tenant: &str, name: &str) -> Volume {
        let spec = VolumeSpec { size_bytes: GIB, ..VolumeSpec::default() };
        self.api(tenant).create(&PostParams::default(), &Volume::new(name, spec)).await.unwrap();
        self.volume_in(tenant, name, "Available").await
    }

    async fn volume_in(&self, tenant: &str, name: &str, phase: &str) -> Volume {
        eventually(|| async {
            let volume = self.api::<Volume>(tenant).get_opt(name).await.unwrap()?;
            (volume.status.as_ref()?.phase == phase).then_some(volume)
        })
        .await
    }

    async fn attachment(&self, tenant: &str, name: &str) -> Option<Attachment> {
        self.api::<Attachment>(tenant).get_opt(name).await.unwrap()
    }

    /// Ends the driver without a word, and begins a new one.
    fn restart(&mut self) {
        self.driver = Driver(None);
        // Whoever calls from now on calls the new one.
        fs::remove_file(self.path("csi.sock")).unwrap();
        self.driver = drive(self.directory(), &self.clients, "n1");
    }

    fn target(&self, pod: &str) -> PathBuf {
        let directory = self.path("pods").join(pod);
        fs::create_dir_all(&directory).unwrap();
        directory.join("mount")
    }

    fn request(&self, tenant: &str, volume: &str, pod: &str) -> v1::NodePublishVolumeRequest {
        let context = [
            (context::TENANT, tenant),
            (context::POD_NAMESPACE, "default"),
            (context::POD_NAME, pod),
            (context::POD_UID, pod),
        ];
        v1::NodePublishVolumeRequest {
            volume_id: volume.into(),
            target_path: self.target(pod).to_str().unwrap().into(),
            volume_capability: Some(mounted("ext4")),
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Default::default()
        }
    }

    async fn send(&self, request: v1::NodePublishVolumeRequest) -> Result<(), Status> {
        client(&self.path("csi.sock")).await.node_publish_volume(request).await.map(drop)
    }

    async fn publish(&self, tenant: &str, volume: &str, pod: &str) -> Result<(), Status> {
        self.send(self.request(tenant, volume, pod)).await
    }

    async fn unpublish(&self, volume: &str, pod: &str) -> Result<(), Status> {
        let target_path = self.target(pod).to_str().unwrap().into();
        let request = v1::NodeUnpublishVolumeRequest { volume_id: volume.into(), target_path };
        client(&self.path("csi.sock")).await.node_unpublish_volume(request).await.map(drop)
    }

    fn descriptor(&self, pod: &str) -> Option<Value> {
        let text = fs::read(self.target(pod).join(names::VOLUME_DESCRIPTOR)).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }
}

fn drive(directory: &Path, clients: &Clients, node: &str) -> Driver {
    let config = CsiConfig {
        patience: Duration::from_secs(3),
        ..CsiConfig::new(node, directory.join("csi.sock"), directory.join("pods"), clients.clone())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move { crate::run(config, CancellationToken::new()).await.unwrap() });
    Driver(Some(runtime))
}

async fn channel(socket: &Path) -> tonic::transport::Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://driver");
    eventually(|| async { endpoint.connect_with_connector(connector.clone()).await.ok() }).await
}

async fn client(socket: &Path) -> NodeClient<tonic::transport::Channel> {
    NodeClient::new(channel(socket).await)
}

fn mounted(fs_type: &str) -> v1::VolumeCapability {
    let mount = v1::volume_capability::MountVolume { fs_type: fs_type.into(), ..Default::default() };
    v1::VolumeCapability {
        access_type: Some(v1::volume_capability::AccessType::Mount(mount)),
        access_mode: Some(v1::volume_capability::AccessMode { mode: 1 }),
    }
}

#[track_caller]
fn refused(outcome: Result<(), Status>, code: Code) -> String {
    let status = outcome.expect_err("should have been refused");
    assert_eq!(status.code(), code, "{status}");
    status.message().to_owned()
}
