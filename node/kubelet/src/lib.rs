//! The kubelet: keeps the pods of this node, of all tenants, running through a CRI runtime.
//!
//! ```text
//! API (watch: pods bound here) ──▶ manager ──▶ one worker a pod ──▶ CRI ──▶ sandbox, containers
//!                                   ▲               │ volumes, environment
//!                    CRI events ────┘               └──▶ status, events ──▶ API
//! ```
//!
//! Nothing is kept but in the API and in the runtime: after its own death the kubelet finds its pods again by their labels.
//!
//! `pods` is the set of them, `pod` is one, `node` is what they have in common; each uses those that come after it, none those
//! before. `pod_dir`, `identity`, `quantity` and `relay` know nothing of the others.
#![forbid(unsafe_code)]

mod config;
mod identity;
mod node;
mod pod;
mod pod_dir;
mod pods;
mod quantity;
mod relay;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use tokio_util::sync::CancellationToken;

pub use config::{KubeletConfig, KubeletError, ServerTls, Serving};
pub use relay::{Destination, Relay, RelayError, Stream};

use self::{
    node::{Shared, registration, server},
    pod::volumes,
    pod_dir::PodDirs,
    pods::{manager, tenants},
};

/// Takes away what pods have in memory on this host, so that `root` can be removed. No kubelet may run, nor the pods' VMs.
///
/// # Errors
/// [`KubeletError::Directory`]
pub fn drop_memory(root: &Path) -> Result<(), KubeletError> {
    let path = root.join("pods");
    let drop = || -> std::io::Result<()> {
        let pods = PodDirs::open(&path)?;
        for uid in pods.uids()? {
            if let Some(dir) = pods.find(uid)? {
                volumes::drop_memory(&dir)?;
            }
        }
        Ok(())
    };
    drop().map_err(|source| KubeletError::Directory { path, source })
}

/// Runs until `stop`; pods run on.
///
/// # Errors
/// When it cannot begin: no runtime, no place to listen.
pub async fn run(
    config: KubeletConfig,
    stop: CancellationToken,
    ready: impl FnOnce() + Send + 'static,
) -> Result<(), KubeletError> {
    let bind = config.bind;
    let acceptor = server::acceptor(&config.tls).map_err(KubeletError::Tls)?;
    let shared = Arc::new(Shared::new(config)?);
    let listener =
        tokio::net::TcpListener::bind(bind).await.map_err(|source| KubeletError::Listen { address: bind, source })?;
    let address = listener.local_addr().map_err(|source| KubeletError::Listen { address: bind, source })?;
    let serve = tokio::spawn(server::serve(listener, acceptor, shared.clone()));
    let heartbeat = tokio::spawn(registration::keep(shared.clone(), address, ready));
    let tenants = tokio::spawn(tenants::keep(shared.clone()));
    manager::run(shared, stop).await;
    tenants.abort();
    serve.abort();
    heartbeat.abort();
    Ok(())
}
