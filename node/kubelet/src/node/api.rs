//! Calls to the API server: each has a time within which it is answered.

use std::time::Duration;

use hypernetes_api::InvalidName;

/// Longest that one call to the API server may take.
const CALL: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// In the server's words.
    #[error("{0}")]
    Server(#[from] kube::Error),
    #[error("the API server did not answer within {} s", CALL.as_secs())]
    Late,
    #[error("the token request has no answer")]
    NoToken,
}

impl ApiError {
    /// The status code, where the server gave one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Server(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// The answer, unless it comes too late.
///
/// # Errors
/// [`ApiError::Late`], or as the server says.
pub async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApiError> {
    Ok(tokio::time::timeout(CALL, call).await.map_err(|_| ApiError::Late)??)
}
