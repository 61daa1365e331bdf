//! Each layer that a request goes through is missed by the test of its name when it is not there.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{Request, StatusCode};
use hypernetes_api::{
    auth::{TokenAuthority, TokenError, TokenInfo},
    names,
};
use hypernetes_testing::{
    http::Answer,
    requests::{Refused, admin, by, user},
    server::{ACME, InProcess},
};
use serde_json::json;

use crate::bench::{MAPS, map};

type Frame = Result<Bytes, std::io::Error>;

/// A request of acme's admin whose body is this stream.
fn streamed(uri: &str, body: impl futures::Stream<Item = Frame> + Send + 'static) -> Request<Body> {
    let request = Request::builder().method("POST").uri(uri).header("content-type", "application/json");
    by(&admin(ACME), request.body(Body::from_stream(body)).unwrap())
}

fn mistake() -> Frame {
    panic!("a mistake of the server's")
}

#[tokio::test]
async fn panic_is_an_answer_and_hurts_nobody_else() {
    let bench = InProcess::with_tenants().await;
    let body = stream::once(async { mistake() });
    let message = bench.answer(streamed(MAPS, body)).await.refused(500, "InternalError");
    assert!(message.contains("caused apiserver to panic"), "{message}");
    // Neither a lock nor a place is left behind.
    bench.post(&admin(ACME), MAPS, map("a", "1")).await.ok();
    let budgets = bench.get(&admin(ACME), "/budgets").await.ok();
    let requests = budgets["items"].as_array().unwrap().iter().find(|row| row["name"] == "requests").unwrap();
    assert_eq!(requests["used"], 1, "this one");
}

#[tokio::test]
async fn request_info_is_parsed_before_anybody_is_asked_for() {
    let bench = InProcess::with_tenants().await;
    for (method, uri, code, reason) in [
        ("GET", "/api/v1/pods/../secrets", 400, "BadRequest"),
        ("GET", "/api/v1//pods", 404, "NotFound"),
        ("GET", "/api/v1/pods?limit=%zz", 400, "BadRequest"),
        ("PUT", "/api/v1/pods", 405, "MethodNotAllowed"),
    ] {
        let request = Request::builder().method(method).uri(uri).header("authorization", "Bearer none");
        bench.answer(request.body(Body::empty()).unwrap()).await.refused(code, reason);
    }
}

/// Knows one token.
struct Keystone;

#[async_trait]
impl TokenAuthority for Keystone {
    async fn validate(&self, token: &str) -> Result<TokenInfo, TokenError> {
        assert_ne!(token, "panic", "a mistake of the identity service's");
        Err(TokenError::Invalid)
    }
}

#[tokio::test]
async fn authentication_comes_before_everything_that_a_request_asks_for() {
    let bench = InProcess::with_tenants().await;
    bench.server.set_token_authority(Arc::new(Keystone));
    let with = |token: &str| {
        let request = Request::builder().uri("/api/v1/nothing").header("authorization", format!("Bearer {token}"));
        bench.answer(request.body(Body::empty()).unwrap())
    };
    with("wrong").await.refused(401, "Unauthorized");
    with("panic").await.refused(500, "InternalError");
}

#[tokio::test]
async fn fairness_counts_a_request_until_its_answer_is_read() {
    let bench = InProcess::with_tenants().await;
    let mut held = Vec::new();
    let refused = loop {
        let request = by(&admin(ACME), Request::get(MAPS).body(Body::empty()).unwrap());
        let response = bench.response(request).await;
        if response.status() != StatusCode::OK || held.len() > 1000 {
            break Answer::of(response).await;
        }
        held.push(response);
    };
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.refused(429, "TooManyRequests").contains("please try again later"));
    assert_eq!(held.len(), 200);
}

#[tokio::test]
async fn deadline_ends_what_would_wait_for_ever() {
    let bench = InProcess::with_tenants().await;
    let never = || stream::pending::<Frame>();
    let late = bench.answer(streamed(&format!("{MAPS}?timeout=1ms"), never())).await;
    assert_eq!(late.body["details"], json!({}));
    let message = late.refused(504, "Timeout");
    assert_eq!(message, "Timeout: request did not complete within the allotted timeout");
    let odd = bench.answer(streamed(&format!("{MAPS}?timeout=5"), never())).await.refused(400, "BadRequest");
    assert_eq!(odd, "invalid timeout specified in the request URL - time: missing unit in duration \"5\"");
}

#[tokio::test]
async fn authorization_is_asked_before_a_handler_reads_anything() {
    let bench = InProcess::with_tenants().await;
    let nobody = user("nobody", &[], ACME);
    let body = Body::from_stream(stream::once(async { mistake() }));
    bench.answer(by(&nobody, Request::post(MAPS).body(body).unwrap())).await.forbidden();
    // Impersonation is part of it: whom a request is made as is who has to have the right.
    let admin = user("admin", &[names::GROUP_KEYSTONE_ADMIN], ACME);
    let headers = [("impersonate-user", "nobody")];
    bench.send_with(&admin, "GET", MAPS, &headers, "").await.forbidden();
}
