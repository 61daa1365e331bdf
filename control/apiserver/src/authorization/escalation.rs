//! Nobody gives away what they do not have: roles and bindings are written only by whoever holds their rules, or may
//! `escalate` or `bind` the role.

use hypernetes_api::ApiError;
use serde_json::Value;

use crate::{
    Call, Inner,
    authorization::{
        Attributes,
        compiled::RoleRef,
        defaults::GROUP,
        is_cluster_admin,
        rbac::{self, Quoted, Rule},
    },
};

/// # Errors
/// `Forbidden`, worded as Kubernetes does; `NotFound` for a binding to a role that there is not.
pub async fn check(server: &Inner, call: &Call, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if call.resource.ty.group != GROUP || is_cluster_admin(&call.user) {
        return Ok(());
    }
    // Whoever clears away only lets go.
    if old.is_some_and(|old| meaning(old) == meaning(object)) {
        return Ok(());
    }
    let authorizer = server.authorizer();
    let tenant = call.tenant()?;
    let namespace = call.target.namespace.as_deref();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let may = async |verb: &str, resource: &str, name: &str| {
        let wanted = Attributes { verb, group: GROUP, resource, namespace, name: Some(name), ..Default::default() };
        authorizer.allows(&call.user, &tenant, &wanted).await
    };
    let wanted = match call.resource.plural.as_str() {
        plural @ ("roles" | "clusterroles") => {
            if may("escalate", plural, name).await? {
                return Ok(());
            }
            Rule::of_role(object)
        }
        _ => {
            let reference = RoleRef::compile(&object["roleRef"]);
            let plural = if reference.cluster { "clusterroles" } else { "roles" };
            if may("bind", plural, &reference.name).await? {
                return Ok(());
            }
            let rules = authorizer.role(&tenant, &reference, namespace).await?;
            rules.ok_or_else(|| ApiError::not_found(GROUP, plural, &reference.name))?
        }
    };
    let held = authorizer.rules(&call.user, &tenant, namespace).await?;
    let Some(missing) = rbac::missing(&held, &wanted) else {
        return Err(call.forbidden(name, "it has more rules than can be compared with those of its writer"));
    };
    if missing.is_empty() {
        // What it selects may have any rules one day.
        let all = !object["aggregationRule"].is_object()
            || rbac::missing(&held, &Rule::all()).is_some_and(|missing| missing.is_empty());
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return if all { Ok(()) } else { Err(call.forbidden(name, why)) };
    }
    let mut missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    missing.sort_unstable();
    let (user, groups) = (&call.user.name, Quoted(&call.user.groups));
    let why = format!(
        "user {user:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
        missing.join("\n")
    );
    Err(call.forbidden(name, &why))
}

/// The object without what only says whose it is and who clears it away.
pub fn meaning(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["finalizers", "generation", "managedFields", "ownerReferences", "resourceVersion"] {
            metadata.remove(field);
        }
    }
    object
}
