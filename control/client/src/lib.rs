//! How every component reaches the API: a [`kube::Client`] bound to one logical cluster.
//!
//! A [`Clients`] makes them, over TLS or, inside the server process, over the API server's own tower service: the
//! same code either way. Reaching across tenants takes the [`AllTenants`] capability.
//!
//! Names become URLs through [`Api`] alone, whole kinds are followed by [`watch`], and whatever is asked by whom, it ends
//! ([`deadline`]) and asks for no more than it seems to (`path`).
#![forbid(unsafe_code)]

mod api;
pub mod deadline;
pub mod fence;
mod forward;
pub mod found_by;
mod path;
pub mod shared;
mod watch;

use std::{
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

pub use api::Api;
use bytes::Bytes;
pub use forward::forward;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hypernetes_api::{AllTenants, TenantId, names};
use kube::{Client, client::Body};
use tower::{BoxError, Service, ServiceExt, util::BoxCloneSyncService};
pub use watch::{Seen, readable, unreadable_objects, watch, watch_with};

/// The transport: from a request for a plain Kubernetes path to its response.
pub type Transport = BoxCloneSyncService<Request<Body>, Response<AnyBody>, BoxError>;

/// A response's body, whichever transport it came over.
pub type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// Makes clients of logical clusters. Cheap to clone.
#[derive(Clone)]
pub struct Clients {
    transport: Arc<dyn Fn() -> Transport + Send + Sync>,
}

impl Clients {
    /// Over any tower service that answers as the API server does: its own router, in memory.
    pub fn in_process<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + Send,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let transport = BoxCloneSyncService::new(
            service.map_response(|response: Response<B>| response.map(erase)).map_err(Into::into),
        );
        Self { transport: Arc::new(move || transport.clone()) }
    }

    /// Over TLS, as a kubeconfig or [`kube::Config`] says.
    ///
    /// # Errors
    /// When the configuration's certificates cannot be used.
    pub fn remote(config: kube::Config) -> Result<Self, kube::Error> {
        Self::renewable(config).map(|(clients, _)| clients)
    }

    /// [`Clients::remote`], with other credentials when there are some: what is asked from then on, by whatever client, is asked
    /// with those. What is under way ends as it began.
    ///
    /// # Errors
    /// As [`Clients::remote`].
    pub fn renewable(config: kube::Config) -> Result<(Self, Renewal), kube::Error> {
        // `kube::Client` is itself a service; it adds the base URI and the credentials.
        let client = kube::client::ClientBuilder::try_from(config)?.build();
        let renewal = Renewal(Arc::new(RwLock::new(client)));
        let transport: Transport = BoxCloneSyncService::new(SyncClient(renewal.clone()));
        Ok((Self { transport: Arc::new(move || transport.clone()) }, renewal))
    }

    /// The same clients, with something around what they reach the API by.
    #[must_use]
    pub fn layered(&self, layer: impl Fn(Transport) -> Transport + Send + Sync + 'static) -> Self {
        let transport = self.transport.clone();
        Self { transport: Arc::new(move || layer(transport())) }
    }

    /// A client of one tenant's logical cluster.
    pub fn tenant(&self, tenant: &TenantId) -> Client {
        self.with_prefix(tenant.as_str())
    }

    /// A client that lists and watches all logical clusters at once (`/clusters/*`). Every object it returns has the
    /// annotation [`names::TENANT_ANNOTATION`]; [`tenant_of`] reads it. Writing goes through [`Clients::tenant`].
    pub fn all_tenants(&self, _capability: &AllTenants) -> Client {
        self.with_prefix(names::ALL_CLUSTERS)
    }

    fn with_prefix(&self, cluster: &str) -> Client {
        let service = InCluster { prefix: format!("/clusters/{cluster}").into(), inner: (self.transport)() };
        Client::new(service, "default")
    }
}

fn erase<B>(body: B) -> AnyBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// The tenant of an object that came from [`Clients::all_tenants`].
pub fn tenant_of<K: kube::Resource>(object: &K) -> Option<TenantId> {
    object.meta().annotations.as_ref()?.get(names::TENANT_ANNOTATION)?.parse().ok()
}

/// Puts `/clusters/<tenant>` before the path of each request, and ends what lasts too long.
#[derive(Clone)]
struct InCluster {
    prefix: Arc<str>,
    inner: Transport,
}

impl Service<Request<Body>> for InCluster {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // kube names its call in the request's extensions.
        let call = request.extensions().get::<&'static str>().copied();
        match path::within(&self.prefix, request.uri(), call) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return Box::pin(async move { Err(Box::new(error) as BoxError) }),
        }
        let limit = deadline::Limit::of(request.uri());
        Box::pin(deadline::hold(limit, self.inner.call(request)))
    }
}

/// What [`Clients::renewable`] asks with.
#[derive(Clone)]
pub struct Renewal(Arc<RwLock<Client>>);

impl Renewal {
    /// Asks with these credentials from now on.
    ///
    /// # Errors
    /// When they cannot be used: then nothing changes.
    pub fn set(&self, config: kube::Config) -> Result<(), kube::Error> {
        let client = kube::client::ClientBuilder::try_from(config)?.build();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    fn current(&self) -> Client {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// [`Client::send`] as a service.
#[derive(Clone)]
struct SyncClient(Renewal);

impl Service<Request<Body>> for SyncClient {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.0.current();
        Box::pin(async move { Ok(client.send(request).await?.map(erase)) })
    }
}
