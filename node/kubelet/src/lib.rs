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

mod acceptable;
mod admit;
mod container;
mod cri;
mod csi;
mod environment;
mod events;
mod guard;
mod identity;
mod logs;
mod manager;
mod node;
mod objects;
mod pod_dir;
mod probes;
mod qos;
mod quantity;
mod redact;
mod security;
mod server;
mod status;
mod tenants;
#[cfg(test)]
mod tests;
mod users;
mod volumes;
mod worker;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use hypernetes_api::{AllTenants, Uid};
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

/// Takes away what pods have in memory on this host, so that `root` can be removed. No kubelet may run, nor the pods' VMs.
///
/// # Errors
/// [`KubeletError::Directory`]
pub fn drop_memory(root: &Path) -> Result<(), KubeletError> {
    let path = root.join("pods");
    let drop = || -> std::io::Result<()> {
        let pods = pod_dir::PodDirs::open(&path)?;
        for uid in pods.names()?.iter().filter_map(|name| Uid::new(name.to_str()?).ok()) {
            if let Some(dir) = pods.find(uid)? {
                volumes::drop_memory(&dir)?;
            }
        }
        Ok(())
    };
    drop().map_err(|source| KubeletError::Directory { path, source })
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
    let bind = config.bind;
    let acceptor = server::acceptor(&config.tls).map_err(KubeletError::Tls)?;
    let shared = Arc::new(worker::Shared::new(config)?);
    let listener =
        tokio::net::TcpListener::bind(bind).await.map_err(|source| KubeletError::Listen { address: bind, source })?;
    let address = listener.local_addr().map_err(|source| KubeletError::Listen { address: bind, source })?;
    let serve = tokio::spawn(server::serve(listener, acceptor, shared.clone()));
    let heartbeat = tokio::spawn(node::keep(shared.clone(), address, ready));
    let tenants = tokio::spawn(tenants::keep(shared.clone()));
    manager::run(shared, stop).await;
    tenants.abort();
    serve.abort();
    heartbeat.abort();
    Ok(())
}
