//! What the kubelet serves to the API server, and to nobody else: logs, exec, attach, port-forward, relay.
//!
//! The paths are upstream's behind the tenant (`/clusters/<tenant>/containerLogs/…`): two tenants' pods may have the same
//! names. Streams are handed on to the runtime's own streaming server, which alone understands what is in them; those into
//! tenants' networks to the host's network agent.

mod log_reader;
mod logs;
mod lookup;
mod relay;
mod request;
mod streaming;
mod tls;

use std::sync::Arc;

use axum::{
    Router,
    routing::{any, get},
};
use http::StatusCode;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub use tls::acceptor;

use super::Shared;

const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

pub async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let router = router(shared);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
            let chain = stream.get_ref().1.peer_certificates();
            let router = if chain.and_then(<[_]>::first).is_some_and(tls::is_infrastructure) {
                router
            } else {
                Router::new().fallback(async || (StatusCode::FORBIDDEN, "only the API server is answered here"))
            };
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router))
                .await;
        });
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/clusters/{tenant}/containerLogs/{namespace}/{pod}/{container}", get(logs::container_logs))
        .route("/clusters/{tenant}/exec/{namespace}/{pod}/{container}", any(streaming::exec))
        .route("/clusters/{tenant}/attach/{namespace}/{pod}/{container}", any(streaming::attach))
        .route("/clusters/{tenant}/portForward/{namespace}/{pod}", any(streaming::port_forward))
        .route("/clusters/{tenant}/relay/{network}/{address}/{port}", get(relay::relay))
        .with_state(shared)
}
