//! Requests to a router, without a network.

use axum::{Router, body::Body};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

/// A response. What is no JSON is null.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// A response, to its end.
    pub async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status, headers: parts.headers, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    /// The body.
    ///
    /// # Panics
    /// When the request was refused.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }
}

/// Has a router answer. An empty `token` is none.
pub async fn send(router: Router, token: &str, method: &str, uri: &str, body: impl Into<Body>) -> Answer {
    let headers = [("x-auth-token", token)];
    let headers = if token.is_empty() { &headers[..0] } else { &headers[..] };
    send_with(router, headers, method, uri, body).await
}

/// [`send`] with headers of one's own.
pub async fn send_with(
    router: Router,
    headers: &[(&str, &str)],
    method: &str,
    uri: &str,
    body: impl Into<Body>,
) -> Answer {
    Answer::of(router.oneshot(request(headers, method, uri, body)).await.unwrap()).await
}

pub(crate) fn request(headers: &[(&str, &str)], method: &str, uri: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

/// A body as text; null is none.
pub fn text(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}
