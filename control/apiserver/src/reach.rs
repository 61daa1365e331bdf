//! The way into tenants' networks, for what a tenant has the server call: webhooks. There is no other: the server itself resolves no name of a
//! tenant's, and opens no connection to an address of theirs.

use std::sync::Arc;

use futures::future::BoxFuture;
use hypernetes_api::{ApiError, TenantId};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to a pod.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Who opens them.
pub trait Reach: Send + Sync {
    /// A port of a service of a tenant: of one of the pods behind it that are ready.
    ///
    /// # Errors
    /// There is no such service, no such port of it, or no pod behind it; or it does not answer.
    fn service<'a>(
        &'a self,
        tenant: &'a TenantId,
        namespace: &'a str,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Stream>, ApiError>>;
}

/// As the server has it, once it has been told.
pub type Way = Arc<dyn Reach>;
