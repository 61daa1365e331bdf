//! What the node has once, for all of its pods.

use std::sync::{Arc, atomic::AtomicU64};

use k8s_openapi::api::core::v1::Node;
use tokio::sync::{Notify, broadcast, watch};

use super::{allocatable::Allocatable, cri::Runtime, csi::Drivers, log_dirs::LogDirs, redact::Redact, relayed::Places};
use crate::{
    config::{KubeletConfig, KubeletError},
    pod_dir::PodDirs,
};

/// Of the runtime's events, what followers of logs may be behind by.
const CONTAINER_EVENTS: usize = 256;

/// What pods' workers, the node's own tasks and its server share.
pub struct Shared {
    pub config: KubeletConfig,
    pub runtime: Runtime,
    pub drivers: Drivers,
    /// Directories of pods, by uid.
    pub pods: PodDirs,
    /// Directories of pods' logs.
    pub logs: LogDirs,
    pub allocatable: Allocatable,
    /// This host's Node object as it was read last; none before the first time.
    pub node: watch::Sender<Option<Arc<Node>>>,
    /// Ids of containers that something has happened to, as the runtime says.
    pub container_events: broadcast::Sender<String>,
    /// A pod has gone, and perhaps its tenant.
    pub pod_gone: Notify,
    /// Workers that have panicked since the kubelet began.
    pub panics: AtomicU64,
    /// What tenants read passes through it.
    pub redact: Redact,
    /// Of connections into tenants' networks.
    pub relayed: Arc<Places>,
}

impl Shared {
    /// # Errors
    /// [`KubeletError::Directory`]
    pub fn new(config: KubeletConfig) -> Result<Self, KubeletError> {
        let directory = |name: &str| config.root.join(name);
        let failed = |path| move |source| KubeletError::Directory { path, source };
        let (pods, logs) = (directory("pods"), directory("log"));
        let (pods, logs) = (PodDirs::open(&pods).map_err(failed(pods))?, LogDirs::open(&logs).map_err(failed(logs))?);
        let sockets = config.csi_drivers.values().chain([&config.cri_socket]);
        let directories = sockets.filter_map(|socket| socket.parent()).chain([&*config.root]);
        Ok(Self {
            runtime: Runtime::connect(&config.cri_socket),
            drivers: Drivers::new(&config.csi_drivers),
            pods,
            logs,
            allocatable: Allocatable::of_host(),
            node: watch::Sender::new(None),
            container_events: broadcast::Sender::new(CONTAINER_EVENTS),
            pod_gone: Notify::new(),
            panics: AtomicU64::new(0),
            relayed: Arc::default(),
            redact: Redact::new(directories.map(Into::into)),
            config,
        })
    }
}
