//! `list`: an answer that is made while it is read.
//!
//! What waits for its reader is the store's own bytes, shared, and one piece of the answer: a list that nobody reads costs
//! no more than what is charged for it before it begins.

use std::{io, sync::Arc, vec};

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{Response, StatusCode};
use hypernetes_api::ApiError;
use hypernetes_store::{Entry, Listing};
use serde_json::Value;

use crate::{
    Call, Inner,
    accept::Language,
    answer::response_of,
    fairness::ticket::Ticket,
    read::{
        self, Reading, Wanted,
        binary::Binary,
        form::Form,
        gzip::Gzip,
        page::{self, Next},
        written::Written,
    },
    request::options::ListOptions,
};

/// So many of the stored bytes are gone through at a time; between two, others have their turn.
const PIECE: usize = 64 << 10;

struct Lister {
    call: Arc<Call>,
    written: Written,
    entries: vec::IntoIter<Entry>,
    gzip: Option<Gzip>,
    /// What comes before the objects, until it has been sent.
    head: Option<String>,
    /// An object has been written: the next comes after a comma.
    some: bool,
    ended: bool,
}

pub async fn list(server: &Inner, call: &Arc<Call>, ticket: &mut Ticket) -> Result<Response<Body>, ApiError> {
    let (options, wanted) = (ListOptions::parse(call, false)?, Wanted::of(call, Reading::List)?);
    let (listing, next) = read::range(server, call, &options, Some(ticket)).await?;
    answer(call, wanted, listing, next).await
}

/// A listing, and what is said of the next page.
///
/// # Errors
/// When an object is damaged, where that is found out before the answer begins.
pub async fn answer(
    call: &Arc<Call>,
    wanted: Wanted,
    listing: Listing,
    next: Option<Next>,
) -> Result<Response<Body>, ApiError> {
    let Wanted { form, language } = wanted;
    if language == Language::Protobuf {
        return Binary::of(call, form).list(call, &listing, next.as_ref()).await;
    }
    let metadata = page::metadata(listing.revision, next.as_ref());
    let size = listing.entries.iter().map(|entry| entry.value.len()).sum();
    // What becomes YAML is not compressed.
    let gzip = Gzip::of(&call.headers, size).filter(|_| language != Language::Yaml);
    let compressed = gzip.is_some();
    let lister = Lister {
        written: Written::of(call, form),
        gzip,
        entries: listing.entries.into_iter(),
        head: Some(head(call, form, &metadata)),
        some: false,
        ended: false,
        call: call.clone(),
    };
    let mut response = response_of(StatusCode::OK, Body::from_stream(stream::try_unfold(lister, Lister::piece)));
    if compressed {
        Gzip::mark(response.headers_mut());
    }
    Ok(response)
}

/// All that comes before the first object.
fn head(call: &Call, form: Form, metadata: &Value) -> String {
    let ty = &call.served.ty;
    match form {
        Form::Object => {
            let kind = &call.resource.list_kind;
            format!(r#"{{"kind":"{kind}","apiVersion":"{}","metadata":{metadata},"items":["#, ty.api_version())
        }
        Form::Metadata => format!(
            r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{metadata},"items":["#
        ),
        Form::Table(_) => format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{metadata},"columnDefinitions":{},"rows":["#,
            call.resource.column_definitions()
        ),
    }
}

impl Lister {
    /// The next piece of the answer, and the rest.
    async fn piece(mut self) -> Result<Option<(Bytes, Self)>, ApiError> {
        while !self.ended {
            // With room for most objects by which it is longer.
            let mut out = BytesMut::with_capacity(PIECE + PIECE / 8);
            out.put_slice(self.head.take().unwrap_or_default().as_bytes());
            let mut seen = 0;
            while seen < PIECE && !self.ended {
                match self.entries.next() {
                    Some(entry) => {
                        seen += entry.value.len();
                        // The answer has begun: all that can be done is to end the connection.
                        let damaged = |error: &ApiError| tracing::error!(key = %entry.key, %error, "listing an object");
                        self.write(&mut out, &entry).inspect_err(damaged)?;
                    }
                    None => {
                        out.put_slice(b"]}\n");
                        self.ended = true;
                    }
                }
            }
            self.call.pause().await;
            let out = self.compressed(out.freeze())?;
            // What is compressed may come with the next piece.
            if !out.is_empty() {
                return Ok(Some((out, self)));
            }
        }
        Ok(None)
    }

    fn write(&mut self, out: &mut BytesMut, entry: &Entry) -> Result<(), ApiError> {
        self.separate(out);
        self.written.write(&self.call, out, entry, entry.mod_revision)
    }

    fn compressed(&mut self, piece: Bytes) -> Result<Bytes, ApiError> {
        let Some(gzip) = &mut self.gzip else { return Ok(piece) };
        let failed = |error: io::Error| ApiError::internal(format!("compressing an answer: {error}"));
        let mut out = gzip.piece(&piece).map_err(failed)?;
        if let Some(gzip) = self.gzip.take_if(|_| self.ended) {
            out.extend(gzip.end().map_err(failed)?);
        }
        Ok(out.into())
    }

    fn separate(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.some, true) {
            out.put_u8(b',');
        }
    }
}
