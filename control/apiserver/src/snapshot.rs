//! `/snapshot`: the whole store, passwords' hashes and keys of tokens included, for the operator's masters alone.

use axum::body::Body;
use futures::stream;
use http::{Response, header};
use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo, names};

use crate::Inner;

/// # Errors
/// `Forbidden`: no role gives it, as none gives what is the identity service's own.
pub fn answer(server: &Inner, user: &UserInfo, tenant: &TenantId) -> Result<Response<Body>, ApiError> {
    let master = user.groups.iter().any(|group| group == names::GROUP_MASTERS);
    if !(tenant.is_system() && user.tenant.is_system() && master) {
        let message = format!("forbidden: User {:?} cannot get path \"/snapshot\"", user.name);
        return Err(ApiError::new(Reason::Forbidden, message));
    }
    // It is made while it is read: what waits is the store's own, shared.
    let pieces = server.store.stored().snapshot().map(Ok::<_, std::convert::Infallible>);
    let mut answer = Response::new(Body::from_stream(stream::iter(pieces)));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    Ok(answer)
}
