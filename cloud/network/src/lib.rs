//! Neutron v2.0: a façade over the Network, Subnet and Port objects of each tenant's logical cluster, and the
//! controllers that give networks their segments, ports their addresses and pods their ports.
//!
//! ```text
//! watches ─▶ state (objects, books of addresses) ─▶ queue ─▶ workers ─▶ API server
//!              ▲                                                          │
//!            Neutron API ── writes ───────────────────────────────────────┘
//! ```
//! Every server follows, and serves the API; one of them has workers ([`NetworkService::act`]). The books are each
//! process's own, and of two that give the same address or segment at the same time the API server refuses one: who was
//! refused knows then that it is taken (docs/decisions/0036).
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
mod taken;

#[cfg(test)]
#[allow(clippy::disallowed_types)] // as a stock client
mod tests;

use std::sync::Arc;

use hypernetes_api::{AllTenants, auth::TokenAuthority};
use hypernetes_client::Clients;
use hypernetes_runtime::Term;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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
    /// Of all tenants' objects.
    everyone: kube::Client,
    tokens: Arc<dyn TokenAuthority>,
    config: NetworkConfig,
    state: Arc<State>,
    /// Held while a client's port is made: until then its address is kept under a name that others may try, too.
    making_port: tokio::sync::Mutex<()>,
    background: Vec<JoinHandle<()>>,
}

impl NetworkService {
    /// Begins to follow all tenants' networks, in the background: the API server need not answer yet. Must be called
    /// within a tokio runtime.
    pub fn follow(
        clients: &Clients,
        all: AllTenants,
        tokens: Arc<dyn TokenAuthority>,
        config: NetworkConfig,
    ) -> Arc<Self> {
        Arc::new(Self::following(clients, &all, tokens, config))
    }

    /// [`NetworkService::follow`] of the only server: it acts, too.
    pub fn start(
        clients: &Clients,
        all: AllTenants,
        tokens: Arc<dyn TokenAuthority>,
        config: NetworkConfig,
    ) -> Arc<Self> {
        let mut service = Self::following(clients, &all, tokens, config);
        let acting = service.act(Term::alone(CancellationToken::new()));
        service.background.push(tokio::spawn(acting));
        Arc::new(service)
    }

    fn following(clients: &Clients, all: &AllTenants, tokens: Arc<dyn TokenAuthority>, config: NetworkConfig) -> Self {
        let state = Arc::new(State::new());
        let everyone = clients.all_tenants(all);
        let (followed, client) = (Arc::clone(&state), everyone.clone());
        let follower = tokio::spawn(async move { controller::follow_all(&followed, client).await });
        let making_port = tokio::sync::Mutex::default();
        Self { clients: clients.clone(), everyone, tokens, config, state, making_port, background: vec![follower] }
    }

    /// Gives networks their segments, ports their addresses and pods their ports, for a term.
    pub fn act(&self, term: Term) -> impl Future<Output = ()> + Send + 'static {
        let controller = controller::Controller::new(term.clients(&self.clients), Arc::clone(&self.state));
        async move {
            let _ = term.stop().run_until_cancelled(Arc::new(controller).run()).await;
        }
    }

    /// Serves the network API at `/networking`.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        api::router(Arc::clone(self))
    }
}

impl Drop for NetworkService {
    fn drop(&mut self) {
        self.background.iter().for_each(JoinHandle::abort);
    }
}
