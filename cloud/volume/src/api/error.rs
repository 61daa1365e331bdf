//! Errors as Cinder tells them: `{"<fault>": {"code", "message"}}`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hypernetes_facade::{Fault, PageError, ServiceError, excerpt, respond};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    BadRequest(String),
    #[error("The request you have made requires authentication.")]
    Unauthorized,
    #[error("Policy doesn't allow {0} to be performed.")]
    Forbidden(String),
    #[error("{kind} {id} could not be found.")]
    NotFound { kind: &'static str, id: String },
    #[error("The resource could not be found.")]
    NoSuchPath,
    #[error("The method is not allowed for this resource.")]
    MethodNotAllowed,
    #[error("{0}")]
    Conflict(String),
    #[error("Request is too large.")]
    TooLarge,
    #[error("The service is temporarily unavailable: {0}")]
    Unavailable(String),
    #[error("There is no room left to store this.")]
    NoRoom,
}

impl Error {
    pub fn not_found(kind: &'static str, id: &str) -> Self {
        Self::NotFound { kind, id: excerpt(id) }
    }

    pub fn not_supported(what: &str) -> Self {
        Self::BadRequest(format!("{what} is not supported."))
    }

    /// Status, and the name of the fault.
    fn fault(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "badRequest"),
            // Told in Keystone's form.
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "error"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound { .. } | Self::NoSuchPath => (StatusCode::NOT_FOUND, "itemNotFound"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "badMethod"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflictingRequest"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "overLimit"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "serviceUnavailable"),
            Self::NoRoom => (StatusCode::INSUFFICIENT_STORAGE, "insufficientStorage"),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unauthorized => Self::Unauthorized,
            Fault::Forbidden(action) => Self::Forbidden(action),
            Fault::Query(why) | Fault::Invalid(why) => Self::BadRequest(why),
            Fault::Malformed(why) => Self::BadRequest(format!("Malformed request body: {why}.")),
            Fault::TooLarge | Fault::Unreadable => Self::TooLarge,
            Fault::NoSuchPath => Self::NoSuchPath,
            Fault::MethodNotAllowed => Self::MethodNotAllowed,
            Fault::Unavailable(why) | Fault::Denied(why) => Self::Unavailable(why),
            Fault::NotFound(what) => Self::NotFound { kind: "Resource", id: what },
            Fault::Conflict(why) => Self::Conflict(why),
            Fault::NoRoom => Self::NoRoom,
        }
    }
}

impl From<PageError> for Error {
    fn from(error: PageError) -> Self {
        match error {
            PageError::NotANumber(name) => Self::BadRequest(format!("{name} must be a non-negative integer")),
            PageError::NoSuchMarker(id) => Self::not_found("Volume", &id),
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Fault::from(error).into()
    }
}

impl ServiceError for Error {
    // Nobody was ever sent one from here.
    const CHALLENGE: bool = false;

    fn status(&self) -> StatusCode {
        self.fault().0
    }

    fn body(&self) -> Value {
        let (status, fault) = self.fault();
        json!({fault: {"code": status.as_u16(), "message": self.to_string()}})
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond(&self)
    }
}
