//! The way to a runtime's unix socket, for every client of CRI and of hyperd.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Nobody serves the socket.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {socket}: is hyperd running?")]
pub struct ConnectError {
    pub socket: PathBuf,
    pub source: tonic::transport::Error,
}

/// Connects to a runtime.
///
/// # Errors
/// When nobody serves the socket.
pub async fn connect(socket: &Path) -> Result<Channel, ConnectError> {
    let connected = endpoint().connect_with_connector(connector(socket)).await;
    connected.map_err(|source| ConnectError { socket: socket.into(), source })
}

/// A channel that connects when it is used, and again after the runtime was started anew.
pub fn connect_lazily(socket: &Path) -> Channel {
    endpoint().connect_with_connector_lazy(connector(socket))
}

fn endpoint() -> Endpoint {
    // The connector goes elsewhere; this becomes the `:authority`.
    Endpoint::from_static("http://runtime")
}

fn connector(
    socket: &Path,
) -> impl tower::Service<
    tonic::transport::Uri,
    Response = TokioIo<UnixStream>,
    Error = std::io::Error,
    Future = impl Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send,
> + Send
+ 'static {
    let socket = socket.to_owned();
    tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    })
}
