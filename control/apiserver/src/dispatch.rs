//! What happens to a request, step by step, and which part answers it.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request, Response};
use hypernetes_api::{ApiError, Reason, TenantId};
use hypernetes_kinds::{Endpoint, Home, Resource, Subresource, Verb};

use crate::{
    ApiServer, Call,
    answer::error_response,
    authentication::{self, authorities::openid},
    authorization::{Attributes, impersonation},
    cluster, discovery,
    fairness::{payer::Payer, ticket::Ticket},
    kubelet_proxy, media,
    read::{self, list, watch},
    request::{self, Query, ResourceTarget, Scope, Target, selectors::Selector},
    reviews, tokens, write,
};

impl ApiServer {
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        self.dispatch(request).await.unwrap_or_else(|error| error_response(&error))
    }

    async fn dispatch(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (head, body) = request.into_parts();
        let connection = authentication::Connection::of(&head.extensions);
        let user = self.0.authenticator.authenticate(&*self.0.store, &head.headers, connection).await?;
        let query = Query::parse(&head.uri)?;
        let payer = head.extensions.get::<Payer>();
        let mut ticket = self.0.accounts.admit(&user, payer, query.flag("watch"))?;
        // Until what it costs is known.
        let _turn = ticket.turn().await?;
        let (cluster, target) = request::parse(&head.uri)?;
        let scope = cluster::scope(&*self.0.store, cluster, &user).await?;
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
        if request::is_for_kubelet(&target) {
            let Scope::Tenant(tenant) = &scope else {
                return Err(ApiError::bad_request("this request has to name one logical cluster"));
            };
            let request = Request::from_parts(head, body);
            let response = kubelet_proxy::pod(&self.0, tenant, &target, &query, request, &ticket).await?;
            return ticket.hold(response);
        }
        let body = media::to_json(&head.headers, ticket.read(body).await?)?;
        let (headers, account) = (head.headers, ticket.account());
        let handed = head.extensions.get().cloned();
        let call = Arc::new(Call {
            user,
            scope,
            resource,
            served,
            target,
            subresource,
            query,
            headers,
            body,
            handed,
            account,
        });
        let answer = self.answer_call(verb, &call, &mut ticket).await?;
        ticket.hold(answer)
    }

    /// What a verb does to a resource or to one of its subresources. There is no default: what is added has to be put here.
    async fn answer_call(&self, verb: Verb, call: &Arc<Call>, ticket: &mut Ticket) -> Result<Response<Body>, ApiError> {
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
