//! What the runtime says of containers, for the pods that they belong to and for followers of logs.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::node::Shared;

/// Whose containers change, by pod uid; connects again for ever.
pub async fn follow(shared: Arc<Shared>, events: mpsc::Sender<String>) {
    loop {
        match shared.runtime.events().await {
            Ok(mut stream) => {
                while let Ok(Some(event)) = stream.message().await {
                    // Nobody need listen.
                    let _ = shared.container_events.send(event.container_id);
                    let metadata = event.pod_sandbox_status.and_then(|status| status.metadata);
                    if let Some(metadata) = metadata
                        && events.send(metadata.uid).await.is_err()
                    {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the runtime's events"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
