//! What nodes and those who will be nodes may do with certificate signing requests: make them, and see what became of their
//! own. Upstream's `system:node-bootstrapper` and the like show everybody's.

use hypernetes_api::{ApiError, TenantId, auth::UserInfo};
use hypernetes_store::{Key, ResourceId, Store};

use crate::{authentication::bootstrap, authorization::Attributes, stored_form};

pub const GROUP: &str = "certificates.k8s.io";
pub const REQUESTS: &str = "certificatesigningrequests";

/// Whether a node may do it, or, before it has a name, whoever holds a bootstrap token.
///
/// # Errors
/// When the store does not answer.
pub async fn allows(
    store: &Store,
    user: &UserInfo,
    tenant: &TenantId,
    wanted: &Attributes<'_>,
) -> Result<bool, ApiError> {
    let here = tenant.is_system() && !wanted.everywhere && (wanted.group, wanted.resource) == (GROUP, REQUESTS);
    if !here {
        return Ok(false);
    }
    Ok(match (wanted.verb, wanted.subresource) {
        ("create", "") => true,
        ("get" | "list" | "watch", "") => match wanted.name {
            Some(name) => is_own(store, user, name).await?,
            None => false,
        },
        // As which the approver asks whether a certificate may be approved of (KEP-266).
        ("create", "nodeclient") => bootstrap::is_bootstrapper(user),
        ("create", "selfnodeclient") => !bootstrap::is_bootstrapper(user),
        _ => false,
    })
}

/// One that is gone is nobody's: who has made it is told that it is.
async fn is_own(store: &Store, user: &UserInfo, name: &str) -> Result<bool, ApiError> {
    let Ok(key) = Key::new(&ResourceId::new(GROUP, REQUESTS), &TenantId::system(), "", name) else { return Ok(false) };
    let Some(entry) = store.get(&key).await? else { return Ok(true) };
    Ok(stored_form::decode(&entry)?["spec"]["username"] == user.name.as_str())
}
