//! The Kubernetes REST API over the store: one engine for every resource of the registry (`hypernetes_kinds`).
//!
//! ```text
//! TLS ─▶ layers (who, how much, may they) ─▶ read | write | watch | reviews | discovery ─▶ store
//! ```
#![forbid(unsafe_code)]

mod accept;
mod answer;
pub mod audit;
pub mod authentication;
mod authorization;
mod call;
mod cluster;
mod definitions;
mod directory;
mod discovery;
mod encryption_keys;
mod exemptions;
mod fairness;
mod follow;
mod from_start;
mod health;
mod kubelet_proxy;
mod layers;
mod made;
mod masters;
mod media;
mod metrics;
mod namespace_rules;
mod node_channel;
mod policies;
mod reach;
mod read;
mod relay;
mod request;
mod reviews;
mod serving;
mod snapshot;
mod stored_form;
mod tenants;
mod tokens;
mod warnings;
mod with_defaults;
mod write;

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use axum::body::Body;
use http::{Request, Response};
use hypernetes_api::{
    AllTenants, ApiError,
    auth::{TokenAuthority, UserInfo},
};
use hypernetes_kinds::Registry;
use hypernetes_store::{Store, Values};

use self::{
    audit::Audit,
    authentication::{Authenticator, authorities::Authorities},
    authorization::{Authorizer, graph::Graph, index::Index},
    call::Call,
    definitions::Definitions,
    directory::Directory,
    fairness::{accounts::Accounts, seats::Seats},
    metrics::Metrics,
    namespace_rules::NamespaceRules,
    policies::Policies,
    reach::Way,
    with_defaults::WithDefaults,
};
pub use exemptions::{Exemption, Exemptions, NoExemption};
pub use fairness::{
    background::background,
    budget::{Budget, TABLE as BUDGETS},
    places::Limits,
};
pub use made::{Made, made};
pub use node_channel::KubeletClient;
pub use reach::{Reach, Stream};
pub use relay::{Relay, ServicePort};
pub use serving::{Deadlines, Shown, TlsConfig, TlsError, listen, serve, serve_within};

/// What the store has to know of objects.
pub const VALUES: Values = Values {
    show: stored_form::show,
    keep: stored_form::keep,
    meter: fairness::meter::meter,
    index: read::selection::index,
};

/// What a server is made of.
pub struct Config {
    /// Opened with [`VALUES`].
    pub store: Arc<Store>,
    /// For answers that span tenants, which infrastructure asks for.
    pub all_tenants: AllTenants,
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

pub(crate) struct Inner {
    store: WithDefaults,
    definitions: Definitions,
    authenticator: Authenticator,
    all_tenants: AllTenants,
    kubelets: OnceLock<KubeletClient>,
    reach: OnceLock<Way>,
    directory: Arc<Directory>,
    graph: Graph,
    index: Index,
    rules: NamespaceRules,
    policies: Policies,
    underway: write::admission::Underway,
    accounts: Accounts,
    seats: Arc<Seats>,
    metrics: Arc<Metrics>,
    audit: OnceLock<Arc<Audit>>,
    exemptions: OnceLock<Exemptions>,
    rotation: encryption_keys::Rotation,
}

impl Inner {
    fn authorizer(&self) -> Authorizer<'_> {
        Authorizer { store: self.store.stored(), graph: &self.graph, index: &self.index }
    }
}

impl ApiServer {
    pub fn new(config: Config) -> Self {
        let Config { store, all_tenants } = config;
        let directory = Arc::new(Directory::new(store.clone()));
        let authorities = Authorities::new(store.clone());
        Self(Arc::new(Inner {
            authenticator: Authenticator::new(store.clone(), authorities, directory.clone(), &all_tenants),
            graph: Graph::new(store.clone(), &all_tenants),
            index: Index::new(store.clone(), &all_tenants),
            rules: NamespaceRules::new(store.clone(), &all_tenants),
            policies: Policies::new(store.clone(), &all_tenants),
            reach: OnceLock::new(),
            underway: Default::default(),
            directory,
            definitions: Definitions::new(store.clone(), &all_tenants),
            store: WithDefaults::new(store),
            all_tenants,
            kubelets: OnceLock::new(),
            accounts: Default::default(),
            seats: Arc::new(Seats::of_process()),
            metrics: Default::default(),
            audit: OnceLock::new(),
            exemptions: OnceLock::new(),
            rotation: Default::default(),
        }))
    }

    /// Who signs for whom.
    pub fn authorities(&self) -> Authorities {
        self.0.authenticator.authorities.clone()
    }

    /// Which resources each tenant sees.
    pub fn registry(&self) -> &Registry {
        self.0.definitions.registry()
    }

    /// Brings what an earlier version stored to where this one's writes expect it. Before anybody writes.
    ///
    /// # Errors
    /// The store's.
    pub async fn complete_store(&self) -> Result<(), ApiError> {
        write::unique::complete(self.0.store.stored(), &self.0.all_tenants).await
    }

    /// Holds the tenants to what their Projects say, for as long as it is polled.
    pub fn follow_tenants(&self) -> impl Future<Output = ()> + Send + 'static {
        let server = self.0.clone();
        async move {
            let Inner { directory, accounts, audit, .. } = &*server;
            tenants::follow(&tenants::Followers { store: server.store.stored(), directory, accounts, audit }).await;
        }
    }

    /// Lets in who has a Keystone token. Once.
    pub fn set_token_authority(&self, authority: Arc<dyn TokenAuthority>) {
        self.0.authenticator.set_token_authority(authority);
    }

    /// Lets logs, exec and so on through to the nodes. Once.
    pub fn set_kubelet_client(&self, client: KubeletClient) {
        let _ = self.0.kubelets.set(client);
    }

    /// Lets what tenants have the server call be called. Once.
    pub fn set_reach(&self, way: Arc<dyn Reach>) {
        let _ = self.0.reach.set(way);
    }

    /// The way into tenants' networks by their pods' nodes.
    pub fn relay(&self) -> Relay {
        Relay::new(&self.0)
    }

    /// Says whom Pod Security Standards are not for. Once.
    pub fn set_exemptions(&self, exemptions: Exemptions) {
        let _ = self.0.exemptions.set(exemptions);
    }

    /// Records what is asked for. Once.
    pub fn set_audit(&self, audit: Arc<Audit>) {
        let _ = self.0.audit.set(audit);
    }

    /// For requests from outside. What the TLS connection's certificate says is an `Option<`[`authentication::Certificate`]`>` in the
    /// request's extensions.
    pub fn router(&self) -> axum::Router {
        let server = self.clone();
        axum::Router::new().fallback(move |request: Request<Body>| {
            let server = server.clone();
            async move { layers::answer(&server.0, request).await }
        })
    }

    /// The server's own components' way in, without TLS: whoever has it is infrastructure.
    pub fn loopback(
        &self,
    ) -> impl tower::Service<
        Request<kube::client::Body>,
        Response = Response<Body>,
        Error = Infallible,
        Future = futures::future::BoxFuture<'static, Result<Response<Body>, Infallible>>,
    > + Clone
    + Send
    + Sync
    + 'static {
        self.as_user(authentication::infrastructure())
    }

    /// A way in for who is known already: for tests of what another identity may do.
    pub fn as_user(
        &self,
        user: UserInfo,
    ) -> impl tower::Service<
        Request<kube::client::Body>,
        Response = Response<Body>,
        Error = Infallible,
        Future = futures::future::BoxFuture<'static, Result<Response<Body>, Infallible>>,
    > + Clone
    + Send
    + Sync
    + 'static {
        let server = self.clone();
        tower::service_fn(move |request: Request<kube::client::Body>| {
            let (server, user) = (server.clone(), user.clone());
            let future: futures::future::BoxFuture<'static, _> = Box::pin(async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(user);
                Ok(layers::answer(&server.0, request).await)
            });
            future
        })
    }
}
