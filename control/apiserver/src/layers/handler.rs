//! Which part answers: a table of verbs and subresources. There is no default: what is added has to be put here.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo};
use hypernetes_kinds::{Endpoint, Home, Resource, Subresource, Verb};

use super::{authorization::Permitted, request_info::Incoming};
use crate::{
    Call, Inner,
    authentication::authorities::openid,
    discovery, encryption_keys,
    fairness::ticket::Ticket,
    health, kubelet_proxy, masters, media, metrics,
    read::{self, list, watch},
    request::{self, ResourceTarget, info::Asked},
    reviews, snapshot, tokens, write,
};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handler {
    Get,
    List,
    Watch,
    Review,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    GetScale,
    UpdateScale,
    PatchScale,
    CreateBinding,
    CreateEviction,
    CreateToken,
    /// The node that the pod is on, which is sent the request before its body is read.
    Node,
}

/// The table. None: there is no such thing to do.
fn handler(home: Home, subresource: Option<Subresource>, verb: Verb) -> Option<Handler> {
    use Subresource::{Approval, Attach, Binding, Eviction, Exec, Finalize, Log, PortForward, Scale, Status, Token};
    use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
    match subresource {
        None => Some(match verb {
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
        Some(Finalize) => match verb {
            Update => Some(Handler::Update),
            Get | List | Watch | Create | Patch | Delete | DeleteCollection => None,
        },
        Some(Scale) => match verb {
            Get => Some(Handler::GetScale),
            Update => Some(Handler::UpdateScale),
            Patch => Some(Handler::PatchScale),
            List | Watch | Create | Delete | DeleteCollection => None,
        },
        Some(one @ (Binding | Eviction | Token)) => match (verb, one) {
            (Create, Binding) => Some(Handler::CreateBinding),
            (Create, Eviction) => Some(Handler::CreateEviction),
            (Create, _) => Some(Handler::CreateToken),
            (Get | List | Watch | Update | Patch | Delete | DeleteCollection, _) => None,
        },
        Some(Log) => match verb {
            Get => Some(Handler::Node),
            List | Watch | Create | Update | Patch | Delete | DeleteCollection => None,
        },
        Some(Exec | Attach | PortForward) => match verb {
            Create => Some(Handler::Node),
            Get | List | Watch | Update | Patch | Delete | DeleteCollection => None,
        },
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
    let subresource = check_target(&resource, &target, verb, &tenant)?;
    let handler = handler(resource.home, subresource, verb).ok_or_else(request::not_allowed)?;
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
    };
    if handler == Handler::Node {
        let request = Request::from_parts(request.head.clone(), body);
        return Box::pin(kubelet_proxy::pod(server, &call, request, ticket)).await;
    }
    let body = media::to_json(&call.headers, ticket.read(body).await?)?;
    request.trail.body(&body);
    let call = &Arc::new(Call { body, ..call });
    // What a handler keeps while it waits is tens of kilobytes: it lies in one place, and is not handed up through all layers.
    match handler {
        Handler::Get => Box::pin(read::get(server, call)).await,
        Handler::List => Box::pin(list::list(server, call, ticket)).await,
        Handler::Watch => Box::pin(watch::watch(server, call)).await,
        Handler::Review => Box::pin(reviews::review(server, call)).await,
        Handler::Create => Box::pin(write::create(server, call)).await,
        Handler::Update => Box::pin(write::update(server, call)).await,
        Handler::Patch => Box::pin(write::patch(server, call)).await,
        Handler::Delete => Box::pin(write::delete(server, call)).await,
        Handler::DeleteCollection => Box::pin(write::delete_collection(server, call, ticket)).await,
        Handler::GetScale => Box::pin(write::subresource::scale::get(server, call)).await,
        Handler::UpdateScale => Box::pin(write::subresource::scale::update(server, call)).await,
        Handler::PatchScale => Box::pin(write::subresource::scale::patch(server, call)).await,
        Handler::CreateBinding => Box::pin(write::subresource::binding::create(server, call)).await,
        Handler::CreateEviction => Box::pin(write::subresource::eviction::create(server, call)).await,
        Handler::CreateToken => Box::pin(tokens::create(server, call)).await,
        Handler::Node => Err(request::not_allowed()),
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
        discovery::path(server, tenant, path, request.headers())?
    };
    if request.info.reads() { Ok(answer) } else { Err(request::not_allowed()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_of_every_subresource_has_a_handler_and_no_other_has() {
        use Subresource::*;
        use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
        let verbs = [Get, List, Watch, Create, Update, Patch, Delete, DeleteCollection];
        for one in [Status, Approval, Scale, Finalize, Binding, Eviction, Token, Log, Exec, Attach, PortForward] {
            for verb in verbs {
                let has = handler(Home::Tenant, Some(one), verb).is_some();
                assert_eq!(has, one.verbs().contains(&verb), "{verb:?} of {one:?}");
            }
        }
        assert!(verbs.iter().all(|verb| handler(Home::Tenant, None, *verb).is_some()));
        assert_eq!(handler(Home::Virtual, None, Create), Some(Handler::Review));
    }
}
