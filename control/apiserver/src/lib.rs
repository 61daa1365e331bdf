//! The Kubernetes REST API over the store: one engine for every resource of the registry (`hypernetes_kinds`).
//!
//! ```text
//! TLS ─▶ authn ─▶ request (cluster, resource, verb) ─▶ authz ─▶ read | write | watch | reviews | discovery ─▶ store
//! ```
#![forbid(unsafe_code)]

pub mod authn;
pub mod authorities;
mod authz;
mod background;
pub mod budget;
mod codec;
mod connect;
mod discovery;
mod escalation;
mod graph;
mod held;
mod impersonation;
mod list;
mod media;
mod meter;
mod nodes;
mod options;
mod pace;
mod patience;
mod places;
mod rbac;
mod read;
mod request;
mod reviews;
mod roles;
mod selectors;
mod serve;
mod tenants;
mod tokens;
mod unread;
mod watch;
mod write;

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hypernetes_api::{
    AllTenants, ApiError, Reason, TenantId,
    auth::{TokenAuthority, UserInfo},
    names,
};
use hypernetes_kinds::{Endpoint, Home, Registry, Resource, Served, Subresource, Verb};
use hypernetes_schema::{Decoded, FieldValidation};
use hypernetes_store::{Key, Prefix, RangeOptions, ResourceId, Store};
use serde_json::Value;

use self::{
    authn::Authenticator,
    authorities::{Authorities, openid},
    authz::{Attributes, Authorizer},
    request::{Cluster, Query, ResourceTarget, Scope, Target},
    selectors::Selector,
};
pub use connect::KubeletClient;
pub use meter::meter;
pub use places::Limits;
pub use serve::{Deadlines, TlsConfig, TlsError, serve, serve_within};

/// What a server is made of.
pub struct Config {
    pub store: Arc<dyn Store>,
    /// For answers that span tenants, which infrastructure asks for.
    pub all_tenants: AllTenants,
}

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

pub(crate) struct Inner {
    store: Arc<dyn Store>,
    registry: Registry,
    authenticator: Authenticator,
    all_tenants: AllTenants,
    kubelets: OnceLock<KubeletClient>,
    graph: graph::Graph,
    budgets: budget::Budgets,
}

impl Inner {
    fn authorizer(&self) -> Authorizer<'_> {
        Authorizer { store: &*self.store, graph: &self.graph }
    }
}

/// A request that is known: who, what, where.
pub(crate) struct Call {
    pub user: UserInfo,
    pub scope: Scope,
    pub resource: Arc<Resource>,
    /// The version in which it is asked for.
    pub served: Arc<Served>,
    pub target: ResourceTarget,
    pub subresource: Option<Subresource>,
    pub query: Query,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// What it is charged to; none for the system's own.
    pub account: Option<Arc<budget::Account>>,
}

impl Call {
    /// The tenant whose objects it is about: the operator's own where they are projected.
    pub fn tenant(&self) -> Result<TenantId, ApiError> {
        match (&self.scope, self.resource.home) {
            (_, Home::Projected | Home::System) => Ok(TenantId::system()),
            (Scope::Tenant(tenant), _) => Ok(tenant.clone()),
            (Scope::All, _) => Err(ApiError::bad_request("this request has to name one logical cluster")),
        }
    }

    pub fn key(&self, name: &str) -> Result<Key, ApiError> {
        let namespace = self.target.namespace.as_deref().unwrap_or_default();
        Key::new(&self.resource.id, &self.tenant()?, namespace, name).map_err(|_| self.not_found(name))
    }

    /// The body as an object that can be stored.
    ///
    /// # Errors
    /// `BadRequest` for what has not the shape of its kind.
    pub fn decode(&self, validation: FieldValidation) -> Result<Decoded, ApiError> {
        let decoded = self.served.ty.decode(&self.body, validation)?;
        Ok(self.to_stored(decoded))
    }

    /// What is in the version that is asked for, as it is stored.
    pub fn to_stored(&self, Decoded { mut object, warnings }: Decoded) -> Decoded {
        if !self.served.is_stored() {
            hypernetes_kinds::set_defaults(&self.served.ty, &mut object);
            object = self.served.to_stored(object);
        }
        Decoded { object, warnings }
    }

    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.resource.ty.group, &self.resource.plural, name)
    }

    /// Whether the caller is one of the system's own components, or a node.
    pub fn is_infrastructure(&self) -> bool {
        let groups = [names::GROUP_INFRASTRUCTURE, names::GROUP_NODES];
        self.user.tenant.is_system() && self.user.groups.iter().any(|group| groups.contains(&group.as_str()))
    }

    /// Between two pieces of what takes long.
    pub async fn pause(&self) {
        tokio::task::yield_now().await;
        if let Some(account) = &self.account {
            account.pace.pause().await;
        }
    }

    pub fn accept(&self) -> &str {
        self.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

impl ApiServer {
    pub fn new(config: Config) -> Self {
        let Config { store, all_tenants } = config;
        let authenticator = Authenticator::new(Authorities::new(store.clone()));
        let kubelets = OnceLock::new();
        let graph = graph::Graph::new(all_tenants.clone());
        Self(Arc::new(Inner {
            store,
            registry: Registry::default(),
            authenticator,
            all_tenants,
            kubelets,
            graph,
            budgets: Default::default(),
        }))
    }

    /// Who signs for whom.
    pub fn authorities(&self) -> Authorities {
        self.0.authenticator.authorities.clone()
    }

    /// Which resources each tenant sees.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Holds the tenants to what their Projects say, for as long as it is polled.
    pub fn follow_tenants(&self) -> impl Future<Output = ()> + Send + 'static {
        let server = self.0.clone();
        async move { tenants::follow(&*server.store, &server.budgets).await }
    }

    /// Lets in who has a Keystone token. Once.
    pub fn set_token_authority(&self, authority: Arc<dyn TokenAuthority>) {
        self.0.authenticator.set_token_authority(authority);
    }

    /// Lets logs, exec and so on through to the nodes. Once.
    pub fn set_kubelet_client(&self, client: KubeletClient) {
        let _ = self.0.kubelets.set(client);
    }

    /// For requests from outside. What the TLS connection's certificate says is an `Option<`[`authn::Certificate`]`>` in the
    /// request's extensions.
    pub fn router(&self) -> axum::Router {
        let server = self.clone();
        axum::Router::new().fallback(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
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
        self.as_user(authn::infrastructure())
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
                Ok(server.answer(request).await)
            });
            future
        })
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        self.dispatch(request).await.unwrap_or_else(|error| error_response(&error))
    }

    async fn dispatch(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (head, body) = request.into_parts();
        let connection = authn::Connection::of(&head.extensions);
        let user = self.0.authenticator.authenticate(&*self.0.store, &head.headers, connection).await?;
        let query = Query::parse(&head.uri)?;
        let payer = head.extensions.get::<budget::Payer>();
        let mut ticket = self.0.budgets.admit(&user, payer, query.flag("watch"))?;
        // Until what it costs is known.
        let _turn = ticket.turn().await?;
        let (cluster, target) = request::parse(&head.uri)?;
        let scope = self.scope(cluster, &user).await?;
        let authorizer = self.0.authorizer();
        let user = impersonation::user(&head.headers, user, &scope, &authorizer).await?;
        let tenant = match &scope {
            Scope::Tenant(tenant) => tenant.clone(),
            Scope::All => TenantId::system(),
        };
        let target = match target {
            Target::Path(path) => {
                let verb = head.method.as_str().to_ascii_lowercase();
                let wanted = Attributes { verb: &verb, path: Some(&path), ..Default::default() };
                authorizer.check(&user, &tenant, &wanted).await?;
                let document = openid::document(&self.0.authenticator.authorities, &tenant, &path).await?;
                let answer = match document {
                    Some(document) => document,
                    None => discovery::path(&self.0, &tenant, &path, &head.headers)?,
                };
                let reads = matches!(head.method, Method::GET | Method::HEAD);
                return if reads { ticket.hold(answer) } else { Err(request::not_allowed()) };
            }
            Target::Resource(target) => target,
        };
        let watching = query.flag("watch");
        let verb = request::verb(&head.method, &target, watching)?;
        let view = self.0.registry.view(&tenant);
        let endpoint = view.find(&target.group, &target.version, &target.plural).cloned();
        // One that does not parse is told so below.
        let selectable = endpoint.as_ref().map_or(&[][..], |endpoint| &endpoint.resource.selectable);
        let selected = Selector::parse(selectable, "", query.get("fieldSelector")).unwrap_or_default();
        let wanted = Attributes {
            verb: verb.as_str(),
            group: &target.group,
            resource: &target.plural,
            subresource: target.subresource.as_deref().unwrap_or_default(),
            namespace: target.namespace.as_deref().or(
                // A namespace is in itself.
                target.name.as_deref().filter(|_| target.group.is_empty() && target.plural == "namespaces"),
            ),
            // A collection narrowed to one name is that one.
            name: target.name.as_deref().or_else(|| {
                selected
                    .requires("metadata.name")
                    .filter(|_| matches!(verb, Verb::List | Verb::Watch | Verb::DeleteCollection))
            }),
            path: None,
            selected: Some(&selected),
            everywhere: scope == Scope::All,
        };
        authorizer.check(&user, &tenant, &wanted).await?;
        let Endpoint { resource, served } = endpoint.ok_or_else(request::not_found)?;
        let subresource = check_target(&resource, &target, verb, &tenant)?;
        if connect::handles(&target) {
            let Scope::Tenant(tenant) = &scope else {
                return Err(ApiError::bad_request("this request has to name one logical cluster"));
            };
            let request = Request::from_parts(head, body);
            let response = connect::pod(&self.0, tenant, &target, &query, request, &ticket).await?;
            return ticket.hold(response);
        }
        let body = media::to_json(&head.headers, ticket.read(body).await?)?;
        let (headers, account) = (head.headers, ticket.account());
        let call = Arc::new(Call { user, scope, resource, served, target, subresource, query, headers, body, account });
        let answer = self.answer_call(verb, &call, &mut ticket).await?;
        ticket.hold(answer)
    }

    /// What a verb does to a resource or to one of its subresources. There is no default: what is added has to be put here.
    async fn answer_call(
        &self,
        verb: Verb,
        call: &Arc<Call>,
        ticket: &mut budget::Ticket,
    ) -> Result<Response<Body>, ApiError> {
        use Subresource::{Attach, Binding, Eviction, Exec, Finalize, Log, PortForward, Scale, Status, Token};
        use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
        let server = &*self.0;
        match call.subresource {
            None => match verb {
                Get => read::get(server, call).await,
                List => list::list(server, call, ticket).await,
                Watch => watch::watch(server, call).await,
                Create if call.resource.home == Home::Virtual => reviews::review(server, call).await,
                Create => write::create(server, call).await,
                Update => write::update(server, call).await,
                Patch => write::patch(server, call).await,
                Delete => write::delete(server, call).await,
                DeleteCollection => write::delete_collection(server, call, ticket).await,
            },
            Some(Status | Finalize) => match verb {
                Get => read::get(server, call).await,
                Update => write::update(server, call).await,
                Patch => write::patch(server, call).await,
                List | Watch | Create | Delete | DeleteCollection => Err(request::not_allowed()),
            },
            Some(Scale) => match verb {
                Get => write::subresource::scale::get(server, call).await,
                Update => write::subresource::scale::update(server, call).await,
                Patch => write::subresource::scale::patch(server, call).await,
                List | Watch | Create | Delete | DeleteCollection => Err(request::not_allowed()),
            },
            Some(one @ (Binding | Eviction | Token)) => match (verb, one) {
                (Create, Binding) => write::subresource::binding::create(server, call).await,
                (Create, Eviction) => write::subresource::eviction::create(server, call).await,
                (Create, _) => tokens::create(server, call).await,
                (Get | List | Watch | Update | Patch | Delete | DeleteCollection, _) => Err(request::not_allowed()),
            },
            // They are handed on to the node before their bodies are read.
            Some(Log | Exec | Attach | PortForward) => Err(request::not_allowed()),
        }
    }

    /// The logical cluster that a request is for: named by its path, else the credential's own.
    async fn scope(&self, cluster: Cluster, user: &UserInfo) -> Result<Scope, ApiError> {
        let infrastructure = |group: &str| user.tenant.is_system() && user.groups.iter().any(|g| g == group);
        let everywhere = infrastructure(names::GROUP_INFRASTRUCTURE) || infrastructure(names::GROUP_NODES);
        let forbidden = |name: &str| {
            let message =
                format!("forbidden: the credential of {:?} is not for the logical cluster {name:?}", user.name);
            ApiError::new(Reason::Forbidden, message)
        };
        match cluster {
            Cluster::Unnamed => Ok(Scope::Tenant(user.tenant.clone())),
            Cluster::All if everywhere => Ok(Scope::All),
            Cluster::All => Err(forbidden("*")),
            Cluster::Named(name) => {
                let operator = everywhere || infrastructure(names::GROUP_MASTERS);
                if user.tenant.as_str() == name || (!operator && self.is_called(&user.tenant, &name).await?) {
                    return Ok(Scope::Tenant(user.tenant.clone()));
                }
                // Whether it exists is nobody else's business.
                if !operator {
                    return Err(forbidden(&name));
                }
                let id = self.find_cluster(&name).await?;
                // What a project that is gone has left is still there for those who clear it away.
                let id = id.or_else(|| name.parse().ok().filter(|_| everywhere));
                id.map(Scope::Tenant).ok_or_else(request::not_found)
            }
        }
    }

    /// Whether a tenant's project has this name in the default domain.
    async fn is_called(&self, tenant: &TenantId, name: &str) -> Result<bool, ApiError> {
        let key = Key::new(&projects(), &TenantId::system(), "", tenant.as_str())?;
        let entry = self.0.store.get(&key).await.map_err(read::read_error)?;
        entry.map_or(Ok(false), |entry| is_project_called(&entry, name))
    }

    /// By id, or by a project's name in the default domain.
    async fn find_cluster(&self, name: &str) -> Result<Option<TenantId>, ApiError> {
        if name == TenantId::SYSTEM {
            return Ok(Some(TenantId::system()));
        }
        let by_id = name.parse().ok().and_then(|id: TenantId| {
            Key::new(&projects(), &TenantId::system(), "", id.as_str()).ok().map(|key| (id, key))
        });
        if let Some((id, key)) = by_id
            && self.0.store.get(&key).await.map_err(read::read_error)?.is_some()
        {
            return Ok(Some(id));
        }
        let all = Prefix::tenant(&projects(), &TenantId::system(), None)?;
        let listing = self.0.store.range(&all, RangeOptions::default()).await.map_err(read::read_error)?;
        for entry in &listing.entries {
            if is_project_called(entry, name)? {
                return Ok(entry.key.name().parse().ok());
            }
        }
        Ok(None)
    }
}

/// Whether there is such a path, which may be written, and the subresource that it names.
///
/// # Errors
/// `MethodNotAllowed` for a verb that the resource or the subresource does not have, `NotFound` for what is not there,
/// `Forbidden` for the operator's objects.
fn check_target(
    resource: &Resource,
    target: &ResourceTarget,
    verb: Verb,
    tenant: &TenantId,
) -> Result<Option<Subresource>, ApiError> {
    let subresource = match target.subresource.as_deref() {
        None => None,
        Some(name) => {
            let known = Subresource::parse(name).filter(|one| resource.subresources.contains(one));
            Some(known.ok_or_else(request::not_found)?)
        }
    };
    if !subresource.map_or(resource.verbs(), Subresource::verbs).contains(&verb) {
        return Err(request::not_allowed());
    }
    match (&target.namespace, resource.ty.namespaced) {
        (Some(_), false) => return Err(request::not_found()),
        // What is in namespaces is listed and watched across them, and written in one.
        (None, true) if target.name.is_some() || verb == Verb::Create => return Err(request::not_found()),
        (None, true) if verb == Verb::DeleteCollection => return Err(request::not_allowed()),
        _ => {}
    }
    if resource.home == Home::Projected && !verb.reads() && !tenant.is_system() {
        let message = format!("{} belong to the operator and are read-only in a tenant's cluster", resource.plural);
        return Err(ApiError::new(Reason::Forbidden, message));
    }
    Ok(subresource)
}

fn projects() -> ResourceId {
    ResourceId::new("identity.hypernetes.io", "projects")
}

fn is_project_called(entry: &hypernetes_store::Entry, name: &str) -> Result<bool, ApiError> {
    let project = codec::decode(entry)?;
    Ok(project["spec"]["displayName"] == name && project["spec"]["domain"] == "default")
}

pub(crate) fn error_response(error: &ApiError) -> Response<Body> {
    let mut response = json_response(error.reason.code(), &error.to_status());
    if let Some(seconds) = error.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    bytes_response(code, value.to_string().into())
}

pub(crate) fn bytes_response(code: StatusCode, bytes: Bytes) -> Response<Body> {
    response_of(code, Body::from(bytes))
}

/// An answer in JSON.
pub(crate) fn response_of(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
