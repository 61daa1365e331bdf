//! What a request names and asks for, and how it is refused.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};

use crate::node::Shared;

/// A container, as a request's path names it.
#[derive(serde::Deserialize)]
pub(super) struct ContainerPath {
    pub tenant: String,
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// A query's parameters in order: `command` comes as often as it has words.
pub(super) fn parameters(uri: &Uri) -> Vec<(String, String)> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

pub(super) fn flag(parameters: &[(String, String)], name: &str) -> bool {
    parameters.iter().any(|(key, value)| key == name && matches!(value.as_str(), "1" | "true"))
}

/// What went wrong, as plain text; the API server makes a `Status` of it.
pub(super) struct Refusal(pub StatusCode, pub String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl Refusal {
    pub fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    /// What the runtime says, without where the node keeps what.
    pub fn of_runtime(shared: &Shared, status: &tonic::Status) -> Self {
        let code = match status.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, shared.redact.clean(status.message()))
    }
}
