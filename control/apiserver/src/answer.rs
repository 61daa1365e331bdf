//! Answers in JSON.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hypernetes_api::ApiError;
use serde_json::Value;

use crate::warnings;

pub fn error_response(error: &ApiError) -> Response<Body> {
    let mut response = json_response(error.code(), &error.to_status());
    if let Some(seconds) = error.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    for warning in warnings::headers(&error.warnings) {
        response.headers_mut().append(header::WARNING, warning);
    }
    response
}

pub fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    bytes_response(code, value.to_string().into())
}

pub fn bytes_response(code: StatusCode, bytes: Bytes) -> Response<Body> {
    response_of(code, Body::from(bytes))
}

/// An answer in JSON.
pub fn response_of(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
