//! `/snapshot`: the whole store, passwords' hashes and keys of tokens included, for the operator's masters alone.

use axum::body::Body;
use futures::stream;
use http::{Response, header};

use crate::Inner;

pub const PATH: &str = "/snapshot";

pub fn answer(server: &Inner) -> Response<Body> {
    // It is made while it is read: what waits is the store's own, shared.
    let pieces = server.store.stored().snapshot().map(Ok::<_, std::convert::Infallible>);
    let mut answer = Response::new(Body::from_stream(stream::iter(pieces)));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    answer
}
