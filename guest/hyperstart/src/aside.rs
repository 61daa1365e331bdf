//! Work that may have to wait for the host, or for a process of the pod.

use tonic::Status;

/// Does what may touch a path of the host beside the agent's one thread: the answer would never come there.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}
