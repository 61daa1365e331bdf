//! The dataplane of tenant networks on one host, and the CNI plugin that connects pods to it.
//!
//! Each network that has a pod on the host is one network namespace with a tap per pod. The namespace routes between its
//! taps and to nowhere else: it has no link to the host or to another network, so that equal addresses never meet.
//! Guests see a plain subnet, because the namespace answers ARP for every address that it has a route to.
//!
//! What hyperd's CNI plugin asks for is answered from the tenants' Port objects ([`agent`]); what was done is kept in
//! small records ([`records`]) from which a restarted agent takes everything over.

mod agent;
pub mod cni;
mod domain;
mod error;
mod mirror;
mod names;
mod namespace;
mod nft;
mod records;
mod relay;
mod server;
mod status;
mod tap;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use hypernetes_api::AllTenants;
use hypernetes_client::Clients;

use agent::Agent;
pub use error::Error;
pub use relay::{Relay, RelayError};

/// Where networks' namespaces are mounted. `ip netns` looks there, too.
pub const NAMESPACES: &str = "/run/netns";

/// Longer than hyperd has a VM wait for the next pod.
const LINGER: Duration = Duration::from_secs(11 * 60);

/// What one host's agent needs to know.
#[derive(Clone)]
pub struct NetagentConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Directory of the agent's state.
    pub root: PathBuf,
    /// Unix socket that is served to the CNI plugin; root alone can use it.
    pub socket: PathBuf,
    /// Directory that network namespaces are mounted in.
    pub namespaces: PathBuf,
    /// How long the namespace of a network stays when nothing is connected to it any more: VMs that wait for its next pod have
    /// their taps in it.
    pub linger: Duration,
    pub clients: Clients,
    pub all: AllTenants,
}

impl NetagentConfig {
    pub fn new(
        node_name: impl Into<String>,
        root: impl Into<PathBuf>,
        socket: impl Into<PathBuf>,
        clients: Clients,
        all: AllTenants,
    ) -> Self {
        Self {
            node_name: node_name.into(),
            root: root.into(),
            socket: socket.into(),
            namespaces: NAMESPACES.into(),
            linger: LINGER,
            clients,
            all,
        }
    }
}

/// One host's agent, which has taken over what an earlier one has left.
pub struct Netagent {
    agent: Arc<Agent>,
    listener: tokio::net::UnixListener,
    all: AllTenants,
}

impl Netagent {
    /// # Errors
    /// When the state directory or the socket cannot be used.
    pub async fn open(config: NetagentConfig) -> Result<Self, Error> {
        let listener = server::bind(&config.socket)?;
        let agent = Arc::new(Agent::open(&config).await?);
        Ok(Self { agent, listener, all: config.all })
    }

    /// The way into the networks on this host. It leads nowhere before [`Netagent::run`] has read the ports.
    pub fn relay(&self) -> Relay {
        Relay::new(self.agent.clone())
    }

    /// Serves until the future is dropped. The API server need not answer yet; while it does not, what is connected stays
    /// connected.
    pub async fn run(self) {
        let Self { agent, listener, all } = self;
        tokio::join!(server::serve(listener, &agent), agent.follow(&all), agent.report(), agent.leave_unused());
    }
}

/// Removes what an earlier agent has left of networks that nothing is connected to any more.
///
/// # Errors
/// When the state directory cannot be used.
pub async fn leave_unused(config: &NetagentConfig) -> Result<(), Error> {
    Agent::open(config).await?.leave_all_unused().await;
    Ok(())
}
