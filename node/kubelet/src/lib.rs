//! The kubelet: keeps the pods of this node, of all tenants, running through a CRI runtime.
//!
//! ```text
//! API (watch: pods bound here) ──▶ manager ──▶ one worker a pod ──▶ CRI ──▶ sandbox, containers
//!                                   ▲               │ volumes, environment
//!                    CRI events ────┘               └──▶ status, events ──▶ API
//! ```
//!
//! Nothing is kept but in the API and in the runtime: after its own death the kubelet finds its pods again by their labels.
#![forbid(unsafe_code)]

mod container;
mod cri;
mod csi;
mod environment;
mod events;
mod logs;
mod manager;
mod node;
mod probes;
mod qos;
mod security;
mod server;
mod status;
mod users;
mod volumes;
mod worker;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use hypernetes_api::AllTenants;
use hypernetes_client::Clients;
use tokio_util::sync::CancellationToken;

/// What a kubelet works with.
#[derive(Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// Directory of pods' volumes (`pods/`) and logs (`log/`).
    pub root: PathBuf,
    pub clients: Clients,
    pub all: AllTenants,
    /// The runtime's socket.
    pub cri_socket: PathBuf,
    /// Volume drivers by their names, and the sockets where they serve CSI.
    pub csi_drivers: BTreeMap<String, PathBuf>,
    /// Where logs, exec and so on are served to the API server. Port 0 picks one.
    pub bind: SocketAddr,
    pub tls: ServerTls,
}

/// PEM texts of the kubelet's own API.
#[derive(Clone)]
pub struct ServerTls {
    pub certificate: String,
    pub key: String,
    pub client_authority: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("the directory {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("listening on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the kubelet's certificates: {0}")]
    Tls(String),
}

/// Runs until `stop`; pods run on.
///
/// # Errors
/// When it cannot begin: no runtime, no place to listen.
pub async fn run(
    config: KubeletConfig,
    stop: CancellationToken,
    ready: impl FnOnce() + Send + 'static,
) -> Result<(), KubeletError> {
    for directory in ["pods", "log"] {
        let path = config.root.join(directory);
        std::fs::create_dir_all(&path).map_err(|source| KubeletError::Directory { path, source })?;
    }
    let runtime = cri::Runtime::connect(&config.cri_socket);
    let listener = tokio::net::TcpListener::bind(config.bind)
        .await
        .map_err(|source| KubeletError::Listen { address: config.bind, source })?;
    let address = listener.local_addr().map_err(|source| KubeletError::Listen { address: config.bind, source })?;
    let acceptor = server::acceptor(&config.tls).map_err(KubeletError::Tls)?;
    let drivers = csi::Drivers::new(&config.csi_drivers);
    let shared = Arc::new(worker::Shared { config, runtime, drivers });
    let serve = tokio::spawn(server::serve(listener, acceptor, shared.clone()));
    let heartbeat = tokio::spawn(node::keep(shared.clone(), address, ready));
    manager::run(shared, stop).await;
    serve.abort();
    heartbeat.abort();
    Ok(())
}
