//! Errors as Keystone tells them: `{"error": {"code", "message", "title"}}`.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use hypernetes_api::auth::Spent;
use serde_json::json;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadRequest(String),
    /// No valid token, or no valid credentials; which part of them is wrong is not told.
    #[error("The request you have made requires authentication.")]
    Unauthorized,
    /// The same to whoever asks; with what it took to find out.
    #[error("The request you have made requires authentication.")]
    WrongPassword { spent: Duration },
    #[error("Attempted to authenticate with an unsupported method.")]
    UnsupportedMethod,
    /// The policy's name of the action, or a sentence.
    #[error("You are not authorized to perform the requested action: {0}.")]
    Forbidden(String),
    #[error("Could not find {kind}: {id}.")]
    NotFound { kind: &'static str, id: String },
    #[error("The resource could not be found.")]
    NoSuchPath,
    #[error("The method is not allowed for the requested URL.")]
    MethodNotAllowed,
    #[error("Conflict occurred attempting to store {kind} - {why}.")]
    Conflict { kind: &'static str, why: String },
    #[error("Request is too large.")]
    TooLarge,
    #[error("{0} is not supported.")]
    NotSupported(&'static str),
    /// Too many passwords are being checked, or the API server does not answer.
    #[error("The service is temporarily unavailable: {0}")]
    Unavailable(String),
    /// Seconds to wait.
    #[error("Too many logins have failed. Try again in {0} seconds.")]
    TooManyAttempts(u64),
    #[error("Too many tokens are revoked that have not expired. Change the password to revoke all of a user's.")]
    TooManyRevocations,
    #[error("There is no room left to store this.")]
    NoRoom,
}

impl Error {
    pub(crate) fn not_found(kind: &'static str, id: impl Into<String>) -> Self {
        // What the client sent comes back in the message, but not without bound.
        Self::NotFound { kind, id: id.into().chars().take(128).collect() }
    }

    pub(crate) fn forbidden(action: impl Into<String>) -> Self {
        Self::Forbidden(action.into())
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::WrongPassword { .. } | Self::UnsupportedMethod => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound { .. } | Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyAttempts(_) | Self::TooManyRevocations => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                400 | 422 => Self::BadRequest(status.message),
                404 => Self::NotFound { kind: "object", id: status.message },
                409 => Self::Conflict { kind: "object", why: status.message },
                413 => Self::TooLarge,
                507 => Self::NoRoom,
                _ => Self::Unavailable(status.message),
            },
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let body = Json(json!({"error": {"code": status.as_u16(), "message": self.to_string(), "title": title}}));
        let mut response = (status, body).into_response();
        if let Self::TooManyAttempts(seconds) = self {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::WrongPassword { spent } = self {
            response.extensions_mut().insert(Spent(spent));
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Keystone uri=\"/identity\""));
        }
        response
    }
}
