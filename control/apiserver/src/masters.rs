//! What is the operator's masters' alone, whatever roles say.

use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo, names};

/// # Errors
/// `Forbidden` for everybody else: no role gives it, as none gives what is the identity service's own.
pub fn check(user: &UserInfo, tenant: &TenantId, verb: &str, path: &str) -> Result<(), ApiError> {
    let master = user.groups.iter().any(|group| group == names::GROUP_MASTERS);
    if tenant.is_system() && user.tenant.is_system() && master {
        return Ok(());
    }
    let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
    Err(ApiError::new(Reason::Forbidden, message))
}
