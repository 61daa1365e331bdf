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

use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use hypernetes_api::{ApiError, TenantId};

use crate::{
    Inner,
    reach::{Reach, Stream},
};

/// A port of a Service, by what it is called there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServicePort<'a> {
    Number(u16),
    Name(&'a str),
}

/// The way by the nodes that have the pods, for as long as the server is there, which may have it in turn. Cheap to clone.
#[derive(Clone)]
pub struct Relay(Weak<Inner>);

impl Relay {
    pub(crate) fn new(server: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(server))
    }

    /// Connects to a pod of a Service of the tenant's.
    ///
    /// # Errors
    /// `NotFound`: there is no such Service; `ServiceUnavailable`: nothing of it can be reached; `TooManyRequests`: the tenant has
    /// too many of these connections on the node.
    pub async fn connect_service(
        &self,
        tenant: &TenantId,
        namespace: &str,
        name: &str,
        port: ServicePort<'_>,
    ) -> Result<Box<dyn Stream>, ApiError> {
        let server = self.0.upgrade().ok_or_else(|| ApiError::internal("the server has ended"))?;
        let (pod, port) = service::resolve(&server, tenant, namespace, name, port).await?;
        Ok(Box::new(stream::connect(&server, tenant, &pod, port).await?))
    }
}

impl Reach for Relay {
    fn service<'a>(
        &'a self,
        tenant: &'a TenantId,
        namespace: &'a str,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Stream>, ApiError>> {
        Box::pin(self.connect_service(tenant, namespace, name, ServicePort::Number(port)))
    }
}
