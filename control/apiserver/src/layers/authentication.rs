//! Who asks.

use hypernetes_api::{ApiError, auth::UserInfo};

use super::request_info::Incoming;
use crate::{Inner, authentication::Connection};

/// # Errors
/// `Unauthorized` for a credential that is none, or none any more.
pub async fn who(server: &Inner, request: &Incoming) -> Result<UserInfo, ApiError> {
    // What was acknowledged or told to anybody before is in all watches now, by which those who decide know what they know. Who
    // asks whether the store answers does not wait for that it does.
    if !request.info.is_of_health() {
        server.store.revision().await?;
    }
    let connection = Connection::of(request.extensions());
    server.authenticator.authenticate(request.headers(), connection).await
}
