//! The way to a node: a TLS connection with its kubelet, which both have shown who they are on.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hypernetes_api::{ApiError, Reason, TenantId};
use hypernetes_store::{Key, ResourceId};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Inner,
    serving::{TlsConfig, TlsError},
    stored_form,
};

/// Time to reach a kubelet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How kubelets are reached: with a certificate of infrastructure.
pub struct KubeletClient(TlsConnector);

impl KubeletClient {
    /// With the authority of the kubelets' certificates.
    ///
    /// # Errors
    /// When that is none.
    pub fn new(identity: &TlsConfig) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(identity.authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        let shown = Arc::new(identity.shown.clone());
        let config = ClientConfig::builder().with_root_certificates(roots).with_client_cert_resolver(shown);
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

/// A connection with a kubelet.
pub(crate) struct Channel {
    pub stream: TlsStream<TcpStream>,
    /// Where that is.
    pub authority: SocketAddr,
}

/// Connects to the kubelet of the node of that name.
///
/// # Errors
/// `ServiceUnavailable`.
pub(crate) async fn connect(server: &Inner, node: &str) -> Result<Channel, ApiError> {
    let client = server.kubelets.get().ok_or_else(|| unavailable(node, "this server has no credentials for it"))?;
    let key = Key::new(&ResourceId::new("", "nodes"), &TenantId::system(), "", node)
        .map_err(|_| unavailable(node, "it is not registered"))?;
    let entry = server.store.get(&key).await?;
    let node_object = stored_form::decode(&entry.ok_or_else(|| unavailable(node, "it is not registered"))?)?;
    let addresses = node_object["status"]["addresses"].as_array();
    let address =
        addresses.into_iter().flatten().find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str());
    let address: IpAddr = address.and_then(|a| a.parse().ok()).ok_or_else(|| unavailable(node, "it has no address"))?;
    let port = node_object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).ok_or_else(|| unavailable(node, "it has no port"))?;
    // Its name, and not where it says that it is: a node has certificates for its own name alone.
    let name = ServerName::try_from(node.to_owned()).map_err(|_| unavailable(node, "it has no name of a host"))?;
    let connect = async {
        let stream = TcpStream::connect((address, port)).await?;
        let _ = stream.set_nodelay(true);
        client.0.connect(name, stream).await
    };
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unavailable(node, &error.to_string())),
        Err(_) => return Err(unavailable(node, "it does not answer")),
    };
    Ok(Channel { stream, authority: SocketAddr::from((address, port)) })
}

/// For a request that a node has not answered.
pub(crate) fn unavailable(node: &str, why: &str) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, format!("the kubelet of node {node:?} cannot be reached: {why}"))
}
