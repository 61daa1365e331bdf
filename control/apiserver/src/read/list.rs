//! `list`: an answer that is made while it is read.
//!
//! What waits for its reader is the store's own bytes, shared, and one piece of the answer: a list that nobody reads costs
//! no more than what is charged for it before it begins.

use std::{sync::Arc, vec};

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{Response, StatusCode};
use hypernetes_api::ApiError;
use hypernetes_store::{Entry, Listing};
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    answer::response_of,
    fairness::ticket::Ticket,
    read::{self, Form},
    request::{options::ListOptions, selectors::Selector},
    stored_form,
};

/// So many of the stored bytes are gone through at a time; between two, others have their turn.
const PIECE: usize = 64 << 10;

struct Lister {
    call: Arc<Call>,
    form: Form,
    selector: Selector,
    entries: vec::IntoIter<Entry>,
    /// What comes before the objects, until it has been sent.
    head: Option<String>,
    /// An object has been written: the next comes after a comma.
    some: bool,
    ended: bool,
}

pub async fn list(server: &Inner, call: &Arc<Call>, ticket: &mut Ticket) -> Result<Response<Body>, ApiError> {
    let (options, form) = (ListOptions::parse(call, false)?, Form::of(call)?);
    let (listing, next) = read::range(server, call, &options, Some(ticket)).await?;
    Ok(answer(call, form, options.selector, listing, next))
}

/// Those of a listing that are selected, and the token of the next page.
pub fn answer(
    call: &Arc<Call>,
    form: Form,
    selector: Selector,
    listing: Listing,
    next: Option<String>,
) -> Response<Body> {
    let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
    if let Some(next) = next {
        metadata["continue"] = next.into();
    }
    let lister = Lister {
        form,
        selector,
        entries: listing.entries.into_iter(),
        head: Some(head(call, form, &metadata)),
        some: false,
        ended: false,
        call: call.clone(),
    };
    response_of(StatusCode::OK, Body::from_stream(stream::try_unfold(lister, Lister::piece)))
}

/// All that comes before the first object.
fn head(call: &Call, form: Form, metadata: &Value) -> String {
    let ty = &call.served.ty;
    match form {
        Form::Object => {
            format!(r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#, ty.kind, ty.api_version())
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
        let mut out = BytesMut::from(self.head.take().unwrap_or_default().as_bytes());
        while !self.ended {
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
            // Where nothing of a piece was selected, there is nothing to send.
            if !out.is_empty() {
                return Ok(Some((out.freeze(), self)));
            }
        }
        Ok(None)
    }

    fn write(&mut self, out: &mut BytesMut, entry: &Entry) -> Result<(), ApiError> {
        if read::as_stored(&self.call, self.form) && self.selector.is_empty() {
            self.separate(out);
            stored_form::write(out, &entry.value, entry.mod_revision);
            return Ok(());
        }
        let mut object = stored_form::decode(entry)?;
        if !self.selector.matches(&object) {
            return Ok(());
        }
        self.separate(out);
        read::mark(&self.call, &entry.key, &mut object);
        let shown = match self.form {
            Form::Table(include) => read::row(&self.call, &object, include),
            form => read::in_form(&self.call, form, object, Value::Null, false),
        };
        serde_json::to_writer(out.writer(), &shown).map_err(|error| ApiError::internal(error.to_string()))
    }

    fn separate(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.some, true) {
            out.put_u8(b',');
        }
    }
}
