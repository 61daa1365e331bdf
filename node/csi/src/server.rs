//! The driver on its socket.

use std::{io, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

use crate::{
    CsiConfig,
    attachments::Attachments,
    identity::Identity,
    node::Node,
    target::Pods,
    v1::{identity_server::IdentityServer, node_server::NodeServer},
};

/// How long calls that are under way may take when the driver ends; what they leave undone is done again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    #[error("the kubelet's directory of pods {path}: {source}")]
    Pods { path: PathBuf, source: io::Error },
    #[error("listening on {path}: {source}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("serving the volume driver: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves the driver until `stop`; volumes stay published.
///
/// # Errors
/// When it cannot listen, or the socket fails.
pub async fn run(config: CsiConfig, stop: CancellationToken) -> Result<(), CsiError> {
    let pods = Pods::open(&config.pods_dir);
    let pods = pods.map_err(|source| CsiError::Pods { path: config.pods_dir.clone(), source })?;
    let listener = listen(&config).map_err(|source| CsiError::Listen { path: config.socket.clone(), source })?;
    tracing::info!(socket = %config.socket.display(), "the volume driver is ready");
    let attachments = Attachments { clients: config.clients, node: config.node_name, patience: config.patience };
    let node = Node { attachments, pods, under_way: Default::default() };
    let server = tonic::transport::Server::builder()
        .add_service(IdentityServer::new(Identity))
        .add_service(NodeServer::new(node))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
    tokio::pin!(server);
    tokio::select! {
        outcome = &mut server => outcome?,
        () = stop.cancelled() => {
            // One that waits for an attachment may be cut off at any moment.
            if let Ok(outcome) = tokio::time::timeout(DRAIN_TIMEOUT, server).await {
                outcome?;
            }
        }
    }
    Ok(())
}

/// Listens where root alone can connect.
fn listen(config: &CsiConfig) -> io::Result<UnixListener> {
    if let Some(directory) = config.socket.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Nobody can connect before it has its mode and its name; and it takes the place of an earlier driver's.
    let new = config.socket.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, &config.socket)?;
    Ok(listener)
}
