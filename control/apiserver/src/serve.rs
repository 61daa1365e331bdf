//! HTTPS: who a client's certificate says it is goes with each of its requests.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{authn, unread::ReadToEnd};

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 10_000;

/// PEM texts.
pub struct TlsConfig {
    pub certificate: String,
    pub key: String,
    /// The authority of client certificates. A client may come without one.
    pub client_authority: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificates: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("the certificates: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the authority of client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

fn server_config(config: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.client_authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?;
    let chain = CertificateDer::pem_slice_iter(config.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(config.key.as_bytes())?;
    let mut tls = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Serves until `stop`; requests that are under way then have a moment to end.
///
/// # Errors
/// When the certificates cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: axum::Router,
    config: &TlsConfig,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(config)?));
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others will end.
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
            let shown = stream.get_ref().1.peer_certificates();
            let certificate = shown.map(|chain| chain.first().and_then(|first| authn::certificate(first)));
            let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
                let mut request = request.map(|body| Body::new(ReadToEnd::new(body)));
                if let Some(certificate) = &certificate {
                    request.extensions_mut().insert(certificate.clone());
                }
                router.clone().oneshot(request)
            });
            let builder = Builder::new(TokioExecutor::new());
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(Duration::from_secs(2), connection).await;
                }
            }
        });
    }
}
