//! HTTPS: who a client's certificate says it is goes with each of its requests.
//!
//! Nobody keeps a place by doing nothing: every part of a connection has a deadline.

mod drain_body;
mod gate;
mod patience;
mod roaming;
mod shown;
mod streams;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use http::Request;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use hypernetes_api::auth::{Source, Spent};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::gate::Gate;
pub use self::shown::Shown;
use crate::{
    answer::error_response,
    audit::event::Peer,
    authentication::{
        self, Certificate,
        authorities::{Authorities, client::Verifier},
    },
    fairness::payer::Payer,
    fairness::{
        background,
        held::Held,
        places::{Limits, Place, Places},
    },
    serving::{drain_body::ReadToEnd, patience::Patient, roaming::Roaming, streams::Streams},
};

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To agree on TLS.
    pub handshake: Duration,
    /// Until the header of the first request is there.
    pub header: Duration,
    /// From an answer to the header of the next request.
    pub idle: Duration,
    /// To send a request's body.
    pub body: Duration,
    /// To read something of what is being sent to it.
    pub read: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { handshake: seconds(10), header: seconds(15), idle: seconds(180), body: seconds(30), read: seconds(300) }
    }
}

/// HTTP/2 streams of one connection at a time.
const MAX_STREAMS: u32 = 250;

/// Bytes that wait in the kernel to be sent. Else these are as many as `tcp_wmem` allows, megabytes of a connection, all of which
/// has been made and encrypted for whoever reads none of it. What is on its way does not count: no reader is slower by it.
const MAX_UNSENT: u32 = 128 << 10;

/// Connections that wait to be accepted. What comes when there are more is not answered, and comes again after a second.
const BACKLOG: u32 = 4096;

/// A listener for [`serve`].
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What is shown, and whom it is shown to.
pub struct TlsConfig {
    pub shown: Shown,
    /// The system's authority of the other end's certificates, PEM. A client may come without one.
    pub authority: String,
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

fn server_config(config: &TlsConfig, tenants: Authorities) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let system = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?;
    let verifier = Arc::new(Verifier::new(system, tenants));
    let shown = Arc::new(config.shown.clone());
    let mut tls = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(shown);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Serves until `stop`, those with certificates of the system's authority and of the tenants' own; requests that are under way then have a moment to end.
///
/// # Errors
/// When the certificates cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: axum::Router,
    config: &TlsConfig,
    tenants: Authorities,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    serve_within(listener, router, config, tenants, Limits::of_process(), Deadlines::default(), stop).await
}

/// As [`serve`], with limits of one's own.
///
/// # Errors
/// When the certificates cannot be used.
pub async fn serve_within(
    listener: TcpListener,
    router: axum::Router,
    config: &TlsConfig,
    tenants: Authorities,
    limits: Limits,
    deadlines: Deadlines,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(config, tenants.clone())?));
    let places = Places::new(limits);
    let mut gate = Gate::new(&listener);
    loop {
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = gate.is_due() => {
                gate.open();
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others will end.
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let source = Source::from(address.ip());
        // Who finds no place is hung up on: one that waited would be in the way of the others.
        let Some(place) = places.take(source) else {
            gate.shut(source);
            continue;
        };
        let (acceptor, router, tenants, stop) = (acceptor.clone(), router.clone(), tenants.clone(), stop.clone());
        let payer = Payer::source(place.pace());
        background::spawn(payer.clone(), async move {
            let _ = stream.set_nodelay(true);
            if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT) {
                tracing::warn!(%error, "limiting what waits to be sent");
            }
            // Who is not known without the store is refused; the others are served all the same.
            if let Err(error) = tenants.catch_up().await {
                tracing::warn!(%error, "reading the tenants' authorities");
            }
            // A handshake is the dearest thing that nobody can ask for.
            let Ok(turn) = payer.turn().await else { return };
            let accepting = payer.admitted(acceptor.accept(Patient::new(Roaming::new(stream), deadlines.read)));
            let Ok(Ok(stream)) = tokio::time::timeout(deadlines.handshake, accepting).await else { return };
            drop(turn);
            let shown = stream.get_ref().1.peer_certificates();
            let certificate =
                shown.map(|chain| chain.first().and_then(|first| authentication::certificate(first)).map(Arc::new));
            let system = certificate.iter().flatten().any(|certificate| certificate.user.tenant.is_system());
            if system {
                payer.is_system();
            }
            if place.settle(system) {
                let peer = Peer(address.ip());
                connection(stream, router, Client { certificate, peer, source, place, payer }, deadlines, stop).await;
            }
        });
    }
}

/// The other end of a connection.
struct Client {
    /// What it has shown, and whose that is: perhaps nobody's.
    certificate: Option<Option<Arc<Certificate>>>,
    peer: Peer,
    source: Source,
    place: Place,
    payer: Payer,
}

async fn connection(
    stream: TlsStream<Patient<Roaming>>,
    router: axum::Router,
    client: Client,
    deadlines: Deadlines,
    stop: CancellationToken,
) {
    let Client { certificate, peer, source, place, payer } = client;
    let place = Arc::new(place);
    // Held by every request until its answer has been sent.
    let (busy, asked) = (Arc::new(()), Arc::new(AtomicBool::new(false)));
    let service = {
        let (busy, asked, payer) = (busy.clone(), asked.clone(), payer.clone());
        tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            asked.store(true, Ordering::Relaxed);
            place.asks();
            let mut request = request.map(|body| Body::new(ReadToEnd::new(body, deadlines.body)));
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(certificate.clone());
            }
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(source);
            request.extensions_mut().insert(payer.clone());
            request.extensions_mut().insert(place.clone());
            let (router, busy, payer) = (router.clone(), busy.clone(), payer.clone());
            async move {
                // Until the answer is made.
                let response = match payer.turn().await {
                    Ok(_turn) => {
                        let response = router.oneshot(request).await?;
                        if let Some(Spent { cost, .. }) = response.extensions().get() {
                            payer.charge(*cost);
                        }
                        response
                    }
                    Err(error) => error_response(&error),
                };
                Ok::<_, std::convert::Infallible>(response.map(|body| Body::new(Held::new(body, busy))))
            }
        })
    };
    let others = Arc::strong_count(&busy);
    let streams = Streams::new(payer.clone());
    let mut builder = Builder::new(streams.clone());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(deadlines.idle);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let mut tick = tokio::time::interval((deadlines.header / 2).max(Duration::from_millis(1)));
    let mut last_busy = Instant::now();
    loop {
        tokio::select! {
            _ = payer.charged(streams.polled(connection.as_mut())) => return,
            () = stop.cancelled() => break,
            _ = tick.tick() => {
                if Arc::strong_count(&busy) > others {
                    last_busy = Instant::now();
                }
                let patience = if asked.load(Ordering::Relaxed) { deadlines.idle } else { deadlines.header };
                if last_busy.elapsed() > patience {
                    break;
                }
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(Duration::from_secs(2), connection).await;
}
