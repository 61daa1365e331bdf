//! Documents that clients keep: with an `ETag`, and not sent again to who has them.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::answer::response_of;

/// A document that is known by a hash, or that it is still the same.
pub fn answer(
    hash: &str,
    body: impl Into<Body>,
    headers: &HeaderMap,
    media_type: &str,
    cache: &'static str,
) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let has = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|known| {
        known.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
    });
    let mut response = match has {
        true => {
            let mut same = Response::new(Body::empty());
            *same.status_mut() = StatusCode::NOT_MODIFIED;
            same
        }
        false => {
            let mut whole = response_of(StatusCode::OK, body.into());
            if let Ok(kind) = HeaderValue::from_str(media_type) {
                whole.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            whole
        }
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}
