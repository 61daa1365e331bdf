//! The watchable MVCC store: etcd's semantics, on whichever engine.
//!
//! ```text
//! commit ─▶ log (embedded: one file; etcd) ─▶ cache ─▶ get, range, watch
//! ```
//!
//! A [`Store`] is a log, where transactions become durable in one order ([`log`]), beneath one cache, which answers every read
//! and feeds every watch (`mvcc`). Revisions count committed transactions. A transaction is acknowledged only when it is
//! durable and can be read. Watches deliver every change after a revision, in order, without gaps, or say that they cannot
//! ([`WatchError`]).
#![forbid(unsafe_code)]

mod encryption;
mod entry;
mod forms;
pub mod key;
pub mod log;
mod mvcc;
mod quota;
mod store;
mod txn;

use std::fmt;

use hypernetes_api::{ApiError, Reason, error::Details};

pub use encryption::{Encryption, KeysError, RotationError};
pub use entry::{Change, Entry, Values, Version};
pub use hypernetes_api::ResourceId;
pub use key::{Key, Prefix};
pub use mvcc::{Changes, Options, Part, WatchLimits};
pub use quota::{METERED, Meter, Metered, Quota, Quotas, Usage};
pub use store::{Store, as_of_now};
pub use txn::{Exceeded, Guard, MAX_VALUE_BYTES, Op, Txn, TxnError};

/// Number of a committed transaction; 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The revision is older than what is kept.
    #[error("revision {requested} has been compacted; the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {0} is in the future")]
    Future(Revision),
    #[error("reading from the store: {0}")]
    Io(String),
    /// What keeps the store does not answer.
    #[error("the store cannot be read: {0}")]
    Unavailable(String),
}

/// In upstream's words.
impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { .. } => Self::new(
                Reason::Expired,
                "The provided continue parameter or resource version is too old to display a consistent list result.",
            ),
            ReadError::Future(revision) => {
                Self::new(Reason::Timeout, format!("Too large resource version: {revision}"))
            }
            ReadError::Io(why) => Self::internal(why),
            ReadError::Unavailable(_) => timed_out(&error),
        }
    }
}

/// What kept the store has not answered in time: as upstream, whose etcd is away, though sooner.
pub fn timed_out(why: &dyn fmt::Display) -> ApiError {
    let message = format!("Timeout: request did not complete within requested timeout - {why}");
    ApiError::new(Reason::Timeout, message).with_details(Details::default())
}

/// Why a watch ended early; the watcher lists again and starts anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("the watcher was too slow and has missed changes")]
    Lagged,
    #[error("the store is closing")]
    Closed,
}

/// Result of [`Store::range`].
#[derive(Debug, Clone)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// The revision that the listing is consistent at.
    pub revision: Revision,
    /// There are more entries after the last.
    pub more: bool,
}

/// What part of a prefix to list.
#[derive(Debug, Clone, Default)]
pub struct RangeOptions {
    /// Start after this key.
    pub after: Option<Key>,
    /// At most so many entries; 0: all.
    pub limit: usize,
    /// As of this revision; none: the newest.
    pub revision: Option<Revision>,
}
