//! Who may do what: RBAC in each logical cluster, the groups that Keystone roles give, and what nodes may.

pub mod attributes;
pub mod certificates;
pub mod escalation;
pub mod graph;
pub mod impersonation;
pub mod nodes;
pub mod rbac;
pub mod roles;

pub use attributes::Attributes;
use graph::Graph;
use rbac::Rule;

use hypernetes_api::{
    ApiError, Reason, TenantId, auth::UserInfo, error::Details, names, types::identity::IDENTITY_NAMESPACE,
};
use hypernetes_store::{Key, Prefix, RangeOptions, ResourceId, Store};
use serde_json::Value;

use crate::{authentication::bootstrap, stored_form};

/// What decides. Made for a request.
pub struct Authorizer<'a> {
    pub store: &'a Store,
    pub graph: &'a Graph,
}

/// Whether a binding's subject is this user.
fn is_subject(subject: &Value, user: &UserInfo, namespace: Option<&str>) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => user.name == name,
        Some("Group") => user.groups.iter().any(|group| group == name),
        // Nobody else can have such a name: see `authn`.
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().or(namespace).unwrap_or_default();
            user.name.strip_prefix(names::USER_SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'))
                == Some((namespace, name))
        }
        _ => false,
    }
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
        if self.allows(user, tenant, wanted).await? { Ok(()) } else { Err(forbidden(user, wanted)) }
    }

    pub async fn allows(&self, user: &UserInfo, tenant: &TenantId, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        let has = |group: &str| user.groups.iter().any(|g| g == group);
        let system = user.tenant.is_system();
        if system && (has(names::GROUP_INFRASTRUCTURE) || has(names::GROUP_MASTERS)) {
            return Ok(true);
        }
        if let Some(node) = nodes::identity(user)
            && wanted.path.is_none()
            && !is_own_review(wanted)
        {
            let asked = nodes::Asked { store: self.store, graph: self.graph, node, tenant };
            return Ok(certificates::allows(self.store, user, tenant, wanted).await? || asked.allows(wanted).await?);
        }
        if bootstrap::is_bootstrapper(user) && certificates::allows(self.store, user, tenant, wanted).await? {
            return Ok(true);
        }
        if nodes::is_reserved(wanted) || is_identitys(tenant, wanted) {
            return Ok(false);
        }
        if is_cluster_admin(user) {
            return Ok(true);
        }
        // Every known user may ask what the server has, and what they may do themselves.
        let known = has(names::GROUP_AUTHENTICATED);
        if let Some(path) = wanted.path {
            let public = matches!(path, "/healthz" | "/livez" | "/readyz" | "/version");
            let discovery =
                ["/api", "/apis", "/openapi"].iter().any(|p| path == *p || path.starts_with(&format!("{p}/")));
            if public || (known && (discovery || path == "/")) {
                return Ok(true);
            }
        }
        if known && is_own_review(wanted) && wanted.verb == "create" {
            return Ok(true);
        }
        Ok(self.rules(user, tenant, wanted.namespace).await?.iter().any(|rule| rule.allows(wanted)))
    }

    /// All rules that the user has in the namespace, or for the whole cluster where none is named.
    pub async fn rules(
        &self,
        user: &UserInfo,
        tenant: &TenantId,
        namespace: Option<&str>,
    ) -> Result<Vec<Rule>, ApiError> {
        let has = |group: &str| user.groups.iter().any(|g| g == group);
        let mut rules = Vec::new();
        if is_cluster_admin(user) {
            rules.extend(Rule::all());
        }
        for (group, level) in
            [(names::GROUP_KEYSTONE_MEMBER, roles::Level::Edit), (names::GROUP_KEYSTONE_READER, roles::Level::View)]
        {
            if has(group) {
                rules.extend_from_slice(roles::keystone(level));
            }
        }
        if has(names::GROUP_SERVICE_ACCOUNTS) {
            rules.extend_from_slice(roles::issuer_discovery());
            rules.extend_from_slice(roles::trust_discovery());
        }
        for binding in self.list(tenant, "clusterrolebindings", None).await? {
            if subject_of(&binding, user, None) {
                rules.extend(self.role(tenant, &binding["roleRef"], None).await?.unwrap_or_default());
            }
        }
        if let Some(namespace) = namespace {
            for binding in self.list(tenant, "rolebindings", Some(namespace)).await? {
                if subject_of(&binding, user, Some(namespace)) {
                    rules.extend(self.role(tenant, &binding["roleRef"], Some(namespace)).await?.unwrap_or_default());
                }
            }
        }
        Ok(rules)
    }

    async fn list(&self, tenant: &TenantId, plural: &str, namespace: Option<&str>) -> Result<Vec<Value>, ApiError> {
        let prefix = Prefix::tenant(&ResourceId::new(RBAC, plural), tenant, namespace)?;
        let listing = self.store.range(&prefix, RangeOptions::default()).await;
        let listing = listing.map_err(|error| ApiError::internal(error.to_string()))?;
        listing.entries.iter().map(stored_form::decode).collect()
    }

    /// The rules of the role that a binding names; `None` when there is no such role.
    pub async fn role(
        &self,
        tenant: &TenantId,
        reference: &Value,
        namespace: Option<&str>,
    ) -> Result<Option<Vec<Rule>>, ApiError> {
        let name = reference["name"].as_str().unwrap_or_default();
        let cluster = reference["kind"] == "ClusterRole";
        if cluster && let Some(rules) = roles::builtin(name) {
            return Ok(Some(rules.to_vec()));
        }
        let (plural, namespace) = if cluster { ("clusterroles", "") } else { ("roles", namespace.unwrap_or_default()) };
        let Ok(key) = Key::new(&ResourceId::new(RBAC, plural), tenant, namespace, name) else { return Ok(None) };
        let entry = self.store.get(&key).await?;
        Ok(entry.as_ref().map(stored_form::decode).transpose()?.map(|role| Rule::of_role(&role)))
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn subject_of(binding: &Value, user: &UserInfo, namespace: Option<&str>) -> bool {
    binding["subjects"].as_array().into_iter().flatten().any(|subject| is_subject(subject, user, namespace))
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

fn forbidden(user: &UserInfo, wanted: &Attributes<'_>) -> ApiError {
    if let Some(path) = wanted.path {
        let message = format!("forbidden: User {:?} cannot {} path {path:?}", user.name, wanted.verb);
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
        "{qualified}{name}is forbidden: User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        user.name, wanted.verb, wanted.group
    );
    ApiError::new(Reason::Forbidden, message).with_details(Details {
        name: wanted.name.unwrap_or_default().into(),
        group: wanted.group.into(),
        kind: wanted.resource.into(),
        ..Details::default()
    })
}
