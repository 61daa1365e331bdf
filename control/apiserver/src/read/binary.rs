//! Objects as messages of Kubernetes' protobuf: made of their bytes once, when somebody first wants them so, and kept beside these.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{Response, StatusCode, header};
use hypernetes_api::ApiError;
use hypernetes_kinds::{Served, registry};
use hypernetes_schema::protobuf::{ProtobufError, encode};
use hypernetes_store::{Change, Entry, Listing, Revision};
use serde_json::Value;

use crate::{
    Call,
    accept::Language,
    answer::response_of,
    made::{Made, count},
    read::{conversion::Kept, form::Form, gzip::Gzip, look::Look, page::Next},
    stored_form::Event,
};

/// So many bytes of messages are made between two pauses.
const PIECE: usize = 64 << 10;

/// How the objects of one call become messages.
pub struct Binary {
    look: Look,
    metadata: bool,
    served: Arc<Served>,
}

fn failed(error: ProtobufError) -> ApiError {
    ApiError::internal(format!("encoding an object: {error}"))
}

impl Binary {
    pub fn of(call: &Call, form: Form) -> Self {
        Self { look: Look::of(call, form), metadata: form == Form::Metadata, served: call.served.clone() }
    }

    /// Version and kind of what the messages are.
    fn kind(&self) -> (String, &str) {
        match self.metadata {
            true => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
            false => (self.served.ty.api_version(), &self.served.ty.kind),
        }
    }

    /// The object's message; `at` is the version that it says it has.
    ///
    /// # Errors
    /// When it is damaged.
    fn message(&self, call: &Call, entry: &Entry, at: Revision) -> Result<Bytes, ApiError> {
        let make = || {
            count(Made::Message);
            let mut json = BytesMut::new();
            self.look.write(&mut json, entry, at, &call.resource)?;
            let object: Value = serde_json::from_slice(&json).map_err(|error| ApiError::internal(error.to_string()))?;
            let encode = if self.metadata { encode::metadata } else { encode::message };
            encode(&self.served.ty, &object).map(Bytes::from).map_err(failed)
        };
        match at == entry.mod_revision {
            true => entry.form(Kept::<Look>::default).get_or_make(self.look.clone(), make),
            false => make(),
        }
    }

    /// The object in its envelope.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn object(&self, call: &Call, entry: &Entry, at: Revision) -> Result<Bytes, ApiError> {
        let (version, kind) = self.kind();
        Ok(encode::enveloped(&version, kind, &self.message(call, entry, at)?).into())
    }

    /// An event of a watch of what is there.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn event(&self, call: &Call, event: Event, entry: &Entry, at: Revision) -> Result<Bytes, ApiError> {
        Ok(encode::event(event.name(), &self.object(call, entry, at)?).into())
    }

    /// An event of a watch, which is made once for all whom the change is told to.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn change(&self, call: &Call, event: Event, entry: &Entry, change: &Change) -> Result<Bytes, ApiError> {
        let key = (self.look.clone(), event);
        let events = change.form(Kept::<(Look, Event)>::default);
        events.get_or_make(key, || {
            count(Made::Line);
            self.event(call, event, entry, change.revision)
        })
    }

    /// A listing, and what is said of the next page. How long it is stands at its beginning: all of it is made before.
    ///
    /// # Errors
    /// When one is damaged.
    pub async fn list(&self, call: &Call, listing: &Listing, next: Option<&Next>) -> Result<Response<Body>, ApiError> {
        let (mut messages, mut length, mut seen) = (Vec::with_capacity(listing.entries.len()), 0, 0);
        for entry in &listing.entries {
            let message = self.message(call, entry, entry.mod_revision)?;
            let head = Bytes::from(encode::item_head(message.len()));
            length += head.len() + message.len();
            seen += message.len();
            messages.extend([head, message]);
            if seen > PIECE {
                seen = 0;
                call.pause().await;
            }
        }
        let (version, kind) = self.kind();
        let remaining = next.and_then(|next| next.remaining).and_then(|remaining| remaining.try_into().ok());
        let token = next.map(|next| next.token.as_str());
        let head = encode::list_head(&listing.revision.to_string(), token, remaining);
        let envelope = encode::envelope_head(&version, &format!("{kind}List"), head.len() + length);
        let gzip = Gzip::of(&call.headers, length);
        let compressed = gzip.is_some();
        let pieces = [envelope.into(), head.into()]
            .into_iter()
            .chain(messages)
            .chain([Bytes::from_static(&encode::ENVELOPE_END)]);
        let mut response = match gzip {
            None => {
                let pieces = joined(pieces).map(Ok::<_, std::convert::Infallible>);
                response_of(StatusCode::OK, Body::from_stream(stream::iter(pieces)))
            }
            Some(mut gzip) => {
                let failed = |error: std::io::Error| ApiError::internal(format!("compressing an answer: {error}"));
                let mut out = Vec::new();
                for piece in joined(pieces) {
                    out.extend(gzip.piece(&piece).map_err(failed)?);
                    call.pause().await;
                }
                out.extend(gzip.end().map_err(failed)?);
                response_of(StatusCode::OK, Body::from(out))
            }
        };
        if compressed {
            Gzip::mark(response.headers_mut());
        }
        mark(&mut response);
        Ok(response)
    }
}

/// Small pieces, several in one.
fn joined(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        pieces.peek()?;
        let mut out = BytesMut::with_capacity(PIECE);
        while out.len() < PIECE
            && let Some(piece) = pieces.next()
        {
            out.extend_from_slice(&piece);
        }
        Some(out.freeze())
    })
}

/// Says that the answer is in protobuf.
pub fn mark(response: &mut Response<Body>) {
    let kind = http::HeaderValue::from_static(Language::Protobuf.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
}

/// What is no object of a store, in its envelope: a status, an empty object that only tells a version. None: it has no messages.
pub fn enveloped(value: &Value) -> Option<Vec<u8>> {
    let (version, kind) = (value["apiVersion"].as_str()?, value["kind"].as_str()?);
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    let message = match (group, kind) {
        ("meta.k8s.io", "PartialObjectMetadata") => encode::metadata(&*registry::kind("", "v1", "Pod")?, value),
        _ => encode::message(&*registry::kind(group, short, kind)?, value),
    };
    Some(encode::enveloped(version, kind, &message.ok()?))
}
