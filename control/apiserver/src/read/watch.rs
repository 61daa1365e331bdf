//! `watch`: a stream of changes from a resource version on.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, header};
use hypernetes_api::{ApiError, Reason};
use hypernetes_schema::protobuf::encode;
use hypernetes_store::{Change, Changes, Entry, Part, RangeOptions, Revision, Store, WatchError};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Call, Inner,
    accept::Language,
    fairness::{account::Account, background},
    read::{
        self, Reading, Wanted,
        binary::{self, Binary},
        filter::Filter,
        form::Form,
        handed,
        look::Look,
        written::Written,
    },
    request::options::ListOptions,
    stored_form::Event,
};

const BOOKMARK_EVERY: Duration = Duration::from_secs(45);
/// And this long before a watch ends, so that the next one begins where it was: upstream's.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Without a wish a watch lasts this long, as upstream's 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2700);

/// Of what is there already so many bytes are gone through at a time.
const PIECE: usize = 64 << 10;
/// Pieces and events that are made before the client has taken the ones before; each may be as large as an object.
const EVENTS_AHEAD: usize = 4;
/// A watch of which nothing is read for so long though there is something ends: what waits for it keeps memory.
const PATIENCE: Duration = Duration::from_secs(10);

type Sender = mpsc::Sender<Result<Bytes, std::convert::Infallible>>;

struct Watcher {
    call: Arc<Call>,
    filter: Filter,
    form: Form,
    written: Written,
    /// Where they are wanted as messages.
    binary: Option<Binary>,
    columns_sent: bool,
}

/// The events are made no faster than at the pace of whoever asks, and end when their tenant is closed.
pub async fn watch(server: &Inner, call: &Arc<Call>) -> Result<Response<Body>, ApiError> {
    let (options, wanted) = (ListOptions::parse(call, true)?, Wanted::of(call, Reading::Watch)?);
    let (form, language) = (wanted.form, wanted.language);
    let prefix = read::prefix(server, call)?;
    let timeout = options.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let from = options.version.filter(|version| *version != 0).map(Revision);
    let bookmarks = options.bookmarks.then(|| Bookmarks::new(server.store.stored().clone(), timeout));
    // Who gives no version is told of what is there, if they do not say otherwise.
    let initial = options.initial_events.unwrap_or(from.is_none());
    let watcher = Watcher {
        call: call.clone(),
        filter: Filter { resource: call.resource.clone(), selector: options.selector },
        form,
        written: Written::of(call, form),
        binary: (language == Language::Protobuf).then(|| Binary::of(call, form)),
        columns_sent: false,
    };
    let mut first = Vec::new();
    let start = if initial {
        let listing = server.store.range(&prefix, RangeOptions::default()).await?;
        first = listing.entries;
        listing.revision
    } else {
        match from {
            Some(version) => version,
            None => server.store.revision().await?,
        }
    };
    // Where it is of one name, or found by a field, other changes do not reach it.
    let named = watcher.filter.selector.requires("metadata.name").map(Part::Named);
    let indexed = call.resource.indexed.and_then(|place| call.resource.selectable.get(place));
    let indexed = || indexed.and_then(|field| watcher.filter.selector.requires(&field.name)).map(Part::Indexed);
    let changes = match named.or_else(indexed) {
        Some(part) => server.store.watch_part(&prefix, part, start).await,
        None => server.store.watch(&prefix, start).await,
    };
    let changes = match changes {
        Ok(changes) => changes,
        Err(error) => {
            // As upstream says what comes after a request was understood: in the stream. Clients list again only then.
            let mut error = ApiError::from(error);
            if error.reason == Reason::Expired {
                error.message = format!("too old resource version: {start}");
            }
            return Ok(streamed(Body::from(error_event(&error, language)), language));
        }
    };
    let streamed = |body| streamed(body, language);
    let handed = call.handed.as_ref().filter(|_| watcher.written.look().is_some_and(Look::hides_nothing));
    if let Some(wanted) = handed {
        wanted.give(handed::objects(watcher.filter, first, changes));
        return Ok(streamed(Body::empty()));
    }
    let initial_end = options.initial_events == Some(true) && options.bookmarks;
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let events = async move {
        let mut watcher = watcher;
        // They are made when there is room for them: a client that does not read keeps no list in memory.
        let mut first = first.into_iter().peekable();
        while first.peek().is_some() {
            let events = watcher.first(&mut first);
            if !events.is_empty() && !send(&sender, events).await {
                return;
            }
            watcher.call.pause().await;
        }
        if initial_end && !send(&sender, watcher.bookmark(start, true)).await {
            return;
        }
        follow(watcher, changes, start, bookmarks, sender).await;
    };
    let events = tokio::time::timeout(timeout, Account::run(call.account.clone(), events));
    background::spawn(call.account.clone(), async move {
        let _ = events.await;
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    Ok(streamed(Body::from_stream(stream)))
}

fn streamed(body: Body, language: Language) -> Response<Body> {
    let kind = match language {
        Language::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Language::Json | Language::Yaml => "application/json",
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// When bookmarks are due, and how far the store is.
struct Bookmarks {
    store: Arc<Store>,
    /// Every so often, and shortly before the end, if that is not now.
    next: Instant,
    last: Option<Instant>,
}

impl Bookmarks {
    fn new(store: Arc<Store>, timeout: Duration) -> Self {
        let left = timeout.checked_sub(BOOKMARK_BEFORE_END).filter(|left| !left.is_zero());
        let last = left.map(|left| Instant::now() + left);
        let next = Instant::now() + BOOKMARK_EVERY;
        Self { store, next: last.map_or(next, |last| last.min(next)), last }
    }

    /// The revision that a bookmark may tell once all that has come to the watch already has been sent.
    async fn due(&mut self) -> Revision {
        tokio::time::sleep_until(self.next).await;
        let after = self.next + BOOKMARK_EVERY;
        self.next = self.last.filter(|last| self.next < *last).map_or(after, |last| last.min(after));
        self.store.told()
    }
}

async fn follow(
    mut watcher: Watcher,
    mut changes: Changes,
    mut seen: Revision,
    mut bookmarks: Option<Bookmarks>,
    sender: Sender,
) {
    // Told when what has come until then has been.
    let mut reached = None;
    loop {
        let due = async {
            match &mut bookmarks {
                Some(bookmarks) => bookmarks.due().await,
                None => std::future::pending().await,
            }
        };
        let next = match reached {
            Some(_) => changes.try_recv(),
            None => tokio::select! {
                change = changes.recv() => change.unwrap_or(Err(WatchError::Closed)).map(Some),
                revision = due => {
                    reached = Some(revision);
                    continue;
                }
                () = sender.closed() => return,
            },
        };
        let event = match (next, reached) {
            (Ok(Some(change)), _) => {
                seen = change.revision;
                match watcher.change(&change) {
                    Ok(Some(event)) => event,
                    Ok(None) => continue,
                    Err(error) => watcher.error(&error),
                }
            }
            (Ok(None), revision) => {
                seen = seen.max(revision.unwrap_or(seen));
                reached = None;
                watcher.bookmark(seen, false)
            }
            (Err(WatchError::Lagged), _) => {
                let error = ApiError::new(Reason::Expired, "the watch was too slow; list again");
                send(&sender, watcher.error(&error)).await;
                return;
            }
            (Err(WatchError::Closed), _) => return,
        };
        if !send(&sender, event).await {
            return;
        }
    }
}

/// False: nobody reads it any more.
async fn send(sender: &Sender, events: Bytes) -> bool {
    matches!(tokio::time::timeout(PATIENCE, sender.send(Ok(events))).await, Ok(Ok(())))
}

fn error_event(error: &ApiError, language: Language) -> Bytes {
    told("ERROR", &error.to_status(), language)
}

/// An event that is about no object of the store.
fn told(event: &str, object: &Value, language: Language) -> Bytes {
    if language == Language::Protobuf {
        return encode::event(event, &binary::enveloped(object).unwrap_or_default()).into();
    }
    let mut text = json!({"type": event, "object": object}).to_string();
    text.push('\n');
    text.into()
}

impl Watcher {
    fn change(&mut self, change: &Change) -> Result<Option<Bytes>, ApiError> {
        let Some((event, entry)) = self.filter.means(change)? else { return Ok(None) };
        if let Some(binary) = &self.binary {
            return binary.change(&self.call, event, &entry, change).map(Some);
        }
        match self.written.look() {
            Some(look) => look.line(event, &entry, change, &self.call.resource),
            None => event.line(entry.value.len(), |out| self.write(out, &entry, change.revision)),
        }
        .map(Some)
    }

    fn write(&mut self, out: &mut BytesMut, entry: &Entry, at: Revision) -> Result<(), ApiError> {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        self.written.write_alone(&self.call, out, entry, at, columns)
    }

    /// The next of what is there already, each as an event.
    fn first(&mut self, entries: &mut impl Iterator<Item = Entry>) -> Bytes {
        let (mut out, mut seen) = (BytesMut::new(), 0);
        while let Some(entry) = (seen < PIECE).then(|| entries.next()).flatten() {
            seen += entry.value.len();
            let line = match self.filter.selected(Some(&entry)) {
                Ok(None) => continue,
                Ok(Some(_)) if let Some(binary) = &self.binary => {
                    binary.event(&self.call, Event::Added, &entry, entry.mod_revision)
                }
                Ok(Some(_)) => Event::Added.line(entry.value.len(), |out| self.write(out, &entry, entry.mod_revision)),
                Err(error) => Err(error),
            };
            out.put_slice(&line.unwrap_or_else(|error| self.error(&error)));
        }
        out.freeze()
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let ty = &self.call.served.ty;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => json!({"apiVersion": ty.api_version(), "kind": ty.kind, "metadata": metadata}),
            Form::Metadata => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
            }
            Form::Table(_) => json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": [], "rows": [{"cells": [], "object": {
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata,
                }}],
            }),
        };
        told("BOOKMARK", &object, self.language())
    }

    fn error(&self, error: &ApiError) -> Bytes {
        error_event(error, self.language())
    }

    fn language(&self) -> Language {
        if self.binary.is_some() { Language::Protobuf } else { Language::Json }
    }
}
