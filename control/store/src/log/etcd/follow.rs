//! What keeps the cache as etcd is: loaded once, then told by one watch over everything.
//!
//! ```text
//! load ──▶ watching ──▶ a connection or member lost: again from the last revision
//!   ▲          │
//!   └──────────┴─────▶ the past that is missing was compacted, or something was missed: loaded anew
//! ```
//!
//! What transactions did at one of etcd's revisions is put into the cache whole, in the order of their ranks. Each batch of a server
//! raises the version of `head` by one: a change that is missing, told twice or out of order shows.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, metadata::MetadataValue};

use super::{
    envelope::Unread,
    head::Head,
    keyspace::{self, Keyspace, Place, entry},
    members::Members,
    pages::Pages,
    revisions::{self, ranked, whole},
    waiting::{Outcome, Sent, Waiting},
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
    /// The version of `head`: so many batches.
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
        let create =
            wire::WatchCreateRequest { key, range_end, start_revision: revisions::number(from) + 1, fragment: true };
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

    /// Puts whole batches into the cache and tells whoever waits for their transactions.
    fn apply(&mut self, events: Vec<wire::Event>) -> Result<(), Lost> {
        let before = *self.followed.borrow();
        let (mut at, mut changes, mut seen) = (before, Vec::with_capacity(events.len()), Vec::new());
        let mut events = events.into_iter().filter_map(|event| Some((event.r#type(), event.kv?))).peekable();
        while let Some(number) = events.peek().map(|(_, found)| found.mod_revision) {
            if whole(number) <= at.revision {
                return Err(Lost::Past(format!(
                    "etcd told of revision {number} after {}",
                    revisions::number(at.revision)
                )));
            }
            let batch = std::iter::from_fn(|| events.next_if(|(_, found)| found.mod_revision == number)).collect();
            self.read(number, batch, &mut at, &mut changes, &mut seen)?;
        }
        if at.revision > before.revision {
            self.cache.apply(changes, at.revision);
            for (sent, outcome) in seen {
                sent.told(outcome);
            }
            self.followed.send_replace(at);
        }
        Ok(())
    }

    /// What came at one of etcd's revisions: `at` stays where it was when nothing of it is the store's.
    fn read(
        &mut self,
        number: i64,
        batch: Vec<(EventType, wire::KeyValue)>,
        at: &mut Followed,
        changes: &mut Vec<Applied>,
        seen: &mut Vec<(Sent, Outcome)>,
    ) -> Result<(), Lost> {
        let (mut head, mut objects) = (Head::default(), Vec::with_capacity(batch.len()));
        for (kind, found) in batch {
            let put = kind == EventType::Put;
            match self.space.place(&found.key) {
                Place::Object(key) => objects.push((key, put.then_some(found))),
                Place::Head if put => {
                    if found.version != at.heads + 1 {
                        let (version, heads) = (found.version, at.heads);
                        return Err(Lost::Past(format!("etcd told of batch {version} after {heads}")));
                    }
                    at.heads = found.version;
                    let damaged = || Lost::Data("what is in etcd as the head of the store is damaged".into());
                    head = Head::parse(&found.value).ok_or_else(damaged)?;
                }
                Place::Format if put => check_format(&self.space, Some(&found.value))?,
                Place::Head | Place::Format => return Err(self.gone()),
                Place::Other => continue,
            }
            at.revision = whole(number);
        }
        let first = changes.len();
        for (key, found) in objects {
            let encryption = &self.cache.options().encryption;
            let now = found.map(|found| entry(encryption, key.clone(), found)).transpose()?;
            let revision = match &now {
                Some((now, sealed_with)) => {
                    self.otherwise_sealed |= *sealed_with != encryption.current();
                    now.mod_revision
                }
                None => ranked(number, head.deleted_by(&key)),
            };
            changes.push(Applied { revision, key, now: now.map(|(now, _)| now) });
        }
        let changed = &mut changes[first..];
        changed.sort_by_key(|change| change.revision);
        let ranks = (0..).map(|rank| (head.marks.len() > 1).then_some(rank));
        for (mark, rank) in head.marks.iter().zip(ranks) {
            if let Some(sent) = self.waiting.take(*mark) {
                let done = sent.is_done(changed.iter().map(|change| &change.key));
                seen.push((sent, if done { Outcome::Done(ranked(number, rank)) } else { Outcome::Overtaken }));
            }
        }
        Ok(())
    }
}

/// Of the events that have come those of which all of etcd's revision has.
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
        Some(1..=keyspace::FORMAT) => Ok(()),
        found => Err(Lost::Data(format!(
            "what is under {prefix} in etcd has format {}, this program knows {}: a newer version has written it",
            found.map_or_else(|| "unknown".to_owned(), |found| found.to_string()),
            keyspace::FORMAT
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
