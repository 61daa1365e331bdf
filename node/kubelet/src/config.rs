//! What a kubelet is given, and why it cannot begin.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use hypernetes_api::AllTenants;
use hypernetes_client::Clients;

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
