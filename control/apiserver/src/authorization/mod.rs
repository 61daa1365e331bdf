//! Who may do what: RBAC in each logical cluster, the groups that Keystone roles give, and what nodes may.

pub mod attributes;
mod compiled;
mod decision;
pub mod defaults;
pub mod escalation;
pub mod graph;
pub mod impersonation;
pub mod index;
pub mod nodes;
pub mod rbac;
pub mod rights;

pub use attributes::Attributes;
use compiled::RoleRef;
pub use decision::Decision;
use graph::Graph;
use index::Index;
use rbac::Rule;
use rights::Grant;

use hypernetes_api::{
    ApiError, Reason, TenantId, auth::UserInfo, error::Details, names, types::identity::IDENTITY_NAMESPACE,
};
use hypernetes_store::Store;

/// What decides. Made for a request.
pub struct Authorizer<'a> {
    pub store: &'a dyn Store,
    pub graph: &'a Graph,
    pub index: &'a Index,
}

/// Who may do everything in the logical cluster that the request is for.
pub fn is_cluster_admin(user: &UserInfo) -> bool {
    let has = |group: &str| user.groups.iter().any(|g| g == group);
    has(names::GROUP_MASTERS)
        || has(names::GROUP_KEYSTONE_ADMIN)
        || (user.tenant.is_system() && has(names::GROUP_INFRASTRUCTURE))
}

impl Authorizer<'_> {
    /// # Errors
    /// `Forbidden`, worded as Kubernetes does.
    pub async fn check(&self, user: &UserInfo, tenant: &TenantId, wanted: &Attributes<'_>) -> Result<(), ApiError> {
        let decision = self.decide(user, tenant, wanted).await?;
        if decision.is_allowed() { Ok(()) } else { Err(forbidden(user, wanted, &decision.reason())) }
    }

    pub async fn allows(&self, user: &UserInfo, tenant: &TenantId, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        Ok(self.decide(user, tenant, wanted).await?.is_allowed())
    }

    pub async fn decide(
        &self,
        user: &UserInfo,
        tenant: &TenantId,
        wanted: &Attributes<'_>,
    ) -> Result<Decision, ApiError> {
        let has = |group: &str| user.groups.iter().any(|g| g == group);
        let system = user.tenant.is_system();
        if system && (has(names::GROUP_INFRASTRUCTURE) || has(names::GROUP_MASTERS)) {
            return Ok(Decision::Allowed);
        }
        if let Some(node) = nodes::identity(user)
            && wanted.path.is_none()
            && !is_own_review(wanted)
        {
            let asked = nodes::Asked { store: self.store, graph: self.graph, node, tenant };
            return Ok(if asked.allows(wanted).await? { Decision::Allowed } else { Decision::NoOpinion(Vec::new()) });
        }
        if nodes::is_reserved(wanted) {
            return Ok(Decision::Denied("it is infrastructure's to say"));
        }
        if is_identitys(tenant, wanted) {
            return Ok(Decision::Denied("it is the identity service's"));
        }
        if is_cluster_admin(user) {
            return Ok(Decision::Allowed);
        }
        let grants = self.grants(user, tenant, wanted.namespace).await?;
        Ok(match grants.iter().find(|grant| grant.rules().any(|rule| rule.allows(wanted))) {
            Some(grant) => Decision::Granted(grant.clone()),
            None => Decision::NoOpinion(grants.iter().filter_map(Grant::error).collect()),
        })
    }

    /// What the user's bindings give it in the namespace, or for the whole cluster where none is named.
    pub async fn grants(
        &self,
        user: &UserInfo,
        tenant: &TenantId,
        namespace: Option<&str>,
    ) -> Result<Vec<Grant>, ApiError> {
        self.index.ask(tenant, |rights| rights.grants(user, namespace)).await
    }

    /// All rules that the user has, as [`Self::grants`].
    pub async fn rules(
        &self,
        user: &UserInfo,
        tenant: &TenantId,
        namespace: Option<&str>,
    ) -> Result<Vec<Rule>, ApiError> {
        let grants = self.grants(user, tenant, namespace).await?;
        let mut rules: Vec<Rule> = grants.iter().flat_map(Grant::rules).cloned().collect();
        if is_cluster_admin(user) {
            rules.extend(Rule::all().into_iter().filter(|rule| !rules.contains(rule)).collect::<Vec<_>>());
        }
        Ok(rules)
    }

    /// The rules of the role that a binding in the namespace names; `None` when there is no such role.
    pub async fn role(
        &self,
        tenant: &TenantId,
        reference: &RoleRef,
        namespace: Option<&str>,
    ) -> Result<Option<Vec<Rule>>, ApiError> {
        let namespace = namespace.unwrap_or_default();
        let rules = self.index.ask(tenant, |rights| rights.role(namespace, &reference.name, reference.cluster)).await?;
        Ok(rules.map(|rules| rules.iter().flat_map(|part| part.iter().cloned()).collect()))
    }
}

fn is_own_review(wanted: &Attributes<'_>) -> bool {
    matches!(wanted.resource, "selfsubjectaccessreviews" | "selfsubjectrulesreviews" | "selfsubjectreviews")
}

/// Passwords' hashes and the keys of tokens are the identity service's, whatever a role in the operator's cluster says; and a
/// list of all its secrets has them in it. A pod beside them could read them.
fn is_identitys(tenant: &TenantId, wanted: &Attributes<'_>) -> bool {
    let there = wanted.namespace == Some(IDENTITY_NAMESPACE) && wanted.resource != "namespaces";
    let all_secrets = wanted.namespace.is_none() && (wanted.group, wanted.resource) == ("", "secrets");
    tenant.is_system() && (there || all_secrets)
}

/// `why` is upstream's reason, which may be empty.
fn forbidden(user: &UserInfo, wanted: &Attributes<'_>, why: &str) -> ApiError {
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    if let Some(path) = wanted.path {
        let message = format!("forbidden: User {:?} cannot {} path {path:?}{why}", user.name, wanted.verb);
        return ApiError::new(Reason::Forbidden, message);
    }
    let resource = wanted.full_resource();
    let qualified = if wanted.group.is_empty() {
        wanted.resource.to_owned()
    } else {
        format!("{}.{}", wanted.resource, wanted.group)
    };
    let place = match wanted.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let name = wanted.name.map_or_else(|| " ".to_owned(), |name| format!(" {name:?} "));
    let message = format!(
        "{qualified}{name}is forbidden: User {:?} cannot {} resource {resource:?} in API group {:?} {place}{why}",
        user.name, wanted.verb, wanted.group
    );
    ApiError::new(Reason::Forbidden, message).with_details(Details {
        name: wanted.name.unwrap_or_default().into(),
        group: wanted.group.into(),
        kind: wanted.resource.into(),
        ..Details::default()
    })
}
