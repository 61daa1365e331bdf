//! Cinder v3: a façade over the Volume and Attachment objects of each tenant's logical cluster, and the controller that
//! brings them about in a backend.
#![forbid(unsafe_code)]

mod api;
mod backend;
mod controller;

#[cfg(test)]
#[allow(clippy::disallowed_types)] // as a stock client
mod tests;

use std::{path::PathBuf, sync::Arc};

use hypernetes_api::{AllTenants, auth::TokenAuthority};
use hypernetes_client::Clients;
use hypernetes_runtime::{Recorder, Term};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use backend::{Backend, BackendError, FileBackend, VolumeId};

/// Largest volume where the operator says nothing else: what ext4 can hold in one file.
const DEFAULT_MAX_BYTES: u64 = 16 << 40;

/// What an operator may choose.
#[derive(Debug, Clone)]
pub struct VolumesConfig {
    /// Of the files of the file backend.
    pub directory: PathBuf,
    /// Where clients reach the server, e.g. `https://cloud.example:6443`: what links begin with.
    pub public_url: String,
    /// Larger volumes are refused.
    pub max_bytes: u64,
}

impl VolumesConfig {
    pub fn new(directory: impl Into<PathBuf>, public_url: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            public_url: public_url.into().trim_end_matches('/').to_owned(),
            max_bytes: DEFAULT_MAX_BYTES,
        }
    }
}

/// The volume service. Stops working when the last reference is dropped.
pub struct Volumes {
    clients: Clients,
    config: VolumesConfig,
    backend: Arc<dyn Backend>,
    acting: Option<JoinHandle<()>>,
}

impl Volumes {
    /// Over files. It acts where and when it is told to ([`Volumes::act`]).
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(clients: &Clients, config: VolumesConfig) -> Result<Arc<Self>, BackendError> {
        let backend = Arc::new(FileBackend::new(config.directory.clone())?);
        Ok(Arc::new(Self { clients: clients.clone(), config, backend, acting: None }))
    }

    /// [`Volumes::new`] of the only server: it looks after all tenants' volumes from now on. Must be called within a tokio
    /// runtime; the API server need not answer yet.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn start(clients: &Clients, all: AllTenants, config: VolumesConfig) -> Result<Arc<Self>, BackendError> {
        let backend = Arc::new(FileBackend::new(config.directory.clone())?);
        Ok(Self::with_backend(clients, all, config, backend))
    }

    /// [`Volumes::start`] with a backend of one's own.
    pub fn with_backend(
        clients: &Clients,
        all: AllTenants,
        config: VolumesConfig,
        backend: Arc<dyn Backend>,
    ) -> Arc<Self> {
        let mut service = Self { clients: clients.clone(), config, backend, acting: None };
        service.acting = Some(tokio::spawn(service.act(all, Term::alone(CancellationToken::new()))));
        Arc::new(service)
    }

    /// Looks after all tenants' volumes for a term.
    pub fn act(&self, all: AllTenants, term: Term) -> impl Future<Output = ()> + Send + 'static {
        let clients = term.clients(&self.clients);
        let controller = controller::Controller {
            events: Recorder::new(clients.clone(), controller::NAME),
            clients,
            backend: self.backend.clone(),
            max_bytes: self.config.max_bytes,
        };
        async move {
            let _ = term.stop().run_until_cancelled(Arc::new(controller).run(all)).await;
        }
    }

    /// Serves the volume API; to be nested at `/volume`.
    pub fn router(self: &Arc<Self>, authority: Arc<dyn TokenAuthority>) -> axum::Router {
        api::router(Arc::clone(self), authority)
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        self.acting.iter().for_each(JoinHandle::abort);
    }
}
