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
use hypernetes_runtime::Recorder;

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
    driver: &'static str,
    controller: tokio::task::JoinHandle<()>,
}

impl Volumes {
    /// Begins to look after all tenants' volumes, as files. Must be called within a tokio runtime; the API server need
    /// not answer yet.
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
        let driver = backend.driver();
        let controller = controller::Controller {
            clients: clients.clone(),
            backend,
            max_bytes: config.max_bytes,
            events: Recorder::new(clients.clone(), controller::NAME),
        };
        let controller = tokio::spawn(Arc::new(controller).run(all));
        Arc::new(Self { clients: clients.clone(), config, driver, controller })
    }

    /// Serves the volume API; to be nested at `/volume`.
    pub fn router(self: &Arc<Self>, authority: Arc<dyn TokenAuthority>) -> axum::Router {
        api::router(Arc::clone(self), authority)
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        self.controller.abort();
    }
}
