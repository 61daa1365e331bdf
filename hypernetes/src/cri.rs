//! The runtime's socket, as the commands reach it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

/// Connects to hyperd.
///
/// # Errors
/// When nobody serves the socket.
pub async fn connect(socket: PathBuf) -> Result<Channel> {
    let text = socket.display().to_string();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://hyperd");
    endpoint
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("{text}: is hyperd running (hypernetes up)?"))
}
