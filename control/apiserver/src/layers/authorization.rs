//! In which logical cluster, as whom, and whether that one may.

use hypernetes_api::{ApiError, TenantId, auth::UserInfo};
use hypernetes_kinds::{Endpoint, Verb};

use super::request_info::Incoming;
use crate::{
    Inner,
    authorization::{Attributes, impersonation},
    cluster,
    request::{ResourceTarget, Scope, info::Asked, selectors::Selector},
};

/// A request that its user may make.
pub struct Permitted {
    /// Whom it is made as.
    pub user: UserInfo,
    pub scope: Scope,
    /// The logical cluster that it is for; the system's where it is for all.
    pub tenant: TenantId,
    /// What it is about, if there is such a resource.
    pub endpoint: Option<Endpoint>,
}

/// # Errors
/// `Forbidden`; `NotFound` for a logical cluster that there is not.
pub async fn check(server: &Inner, request: &Incoming, user: UserInfo) -> Result<Permitted, ApiError> {
    let info = &request.info;
    let scope = cluster::scope(&server.directory, info.cluster.clone(), &user).await?;
    let authorizer = server.authorizer();
    let user = impersonation::user(request.headers(), user, &scope, &authorizer).await?;
    let tenant = match &scope {
        Scope::Tenant(tenant) => tenant.clone(),
        Scope::All => TenantId::system(),
    };
    request.trail.permitted(&user, &tenant);
    let (target, verb) = match &info.asked {
        Asked::Path { path, method } => {
            let wanted = Attributes { verb: method, path: Some(path), ..Default::default() };
            authorizer.check(&user, &tenant, &wanted).await?;
            return Ok(Permitted { user, scope, tenant, endpoint: None });
        }
        Asked::Resource { target, verb } => (target, *verb),
    };
    let endpoint = server.definitions.find(&tenant, &target.group, &target.version, &target.plural).await?;
    // One that does not parse is told so by the handler.
    let selectable = endpoint.as_ref().map_or(&[][..], |endpoint| &endpoint.resource.selectable[..]);
    let selected = Selector::parse(selectable, "", info.query.get("fieldSelector")).unwrap_or_default();
    let wanted = attributes(target, verb, &selected, scope == Scope::All);
    authorizer.check(&user, &tenant, &wanted).await?;
    Ok(Permitted { user, scope, tenant, endpoint })
}

fn attributes<'a>(target: &'a ResourceTarget, verb: Verb, selected: &'a Selector, everywhere: bool) -> Attributes<'a> {
    // A namespace is in itself.
    let own = target.name.as_deref().filter(|_| target.group.is_empty() && target.plural == "namespaces");
    // A collection narrowed to one name is that one.
    let collection = matches!(verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
    let narrowed = || selected.requires("metadata.name").filter(|_| collection);
    Attributes {
        verb: verb.as_str(),
        group: &target.group,
        resource: &target.plural,
        subresource: target.subresource.as_deref().unwrap_or_default(),
        namespace: target.namespace.as_deref().or(own),
        name: target.name.as_deref().or_else(narrowed),
        path: None,
        selected: Some(selected),
        everywhere,
    }
}
