//! Byte streams into tenants' networks: from the gateway of a port on this host to that port, and to nothing else.
//!
//! ```text
//! who asks ─▶ tenant, network, address ─▶ the port that has it here ─▶ socket in its namespace, bound to its tap ─▶ guest
//! ```
//!
//! The socket is made by a thread in the network's namespace, and belongs there whoever uses it. It is bound to the port's own tap,
//! so that whatever becomes of the address, no packet of it leaves by anything else. Names are not resolved here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use hypernetes_api::TenantId;
use hypernetes_names::ObjectName;
use tokio::net::TcpStream;

use crate::{Error, agent::Agent, domain::Leading};

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way into the networks of one host. Cheap to clone.
#[derive(Clone)]
pub struct Relay(Arc<Agent>);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("no port of the network {network:?} that is connected on this host has the address {address}")]
    NoPort { network: ObjectName, address: IpAddr },
    /// Nothing of the network is nobody's but its gateway, so there is no address to come from.
    #[error("the network {0:?} has no gateway, from which connections come")]
    NoGateway(ObjectName),
    #[error(transparent)]
    Host(#[from] Error),
    #[error("connecting to {to}: {source}")]
    Connect { to: SocketAddr, source: io::Error },
    #[error("connecting to {0}: no answer within {seconds} s", seconds = PATIENCE.as_secs())]
    Silent(SocketAddr),
}

impl Relay {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self(agent)
    }

    /// Connects to a port of exactly this tenant's network (by its object's name) that is connected on this host.
    ///
    /// # Errors
    /// [`RelayError`]; it takes [`PATIENCE`] at most.
    pub async fn connect(
        &self,
        tenant: &TenantId,
        network: &ObjectName,
        address: IpAddr,
        port: NonZeroU16,
    ) -> Result<TcpStream, RelayError> {
        let to = SocketAddr::new(address, port.get());
        let connect = async {
            let no_port = || RelayError::NoPort { network: network.clone(), address };
            // Ports have no others yet.
            let IpAddr::V4(ip) = address else { return Err(no_port()) };
            let socket = match self.0.socket_to(tenant, network, ip).await?.ok_or_else(no_port)? {
                Leading::Socket(socket) => socket,
                Leading::NoGateway => return Err(RelayError::NoGateway(network.clone())),
            };
            let stream = socket.connect(to).await.map_err(|source| RelayError::Connect { to, source })?;
            let _ = stream.set_nodelay(true);
            Ok(stream)
        };
        tokio::time::timeout(PATIENCE, connect).await.unwrap_or(Err(RelayError::Silent(to)))
    }
}
