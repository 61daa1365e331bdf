//! `/openapi/v3`: an index, and a document for each group and version. The index tells of each what its content is known by, and who asks
//! for a document by that keeps it for good. And `/openapi/v2`, for older clients: one document for all.

use std::{convert::Infallible, sync::Arc};

use axum::body::Body;
use futures::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hypernetes_api::ApiError;
use hypernetes_kinds::{Document, View};
use serde_json::{Map, Value, json};

use super::{groups, kept};
use crate::{accept::Language, answer::bytes_response, request::Query};

/// Whoever has it asks again.
const AGAIN: &str = "no-cache, private";
/// It is what it is.
const FOR_GOOD: &str = "public, immutable";

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// To make all documents for the first time takes some tenths of a second: nobody else waits for it.
///
/// # Errors
/// When making them fails.
pub async fn index(view: Arc<View>) -> Result<Document, ApiError> {
    let made = tokio::task::spawn_blocking(move || {
        view.kept("openapi/v3", || {
            let mut paths = Map::<String, Value>::new();
            for group in groups::all(&view) {
                for version in group.versions {
                    if let Some(document) = view.document(group.name, version) {
                        let path = path(group.name, version);
                        let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                        paths.insert(path, json!({"serverRelativeURL": url}));
                    }
                }
            }
            json!({"paths": paths}).to_string().into_bytes()
        })
    });
    made.await.map_err(|error| ApiError::internal(format!("making documents: {error}")))
}

/// # Errors
/// `NotFound` where there is no such group and version.
pub fn document(
    view: &View,
    group: &str,
    version: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Response<Body>, ApiError> {
    let Some(document) = view.document(group, version) else { return Ok(plain(StatusCode::NOT_FOUND)) };
    if !is_json_wanted(headers) {
        return Ok(plain(StatusCode::NOT_ACCEPTABLE));
    }
    let hash = query.get("hash");
    if !hash.is_empty() && hash != &*document.hash {
        let mut moved = plain(StatusCode::MOVED_PERMANENTLY);
        let now = format!("/openapi/v3/{}?hash={}", path(group, version), document.hash);
        if let Ok(now) = HeaderValue::from_str(&now) {
            moved.headers_mut().insert(header::LOCATION, now);
        }
        return Ok(moved);
    }
    let cache = if hash.is_empty() { AGAIN } else { FOR_GOOD };
    Ok(kept::answer(&document.hash, document.bytes, headers, Language::Json.media_type(), cache))
}

/// gnostic's message, as it is asked for and as it is called in the answer.
const GNOSTIC: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// # Errors
/// When making it fails.
pub async fn swagger(view: Arc<View>, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = |clause: &str| clause.split(';').next().unwrap_or_default().trim().to_owned();
    // The first that there is; weights are not for it.
    let named = accept.split(',').map(first).find_map(|name| {
        let json = matches!(name.as_str(), "" | "*/*" | "application/*" | "application/json");
        if json { Some(false) } else { GNOSTIC.contains(&name.as_str()).then_some(true) }
    });
    let Some(protobuf) = named else { return Ok(plain(StatusCode::NOT_ACCEPTABLE)) };
    let made = tokio::task::spawn_blocking(move || view.swagger());
    let made = made.await.map_err(|error| ApiError::internal(format!("making a document: {error}")))?;
    let (pieces, kind) = match protobuf {
        true => (&made.protobuf, GNOSTIC[1]),
        false => (&made.json, Language::Json.media_type()),
    };
    let body = Body::from_stream(stream::iter(pieces.clone().into_iter().map(Ok::<_, Infallible>)));
    Ok(kept::answer(&made.hash, body, headers, kind, AGAIN))
}

/// Whether an answer in JSON is taken.
pub fn is_json_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.is_empty()
        || accept.split(',').any(|clause| {
            let name = clause.split(';').next().unwrap_or_default().trim();
            matches!(name, "*/*" | "application/*" | "application/json")
        })
}

/// Nothing but a code.
fn plain(code: StatusCode) -> Response<Body> {
    let mut response = bytes_response(code, Default::default());
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}
