//! Errors as Cinder tells them: `{"<fault>": {"code", "message"}}`.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde_json::json;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    BadRequest(String),
    #[error("The request you have made requires authentication.")]
    Unauthorized,
    #[error("Policy doesn't allow {0} to be performed.")]
    Forbidden(&'static str),
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
        // What the client sent comes back in the message, but not without bound.
        Self::NotFound { kind, id: id.chars().take(128).collect() }
    }

    pub fn not_supported(what: &str) -> Self {
        Self::BadRequest(format!("{what} is not supported."))
    }

    /// Status, and the name of the fault.
    fn fault(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "badRequest"),
            // This one comes from Keystone's middleware before Cinder, and has its form.
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

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                400 | 422 => Self::BadRequest(status.message),
                404 => Self::NotFound { kind: "Resource", id: status.message },
                409 => Self::Conflict(status.message),
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
        let (status, fault) = self.fault();
        let mut body = json!({"code": status.as_u16(), "message": self.to_string()});
        if status == StatusCode::UNAUTHORIZED {
            body["title"] = json!("Unauthorized");
        }
        (status, Json(json!({fault: body}))).into_response()
    }
}
