//! Into a tenant's network and nowhere else: what the server calls of a tenant's is reached through the node that has its pod.
//!
//! ```text
//! tenant, Service ─▶ a ready pod ─▶ its Port: node, network, address ─▶ that node's kubelet ─▶ the network's namespace there
//! ```
//!
//! Names are looked up in the tenant's own objects, once; what goes to the node is an address, which the node checks again. Nothing
//! here resolves a name or connects to what a tenant says.

mod address;
mod service;
mod stream;

use futures::future::BoxFuture;
use hypernetes_api::{ApiError, TenantId};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Inner;

/// Bytes, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A port of a Service, by what it is called there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServicePort<'a> {
    Number(u16),
    Name(&'a str),
}

/// Reaches what tenants have.
pub trait Reach: Send + Sync {
    /// Connects to a pod of a Service of the tenant's.
    fn connect_service<'a>(
        &'a self,
        tenant: &'a TenantId,
        namespace: &'a str,
        name: &'a str,
        port: ServicePort<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Stream>, ApiError>>;
}

/// Connects to a pod of a Service of the tenant's: by the server's [`Reach`] where it was given one.
///
/// # Errors
/// `NotFound`: there is no such Service; `ServiceUnavailable`: nothing of it can be reached; `TooManyRequests`: the tenant has too
/// many of these connections on the node.
pub(crate) async fn connect_service(
    server: &Inner,
    tenant: &TenantId,
    namespace: &str,
    name: &str,
    port: ServicePort<'_>,
) -> Result<Box<dyn Stream>, ApiError> {
    if let Some(reach) = server.reach.get() {
        return reach.connect_service(tenant, namespace, name, port).await;
    }
    let (pod, port) = service::resolve(server, tenant, namespace, name, port).await?;
    Ok(Box::new(stream::connect(server, tenant, &pod, port).await?))
}
