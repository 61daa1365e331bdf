//! What a kubelet is given, and why it cannot begin.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use hypernetes_api::AllTenants;
use hypernetes_client::Clients;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::relay::Relay;

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
    /// The way into tenants' networks.
    pub relay: Arc<dyn Relay>,
}

/// Of the kubelet's own API.
#[derive(Clone)]
pub struct ServerTls {
    pub serving: Serving,
    /// PEM.
    pub client_authority: String,
}

/// The kubelet's own certificate, which may come later and be renewed while it serves. Without one nobody is answered.
#[derive(Clone, Default)]
pub struct Serving(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl Serving {
    /// Serves with this from now on: PEM texts.
    ///
    /// # Errors
    /// [`KubeletError::Tls`] when they are none.
    pub fn set(&self, certificate: &str, key: &str) -> Result<(), KubeletError> {
        let text = |error: &dyn fmt::Display| KubeletError::Tls(error.to_string());
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| text(&error))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| text(&error))?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| text(&error))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }
}

/// Its key is not for logs.
impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serving")
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
