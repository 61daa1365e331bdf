//! The kubelet's way into tenants' networks: the network agent's relay.

use futures::future::BoxFuture;
use hypernetes_kubelet::{Destination, Relay, RelayError, Stream};
use hypernetes_netagent::RelayError as Failure;

pub struct OfNetagent(pub hypernetes_netagent::Relay);

impl Relay for OfNetagent {
    fn connect(&self, to: Destination) -> BoxFuture<'_, Result<Box<dyn Stream>, RelayError>> {
        Box::pin(async move {
            let Destination { tenant, network, address, port } = &to;
            match self.0.connect(tenant, network, *address, *port).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn Stream>),
                Err(error @ Failure::NoPort { .. }) => Err(RelayError::NoPort(error.to_string())),
                // Where the node has what is for its log.
                Err(Failure::Host(error)) => {
                    tracing::warn!(%tenant, %network, %error, "relaying");
                    Err(RelayError::Unreachable("the node has no way into the network".into()))
                }
                Err(error) => Err(RelayError::Unreachable(error.to_string())),
            }
        })
    }
}
