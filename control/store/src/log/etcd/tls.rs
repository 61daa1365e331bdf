//! How a connection to etcd is made secret: by the authority and the certificate that the operator gives. Files are read for each
//! connection, so that renewed ones are used.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::endpoints::{EndpointError, Endpoints};

#[derive(Clone)]
pub(super) struct Tls {
    authority: PathBuf,
    certificate: Option<(PathBuf, PathBuf)>,
    server: ServerName<'static>,
}

impl Tls {
    /// For the member at `url`, whose certificate has to be for `host`.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn new(url: &str, host: &str, endpoints: &Endpoints) -> Result<Self, EndpointError> {
        let authority = endpoints.authority.clone().ok_or_else(|| EndpointError::NoAuthority(url.to_owned()))?;
        let server = ServerName::try_from(host.to_owned()).map_err(|_| EndpointError::Url(url.to_owned()))?;
        let tls = Self { authority, certificate: endpoints.certificate.clone(), server };
        // Whether they can be used is said now rather than by each connection.
        tls.config()?;
        Ok(tls)
    }

    fn config(&self) -> Result<ClientConfig, EndpointError> {
        let of = unusable(&self.authority);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.authority).map_err(|e| of(&e))? {
            roots.add(certificate.map_err(|e| of(&e))?).map_err(|e| of(&e))?;
        }
        if roots.is_empty() {
            return Err(of(&"there is no certificate in it"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| of(&e))?.with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let of = unusable(certificate);
                let chain = CertificateDer::pem_file_iter(certificate).map_err(|e| of(&e))?;
                let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| of(&e))?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(key)(&e))?;
                config.with_client_auth_cert(chain, secret).map_err(|e| of(&e))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    pub async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(self.server.clone(), stream).await
    }
}

fn unusable(path: &Path) -> impl Fn(&dyn fmt::Display) -> EndpointError {
    let path = path.display().to_string();
    move |why| EndpointError::File { path: path.clone(), why: why.to_string() }
}
