//! What keeps the cache as etcd is: loaded once, then told by one watch over everything.
//!
//! ```text
//! load ──▶ watching ──▶ a connection or member lost: again from the last revision
//!   ▲          │
//!   └──────────┴─────▶ the past that is missing was compacted, or something was missed: loaded anew
//! ```
//!
//! What a transaction did is one revision, and is put into the cache whole. Each transaction of a server raises the version
//! of `head` by one: a change that is missing, told twice or out of order shows.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, metadata::MetadataValue};

use super::{
    envelope::Unread,
    keyspace::{self, Keyspace, Mark, Place, entry, number, revision},
    members::Members,
    pages::Pages,
    waiting::Waiting,
    wire::{self, event::EventType, watch_request::RequestUnion},
};
use crate::{
    Revision,
    entry::Record,
    mvcc::{Applied, Cache},
};

/// How long a member may take to begin a watch.
const BEGIN: Duration = Duration::from_secs(2);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// How far the cache is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Followed {
    pub revision: Revision,
    /// The version of `head`.
    pub heads: i64,
}

/// Why following has stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// It goes on from where it was.
    #[error("{0}")]
    Connection(Status),
    /// What comes next is not known.
    #[error("{0}")]
    Past(String),
    /// Going on would make every object vanish, or be misread.
    #[error("{0}")]
    Data(String),
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::OutOfRange => Self::Past(status.message().to_owned()),
            _ => Self::Connection(status),
        }
    }
}

/// Another server has a key that this one has not, or somebody else has written.
impl From<Unread> for Lost {
    fn from(unread: Unread) -> Self {
        Self::Data(unread.to_string())
    }
}

pub(super) struct Follower {
    pub members: Members,
    pub space: Keyspace,
    pub cache: Arc<Cache>,
    pub waiting: Arc<Waiting>,
    /// What is in the cache, and of which whoever waits for it has been told.
    pub followed: watch::Sender<Followed>,
    /// Somebody has seen that etcd has less than it had.
    pub went_back: Arc<Notify>,
    /// Something is not sealed with the first of the operator's keys.
    pub otherwise_sealed: bool,
}

impl Follower {
    /// Follows until the data is not what it has to be, and says why.
    pub async fn run(mut self) -> String {
        loop {
            match self.watch().await {
                Lost::Connection(status) => {
                    tracing::warn!(%status, "the watch of etcd was lost, and goes on");
                    tokio::time::sleep(PAUSE).await;
                }
                Lost::Past(why) => {
                    tracing::warn!(why, "the store is loaded anew from etcd");
                    loop {
                        match self.load(None).await {
                            Ok(()) => break,
                            Err(Lost::Data(why)) => return why,
                            Err(why) => tracing::warn!(%why, "loading from etcd"),
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Lost::Data(why) => return why,
            }
        }
    }

    /// Puts everything as of one revision, or as it is now, into the cache.
    ///
    /// # Errors
    /// When it could not be read whole, or is nothing that this program may go on with.
    pub async fn load(&mut self, at: Option<Revision>) -> Result<(), Lost> {
        let (mut entries, mut format, mut heads) = (Vec::<Record>::new(), None, None);
        let encryption = &self.cache.options().encryption;
        let mut pages = Pages::new(&self.members, &self.space, at);
        self.otherwise_sealed = false;
        while let Some(page) = pages.next().await? {
            for found in page {
                match self.space.place(&found.key) {
                    Place::Object(key) => {
                        let (entry, sealed_with) = entry(encryption, key, found)?;
                        self.otherwise_sealed |= sealed_with != encryption.current();
                        entries.push(entry);
                    }
                    Place::Head => heads = Some(found.version),
                    Place::Format => format = Some(found.value),
                    Place::Other => {}
                }
            }
        }
        check_format(&self.space, format.as_deref())?;
        let heads = heads.ok_or_else(|| self.gone())?;
        let revision = pages.revision();
        self.cache.load(revision, entries);
        self.followed.send_replace(Followed { revision, heads });
        self.waiting.missed_all();
        Ok(())
    }

    fn gone(&self) -> Lost {
        Lost::Data(format!("the keys of the store under {} in etcd were deleted", self.space.prefix()))
    }

    /// Follows one member until that cannot go on.
    pub async fn watch(&mut self) -> Lost {
        let members = self.members.clone();
        let asked = members.ask();
        let (index, url) = (asked.index(), asked.url().to_owned());
        let (key, range_end) = self.space.range();
        let from = self.followed.borrow().revision;
        let create = wire::WatchCreateRequest { key, range_end, start_revision: number(from) + 1, fragment: true };
        // Kept open as long as the watch is wanted.
        let (requests, stream) = mpsc::channel(1);
        let _ = requests.send(wire::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await;
        let mut request = Request::new(ReceiverStream::new(stream));
        // A member that has no leader any more ends the watch, rather than being silent.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut client = asked.watch();
        let answers = match timeout(BEGIN, client.watch(request)).await {
            Ok(Ok(answers)) => Ok(answers.into_inner()),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded(format!("{url} has not begun a watch in time"))),
        };
        let mut answers = match answers {
            Ok(answers) => answers,
            Err(status) => {
                asked.failed();
                return Lost::Connection(status);
            }
        };
        let moved_on = members.moved_on_from(index);
        tokio::pin!(moved_on);
        let went_back = self.went_back.clone();
        let mut half = Vec::new();
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                () = &mut moved_on => return Lost::Connection(Status::unavailable(format!("{url} does not answer"))),
                () = went_back.notified() => return Lost::Past("etcd has less than it had".into()),
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    asked.failed();
                    return Lost::Connection(Status::unavailable(format!("{url} has ended the watch")));
                }
                Err(status) => {
                    asked.failed();
                    return Lost::Connection(status);
                }
            };
            if answer.compact_revision != 0 {
                return Lost::Past(format!("what came after revision {from} was compacted"));
            }
            if answer.canceled {
                asked.failed();
                return Lost::Connection(Status::unavailable(format!("{url}: {}", answer.cancel_reason)));
            }
            half.extend(answer.events);
            if let Err(lost) = self.apply(take_whole(&mut half, answer.fragment)) {
                return lost;
            }
        }
    }

    /// Puts whole transactions into the cache and tells whoever waits for them.
    fn apply(&mut self, events: Vec<wire::Event>) -> Result<(), Lost> {
        let mut at = *self.followed.borrow();
        let (mut changes, mut marks) = (Vec::with_capacity(events.len()), Vec::new());
        let before = at.revision;
        for event in events {
            let kind = event.r#type();
            let Some(found) = event.kv else { continue };
            let new = revision(found.mod_revision);
            if new < at.revision || new <= before {
                return Err(Lost::Past(format!("etcd told of revision {new} after {}", at.revision)));
            }
            let put = kind == EventType::Put;
            match self.space.place(&found.key) {
                Place::Object(key) => {
                    let encryption = &self.cache.options().encryption;
                    let now = put.then(|| entry(encryption, key.clone(), found)).transpose()?;
                    let current = encryption.current();
                    self.otherwise_sealed |= now.as_ref().is_some_and(|(_, sealed_with)| *sealed_with != current);
                    changes.push(Applied { revision: new, key, now: now.map(|(now, _)| now) });
                }
                Place::Head if put => {
                    if found.version != at.heads + 1 {
                        let (version, heads) = (found.version, at.heads);
                        return Err(Lost::Past(format!("etcd told of transaction {version} after {heads}")));
                    }
                    at.heads = found.version;
                    marks.extend(Mark::parse(&found.value).map(|mark| (mark, new)));
                }
                Place::Format if put => check_format(&self.space, Some(&found.value))?,
                Place::Head | Place::Format => return Err(self.gone()),
                Place::Other => continue,
            }
            at.revision = new;
        }
        if at.revision > before {
            self.cache.apply(changes, at.revision);
            for (mark, revision) in marks {
                self.waiting.saw(mark, revision);
            }
            self.followed.send_replace(at);
        }
        Ok(())
    }
}

/// Of the events that have come those whose transaction has come whole.
fn take_whole(events: &mut Vec<wire::Event>, more_follows: bool) -> Vec<wire::Event> {
    if !more_follows {
        return std::mem::take(events);
    }
    let of = |event: &wire::Event| event.kv.as_ref().map_or(0, |found| found.mod_revision);
    let last = events.last().map_or(0, of);
    let rest = events.iter().position(|event| of(event) == last).unwrap_or(events.len());
    let rest = events.split_off(rest);
    std::mem::replace(events, rest)
}

/// # Errors
/// When the data is of a newer program, or of none of ours.
pub(super) fn check_format(space: &Keyspace, value: Option<&[u8]>) -> Result<(), Lost> {
    let prefix = space.prefix();
    let Some(value) = value else {
        return Err(Lost::Data(format!(
            "what is under {prefix} in etcd was not written by this program, or a snapshot that was not restored to its end"
        )));
    };
    match std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(keyspace::PLAIN | keyspace::SEALED) => Ok(()),
        found => Err(Lost::Data(format!(
            "what is under {prefix} in etcd has format {}, this program knows {}: a newer version has written it",
            found.map_or_else(|| "unknown".to_owned(), |found| found.to_string()),
            keyspace::SEALED
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: i64, key: &str) -> wire::Event {
        let kv = wire::KeyValue { key: key.into(), mod_revision: revision, ..Default::default() };
        wire::Event { r#type: 0, kv: Some(kv) }
    }

    #[test]
    fn half_a_transaction_waits_for_its_rest() {
        let mut events = vec![event(5, "a"), event(5, "b"), event(6, "a")];
        assert_eq!(take_whole(&mut events, true).len(), 2);
        assert_eq!(events, [event(6, "a")]);
        events.push(event(6, "b"));
        assert!(take_whole(&mut events, true).is_empty());
        assert_eq!(take_whole(&mut events, false), [event(6, "a"), event(6, "b")]);
        assert!(events.is_empty());
    }
}
