//! The unix socket that the CNI plugin talks to.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use crate::{
    Error,
    agent::Agent,
    cni::protocol::{Failure, MAX_MESSAGE, Reply, code},
};

/// How long a plugin may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens where root alone can connect.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Error> {
    let bind = || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // Nobody can connect before it has its mode and its name; and it takes the place of an earlier agent's.
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, path)?;
        Ok(listener)
    };
    bind().map_err(|source| Error::Socket { path: path.into(), source })
}

/// Answers until the future is dropped.
pub(crate) async fn serve(listener: UnixListener, agent: &Agent) {
    let mut conversations = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => conversations.push(converse(stream, agent)),
                Err(error) => {
                    tracing::warn!(%error, "accepting a plugin's connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = conversations.next() => {}
        }
    }
}

async fn converse(mut stream: UnixStream, agent: &Agent) {
    let mut request = Vec::new();
    let mut limited = (&mut stream).take(MAX_MESSAGE);
    let reading = limited.read_to_end(&mut request);
    if !matches!(tokio::time::timeout(PATIENCE, reading).await, Ok(Ok(_))) {
        return;
    }
    let reply: Reply = match serde_json::from_slice(&request) {
        Ok(request) => agent.answer(request).await,
        Err(error) => Err(Failure::new(code::DECODE, format!("the plugin's request: {error}"))),
    };
    // Whoever has gone away does not want to know.
    if let Ok(reply) = serde_json::to_vec(&reply) {
        let _ = stream.write_all(&reply).await;
    }
}
