//! hyperd: a CRI v1 runtime whose pod sandboxes are virtual machines.
//!
//! ```text
//! kubelet, crictl ──CRI──▶ service ──▶ runtime ─┬─▶ sandbox ──▶ hypervisor (a VM), cni (its tap)
//!                                               ├─▶ container ─▶ prepare (disks, files, mounts) ──▶ agent (in the VM)
//!                                               └─▶ supervise (ends, output, restarts of hyperd)
//! kubectl exec ──WebSocket, SPDY──▶ streaming ──▶ exec ──▶ agent
//! ```
//!
//! A VM does not depend on this process: killed at any time, hyperd finds its VMs again by the records that it keeps.
#![forbid(unsafe_code)]

mod agent;
mod budget;
mod cni;
mod collect;
mod container;
mod dial;
mod error;
mod events;
mod exec;
#[cfg(test)]
mod fake;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hibernate;
mod host_paths;
mod host_usage;
mod identity;
mod images;
mod log_budget;
mod logs;
mod metrics;
mod modules;
mod mounts;
mod output;
mod pod_dir;
mod pool;
mod prepare;
mod process;
mod records;
pub mod rehearsal;
mod resources;
mod runtime;
mod sandbox;
mod seccomp;
mod service;
mod signals;
mod stats;
mod streaming;
mod subpaths;
mod supervise;
#[cfg(test)]
mod tests;
mod vm_memory;
mod volumes;

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use collect::ImageCollection;
pub use host_paths::AllowedHostPath;
use hypernetes_hyperd_api::hyperd_server::HyperdServer;
use hypernetes_hypervisor::Hypervisor;
pub use images::Images;
use k8s_cri::v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

pub use crate::pool::PoolLimits;
use crate::{records::Records, runtime::Runtime, service::Service, streaming::Sessions};

/// On a sandbox: the tenant it belongs to.
pub const TENANT_ANNOTATION: &str = "hypernetes.io/tenant";
/// On a sandbox: how many bytes of logs its tenant may have on this node, as a plain number.
pub const LOG_BYTES_ANNOTATION: &str = "hypernetes.io/log-bytes";
/// On an image that is pulled: how many bytes of images its tenant may have pulled on this node, as a plain number.
pub const IMAGE_BYTES_ANNOTATION: &str = "hypernetes.io/image-bytes";
/// On a container: the size of its writable layer in bytes, as a plain number. CRI has no field for it.
pub const EPHEMERAL_STORAGE_ANNOTATION: &str = "hypernetes.io/ephemeral-storage-bytes";
/// On a sandbox, with the value `none`: it is connected to no network.
pub const NETWORK_ANNOTATION: &str = "hypernetes.io/network";
/// More than the images and volumes of most pods; each costs the guest's kernel a device.
const MAX_DISK_SLOTS: u32 = 21;
/// Largest gRPC message from a client; the kubelet's own limit.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// How long calls that are under way may take when hyperd ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What hyperd works with.
#[derive(Clone)]
pub struct HyperdConfig {
    /// All state.
    pub root: PathBuf,
    /// Where CRI and [`hypernetes_hyperd_api`] are served.
    pub socket: PathBuf,
    /// Address of the streaming server. Port 0 picks one.
    pub streaming_bind: SocketAddr,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub images: Arc<dyn Images>,
    /// The pods' network: the first CNI configuration by name in it.
    pub cni_config_dir: PathBuf,
    /// Where CNI plugins are looked for, in this order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// The kubelet's directory of pods: what mounts of any pod may name is in its own directory there.
    pub pods_dir: PathBuf,
    /// What else the operator's own pods may mount (those of no tenant or of `system`).
    pub allowed_host_paths: Vec<AllowedHostPath>,
    /// Where volumes are: `<directory>/<tenant>/<volume's uid>.raw`.
    pub volume_dirs: Vec<PathBuf>,
    /// Modules of the guest's kernel, for containers that may have them loaded; none: they get none.
    pub modules_dir: Option<PathBuf>,
    /// How long a VM may take until its agent answers.
    pub boot_timeout: Duration,
    /// Between two questions whether a VM's agent still answers.
    pub health_interval: Duration,
    /// How long it may take to answer. It is asked again at once then; after three silences in a row the sandbox is not ready
    /// any more.
    pub health_timeout: Duration,
    /// Placeholder disks of each VM: one for each different image and volume of the pod.
    pub disk_slots: u32,
    /// What a VM gets above its containers' memory limits, for its kernel and agent.
    pub base_memory_mib: u32,
    /// Memory of a VM whose containers have no limits.
    pub default_memory_mib: u32,
    /// Most memory of all pods' VMs together.
    pub vm_memory_mib: u64,
    /// VMs that wait for their pods.
    pub pool: PoolLimits,
    /// A container's log is rotated (to `<log>.1`) at this length if the kubelet did not do it before.
    pub log_max_bytes: u64,
    /// Bytes of logs that the containers of one tenant may have, where the kubelet does not say.
    pub tenant_log_bytes: u64,
    /// Bytes of images that one tenant may have pulled, where the kubelet does not say.
    pub tenant_image_bytes: u64,
    /// When images that no container has are removed.
    pub image_collection: ImageCollection,
}

impl HyperdConfig {
    /// The usual places below `root`; those of the kubelet and of the volumes are the caller's to say.
    pub fn new(root: &Path, hypervisor: Arc<dyn Hypervisor>, images: Arc<dyn Images>) -> Self {
        let disk_slots = hypervisor.describe().disk_slots.min(MAX_DISK_SLOTS);
        Self {
            root: root.into(),
            socket: root.join("hyperd.sock"),
            streaming_bind: ([127, 0, 0, 1], 0).into(),
            hypervisor,
            images,
            cni_config_dir: root.join("cni/net.d"),
            cni_bin_dirs: vec![root.join("cni/bin"), "/opt/cni/bin".into(), "/usr/lib/cni".into()],
            pods_dir: root.join("pods"),
            allowed_host_paths: Vec::new(),
            volume_dirs: Vec::new(),
            modules_dir: None,
            boot_timeout: Duration::from_secs(120),
            health_interval: Duration::from_secs(10),
            health_timeout: Duration::from_secs(5),
            disk_slots,
            base_memory_mib: 96,
            default_memory_mib: 256,
            vm_memory_mib: vm_memory::of_this_host(),
            pool: PoolLimits::default(),
            log_max_bytes: 64 << 20,
            tenant_log_bytes: 4 << 30,
            tenant_image_bytes: 32 << 30,
            image_collection: ImageCollection::default(),
        }
    }
}

/// The plain number that an annotation is; none: it is not there, or says none.
fn bytes_said(annotations: &HashMap<String, String>, annotation: &str) -> Option<u64> {
    annotations.get(annotation)?.parse().ok()
}

/// Why hyperd cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the state in {path}: {reason}")]
    State { path: PathBuf, reason: String },
    #[error("listening on {address}: {source}")]
    Listen { address: String, source: std::io::Error },
    #[error("another hyperd serves {0} already")]
    AlreadyRunning(PathBuf),
    #[error("watching files: {0}")]
    Watch(std::io::Error),
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Takes over what an earlier hyperd left and serves until `shutdown`. VMs run on.
///
/// # Errors
/// When its state cannot be read, or its addresses cannot be had.
pub async fn run(config: HyperdConfig, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), RunError> {
    let listener = listen(&config.socket).await?;
    let hypervisor = config.hypervisor.clone();
    let state = |reason: String| RunError::State { path: config.root.clone(), reason };
    let records = Records::open(&config.root).map_err(|e| state(e.to_string()))?;
    let watcher = hypernetes_watch::Watcher::shared().map_err(RunError::Watch)?;
    let address = config.streaming_bind;
    let listen_error = |source| RunError::Listen { address: address.to_string(), source };
    let streaming = TcpListener::bind(address).await.map_err(listen_error)?;
    let sessions = Sessions::new(streaming.local_addr().map_err(listen_error)?);

    let socket = config.socket.clone();
    let root = config.root.clone();
    let runtime = Arc::new(Runtime::new(config, records, watcher, sessions));
    runtime.adopt_all().await.map_err(|e| RunError::State { path: root, reason: e.to_string() })?;

    let collection = tokio::spawn(collect::run(runtime.clone()));
    let stop = CancellationToken::new();
    let streaming_stop = stop.clone();
    let router = streaming::router(runtime.clone());
    let streams = tokio::spawn(async move {
        axum::serve(streaming, router).with_graceful_shutdown(streaming_stop.cancelled_owned()).await
    });
    let pool = tokio::spawn(runtime.clone().keep_pool(stop.clone()));
    tracing::info!(socket = %socket.display(), "hyperd is ready");
    let service = Service(runtime);
    let server_stop = stop.clone();
    let server = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(ImageServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(HyperdServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), server_stop.cancelled_owned());
    tokio::pin!(server);
    tokio::select! {
        outcome = &mut server => outcome?,
        () = shutdown => {
            stop.cancel();
            // Event streams have no end of their own.
            if let Ok(outcome) = tokio::time::timeout(DRAIN_TIMEOUT, server).await {
                outcome?;
            }
        }
    }
    stop.cancel();
    streams.abort();
    let _ = pool.await;
    collection.abort();
    hypervisor.close().await;
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

/// Listens on the socket, for root only; a socket that nobody serves any more is replaced.
async fn listen(path: &Path) -> Result<UnixListener, RunError> {
    let error = |source| RunError::Listen { address: path.display().to_string(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(RunError::AlreadyRunning(path.into()));
        }
        std::fs::remove_file(path).map_err(error)?;
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(error)?;
    Ok(listener)
}
