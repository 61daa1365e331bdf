//! A service's errors as responses.

use std::fmt::Display;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::Fault;

/// One service's errors: its words for what every façade refuses, and the JSON that it tells all of them in. Its `Display` is
/// the message that clients are told; its `IntoResponse` is [`respond`], with headers of its own.
pub trait ServiceError: From<Fault> + Display + IntoResponse {
    /// Whether 401 says where tokens are had, by `WWW-Authenticate`.
    const CHALLENGE: bool = true;

    /// HTTP's code of the error.
    fn status(&self) -> StatusCode;

    /// The JSON around the message. It is not asked for 401: that comes from Keystone's middleware, which stands in front of
    /// every service, and has the form of [`keystone_error`].
    fn body(&self) -> Value;
}

/// The response to an error.
pub fn respond<E: ServiceError>(error: &E) -> Response {
    let status = error.status();
    if status != StatusCode::UNAUTHORIZED {
        return (status, Json(error.body())).into_response();
    }
    let mut response = (status, Json(keystone_error(status, &error.to_string()))).into_response();
    if E::CHALLENGE {
        let keystone = HeaderValue::from_static("Keystone uri=\"/identity\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, keystone);
    }
    response
}

/// `{"error": {"code", "message", "title"}}`, the title being HTTP's name of the status.
pub fn keystone_error(status: StatusCode, message: &str) -> Value {
    let title = status.canonical_reason().unwrap_or_default();
    json!({"error": {"code": status.as_u16(), "message": message, "title": title}})
}
