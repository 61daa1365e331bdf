//! Who asks.

use hypernetes_api::{ApiError, auth::UserInfo};

use super::request_info::Incoming;
use crate::{Inner, authentication::Connection};

/// # Errors
/// `Unauthorized` for a credential that is none, or none any more.
pub async fn who(server: &Inner, request: &Incoming) -> Result<UserInfo, ApiError> {
    let connection = Connection::of(request.extensions());
    server.authenticator.authenticate(&*server.store, request.headers(), connection).await
}
