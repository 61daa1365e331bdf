//! Errors as Keystone tells them: `{"error": {"code", "message", "title"}}`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use hypernetes_api::auth::Spent;
use hypernetes_facade::{Fault, ServiceError, excerpt, keystone_error, respond};
use serde_json::Value;

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
        Self::NotFound { kind, id: excerpt(&id.into()) }
    }

    pub(crate) fn forbidden(action: impl Into<String>) -> Self {
        Self::Forbidden(action.into())
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unauthorized => Self::Unauthorized,
            Fault::Forbidden(action) => Self::Forbidden(action),
            Fault::Query(why) | Fault::Invalid(why) => Self::BadRequest(why),
            Fault::Malformed(why) => Self::BadRequest(format!("Malformed request body: {why}.")),
            Fault::TooLarge => Self::TooLarge,
            Fault::Unreadable => Self::BadRequest("The body could not be read.".into()),
            Fault::NoSuchPath => Self::NoSuchPath,
            Fault::MethodNotAllowed => Self::MethodNotAllowed,
            Fault::Unavailable(why) | Fault::Denied(why) => Self::Unavailable(why),
            Fault::NotFound(what) => Self::NotFound { kind: "object", id: what },
            Fault::Conflict(why) => Self::Conflict { kind: "object", why },
            Fault::NoRoom => Self::NoRoom,
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Fault::from(error).into()
    }
}

impl ServiceError for Error {
    fn status(&self) -> StatusCode {
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

    fn body(&self) -> Value {
        keystone_error(self.status(), &self.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = respond(&self);
        if let Self::TooManyAttempts(seconds) = self {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::WrongPassword { spent } = self {
            response.extensions_mut().insert(Spent { cost: spent, tenant: None });
        }
        response
    }
}
