//! Which part answers: a table of verbs and of what subresources do. There is no default: what is added has to be put here.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, header::WARNING};
use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo};
use hypernetes_kinds::{Behaviour, Connection, Endpoint, Home, Resource, Scale, Subresource, Verb};

use super::{authorization::Permitted, request_info::Incoming};
use crate::{
    Call, Inner,
    authentication::authorities::openid,
    discovery, encryption_keys,
    fairness::ticket::Ticket,
    health, kubelet_proxy, masters, media, metrics,
    read::{self, components, list, watch},
    request::{self, ResourceTarget, info::Asked},
    reviews, snapshot, tokens, warnings, write,
};

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Handler {
    Get,
    List,
    Watch,
    Review,
    GetTold,
    ListTold,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    GetScale(Scale),
    UpdateScale(Scale),
    PatchScale(Scale),
    CreateBinding,
    CreateEviction,
    CreateToken,
    /// The node that the pod is on, which is sent the request before its body is read.
    Node(Connection),
}

/// The table. None: there is no such thing to do.
fn handler(home: Home, through: Option<&Behaviour>, verb: Verb) -> Option<Handler> {
    use Behaviour::{Approval, Bind, Connect, Evict, Finalize, IssueToken, Status};
    use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
    match through {
        None => Some(match verb {
            Get if home == Home::Told => Handler::GetTold,
            List if home == Home::Told => Handler::ListTold,
            Get => Handler::Get,
            List => Handler::List,
            Watch => Handler::Watch,
            Create if home == Home::Virtual => Handler::Review,
            Create => Handler::Create,
            Update => Handler::Update,
            Patch => Handler::Patch,
            Delete => Handler::Delete,
            DeleteCollection => Handler::DeleteCollection,
        }),
        Some(Status | Approval) => match verb {
            Get => Some(Handler::Get),
            Update => Some(Handler::Update),
            Patch => Some(Handler::Patch),
            List | Watch | Create | Delete | DeleteCollection => None,
        },
        Some(Finalize) => (verb == Update).then_some(Handler::Update),
        Some(Behaviour::Scale(scale)) => match verb {
            Get => Some(Handler::GetScale(scale.clone())),
            Update => Some(Handler::UpdateScale(scale.clone())),
            Patch => Some(Handler::PatchScale(scale.clone())),
            List | Watch | Create | Delete | DeleteCollection => None,
        },
        Some(Bind) => (verb == Create).then_some(Handler::CreateBinding),
        Some(Evict) => (verb == Create).then_some(Handler::CreateEviction),
        Some(IssueToken) => (verb == Create).then_some(Handler::CreateToken),
        Some(Connect(to @ Connection::Logs)) => (verb == Get).then_some(Handler::Node(*to)),
        Some(Connect(to @ (Connection::Exec | Connection::Attach | Connection::PortForward))) => {
            (verb == Create).then_some(Handler::Node(*to))
        }
    }
}

/// # Errors
/// Whatever the handler refuses; `NotFound` and `MethodNotAllowed` where there is none.
pub async fn answer(
    server: &Inner,
    request: &Incoming,
    body: Body,
    permitted: Permitted,
    ticket: &mut Ticket,
) -> Result<Response<Body>, ApiError> {
    let Permitted { user, scope, tenant, endpoint } = permitted;
    let (target, verb) = match &request.info.asked {
        Asked::Path { path, method } if path == encryption_keys::PATH => {
            masters::check(&user, &tenant, &method.to_lowercase(), path)?;
            return match request.info.reads() {
                true => encryption_keys::state(server),
                false if method.eq_ignore_ascii_case("POST") => {
                    encryption_keys::begin(server, &ticket.read(body).await?)
                }
                false => Err(request::not_allowed()),
            };
        }
        Asked::Path { path, .. } => return document(server, request, &user, &tenant, path).await,
        Asked::Resource { target, verb } => (target.clone(), *verb),
    };
    let Endpoint { resource, served } = endpoint.ok_or_else(request::not_found)?;
    let subresource = check_target(&resource, &target, verb, &tenant)?.cloned();
    let through = subresource.as_ref().map(|one| &one.behaviour);
    let handler = handler(resource.home, through, verb).ok_or_else(request::not_allowed)?;
    let (query, headers, account) = (request.info.query.clone(), request.headers().clone(), ticket.account());
    // What only who is in this process can say.
    let said = request.extensions();
    let (handed, fence, found_by) = (said.get().cloned(), said.get().cloned(), said.get().cloned());
    let body_read = Bytes::new();
    let call = Call {
        user,
        scope,
        resource,
        served,
        target,
        subresource,
        query,
        headers,
        body: body_read,
        handed,
        fence,
        found_by,
        account,
        trail: request.trail.clone(),
    };
    if let Handler::Node(to) = handler {
        let request = Request::from_parts(request.head.clone(), body);
        return Box::pin(kubelet_proxy::pod(server, &call, to, request, ticket)).await;
    }
    let body = media::to_json(&call.headers, &call.served.ty, ticket.read(body).await?)?;
    request.trail.body(&body);
    let mut call = Call { body, ..call };
    let mut handler = handler;
    if call.resource.is("", "Binding") {
        call = write::subresource::binding::to_pod(server, call)?;
        handler = Handler::CreateBinding;
    }
    let call = &Arc::new(call);
    let mut response = handle(server, handler, call, ticket).await?;
    if let Some(said) = &call.served.deprecation {
        response.headers_mut().extend(warnings::warning(said).map(|warning| (WARNING, warning)));
    }
    Ok(response)
}

async fn handle(
    server: &Inner,
    handler: Handler,
    call: &Arc<Call>,
    ticket: &mut Ticket,
) -> Result<Response<Body>, ApiError> {
    // What a handler keeps while it waits is tens of kilobytes: it lies in one place, and is not handed up through all layers.
    match handler {
        Handler::Get => Box::pin(read::get(server, call)).await,
        Handler::List => Box::pin(list::list(server, call, ticket)).await,
        Handler::Watch => Box::pin(watch::watch(server, call)).await,
        Handler::GetTold => Box::pin(components::get(server, call)).await,
        Handler::ListTold => Box::pin(components::list(server, call)).await,
        Handler::Review => Box::pin(reviews::review(server, call)).await,
        Handler::Create => Box::pin(write::create(server, call)).await,
        Handler::Update => Box::pin(write::update(server, call)).await,
        Handler::Patch => Box::pin(write::patch(server, call)).await,
        Handler::Delete => Box::pin(write::delete(server, call)).await,
        Handler::DeleteCollection => Box::pin(write::delete_collection(server, call, ticket)).await,
        Handler::GetScale(scale) => Box::pin(write::subresource::scale::get(server, call, &scale)).await,
        Handler::UpdateScale(scale) => Box::pin(write::subresource::scale::update(server, call, &scale)).await,
        Handler::PatchScale(scale) => Box::pin(write::subresource::scale::patch(server, call, &scale)).await,
        Handler::CreateBinding => Box::pin(write::subresource::binding::create(server, call)).await,
        Handler::CreateEviction => Box::pin(write::subresource::eviction::create(server, call)).await,
        Handler::CreateToken => Box::pin(tokens::create(server, call)).await,
        Handler::Node(_) => Err(request::not_allowed()),
    }
}

/// What is no resource, and is only read.
async fn document(
    server: &Inner,
    request: &Incoming,
    user: &UserInfo,
    tenant: &TenantId,
    path: &str,
) -> Result<Response<Body>, ApiError> {
    let answer = if path == "/metrics" {
        metrics::page::answer(server, tenant).await?
    } else if let Some(asked) = health::Asked::of(path) {
        let query = &request.info.query;
        asked.answer(server.store.stored(), query.all("exclude"), !query.all("verbose").is_empty()).await
    } else if path == snapshot::PATH {
        masters::check(user, tenant, "get", path)?;
        snapshot::answer(server)
    } else if let Some(document) = openid::document(&server.authenticator.authorities, tenant, path).await? {
        document
    } else {
        discovery::path(server, tenant, path, request.headers(), &request.info.query).await?
    };
    if request.info.reads() { Ok(answer) } else { Err(request::not_allowed()) }
}

/// Whether there is such a path, which may be written, and the subresource that it names.
///
/// # Errors
/// `MethodNotAllowed` for a verb that the resource or the subresource does not have, `NotFound` for what is not there,
/// `Forbidden` for the operator's objects.
fn check_target<'a>(
    resource: &'a Resource,
    target: &ResourceTarget,
    verb: Verb,
    tenant: &TenantId,
) -> Result<Option<&'a Subresource>, ApiError> {
    let subresource = match target.subresource.as_deref() {
        None => None,
        Some(name) => Some(resource.subresource(name).ok_or_else(request::not_found)?),
    };
    if !subresource.map_or(resource.verbs(), |one| one.behaviour.verbs()).contains(&verb) {
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

#[cfg(test)]
mod tests {
    use hypernetes_kinds::registry;

    use super::*;

    #[test]
    fn every_verb_of_every_subresource_has_a_handler_and_no_other_has() {
        use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
        let verbs = [Get, List, Watch, Create, Update, Patch, Delete, DeleteCollection];
        for one in registry::builtin().iter().flat_map(|resource| &resource.subresources) {
            for verb in verbs {
                let has = handler(Home::Tenant, Some(&one.behaviour), verb).is_some();
                assert_eq!(has, one.behaviour.verbs().contains(&verb), "{verb:?} of {one:?}");
            }
        }
        assert!(verbs.iter().all(|verb| handler(Home::Tenant, None, *verb).is_some()));
        assert_eq!(handler(Home::Virtual, None, Create), Some(Handler::Review));
    }
}
