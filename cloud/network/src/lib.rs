//! Neutron v2.0: a façade over the Network, Subnet and Port objects of each tenant's logical cluster, and the
//! controllers that give networks their segments, ports their addresses and pods their ports.
//!
//! ```text
//! watches ─▶ state (objects, books of addresses) ─▶ queue ─▶ workers ─▶ API server
//!              ▲                                                          │
//!            Neutron API ── writes ───────────────────────────────────────┘
//! ```
//! One server at a time may do this: the books are this process's own, made from the objects at its start.
#![forbid(unsafe_code)]

mod address_book;
mod api;
mod controller;
mod ipam;
mod macs;
mod queue;
mod ranges;
mod segments;
mod state;
mod subnet;

#[cfg(test)]
#[allow(clippy::disallowed_types)] // as a stock client
mod tests;

use std::sync::Arc;

use hypernetes_api::{AllTenants, auth::TokenAuthority};
use hypernetes_client::Clients;

use state::State;

/// Bytes that VXLAN over IPv4 leaves of Ethernet's 1500.
pub(crate) const DEFAULT_MTU: u32 = 1450;

/// What an operator may choose.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where clients reach the server, e.g. `https://cloud.example:6443`: what links begin with.
    pub public_url: String,
}

impl NetworkConfig {
    pub fn new(public_url: impl Into<String>) -> Self {
        Self { public_url: public_url.into().trim_end_matches('/').to_owned() }
    }
}

/// The network service. Stops working when the last reference is dropped.
pub struct NetworkService {
    clients: Clients,
    tokens: Arc<dyn TokenAuthority>,
    config: NetworkConfig,
    state: Arc<State>,
    /// Held while a client's port is made: until then its address is kept under a name that others may try, too.
    making_port: tokio::sync::Mutex<()>,
    controller: tokio::task::JoinHandle<()>,
}

impl NetworkService {
    /// Begins to look after all tenants' networks, in the background: the API server need not answer yet. Must be
    /// called within a tokio runtime.
    pub fn start(
        clients: &Clients,
        all: AllTenants,
        tokens: Arc<dyn TokenAuthority>,
        config: NetworkConfig,
    ) -> Arc<Self> {
        let state = Arc::new(State::new());
        let controller = controller::Controller::new(clients.clone(), Arc::clone(&state));
        let controller = tokio::spawn(Arc::new(controller).run(all));
        let making_port = tokio::sync::Mutex::default();
        Arc::new(Self { clients: clients.clone(), tokens, config, state, making_port, controller })
    }

    /// Serves the network API at `/networking`.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        api::router(Arc::clone(self))
    }
}

impl Drop for NetworkService {
    fn drop(&mut self) {
        self.controller.abort();
    }
}
