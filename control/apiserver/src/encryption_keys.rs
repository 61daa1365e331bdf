//! `/encryption-keys`: other keys for the store while it works, for the operator's masters alone.
//!
//! What is posted is a file of keys (`hypernetes_store::Encryption::parse`); it is not recorded. It is worked on behind the answer; how far that is can
//! be got: `{"state": "going", "key": 2}`, then `done`, or `failed` with why.

use std::sync::Arc;

use axum::body::Body;
use http::{Response, StatusCode, header};
use hypernetes_api::{ApiError, Reason};
use hypernetes_store::Encryption;
use parking_lot::Mutex;
use serde::Serialize;

use crate::Inner;

pub const PATH: &str = "/encryption-keys";

/// The change of keys that was asked for last.
#[derive(Default, Clone)]
pub struct Rotation(Arc<Mutex<State>>);

#[derive(Default, Clone, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
enum State {
    /// Nobody has asked yet.
    #[default]
    None,
    Going {
        key: u32,
    },
    /// All that is stored is sealed with this key.
    Done {
        key: u32,
    },
    Failed {
        why: String,
    },
}

/// How far it is.
pub fn state(server: &Inner) -> Result<Response<Body>, ApiError> {
    answer(StatusCode::OK, &server.rotation.0.lock())
}

/// Begins.
///
/// # Errors
/// `BadRequest` for what is no file of keys, whose text is not shown; `Conflict` while keys are being changed.
pub fn begin(server: &Inner, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("it is no text"))?;
    let keys = Encryption::parse(text, "what was sent").map_err(|error| ApiError::bad_request(error.to_string()))?;
    let (going, rotation) = (State::Going { key: keys.current() }, server.rotation.clone());
    {
        let mut state = rotation.0.lock();
        if matches!(*state, State::Going { .. }) {
            return Err(ApiError::new(Reason::Conflict, "the store's keys are being changed"));
        }
        *state = going.clone();
    }
    let store = server.store.stored().clone();
    tokio::spawn(async move {
        let key = keys.current();
        let state = match store.rotate(keys).await {
            Ok(()) => {
                tracing::info!(key, "all that is stored is sealed with this key");
                State::Done { key }
            }
            Err(error) => {
                tracing::warn!(key, %error, "changing the store's keys");
                State::Failed { why: error.to_string() }
            }
        };
        *rotation.0.lock() = state;
    });
    answer(StatusCode::ACCEPTED, &going)
}

fn answer(code: StatusCode, state: &State) -> Result<Response<Body>, ApiError> {
    let text = serde_json::to_vec(state).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(answer)
}
