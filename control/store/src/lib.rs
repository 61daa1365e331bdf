//! The watchable MVCC store: etcd's semantics behind one trait, [`Store`].
//!
//! Revisions count committed transactions. A transaction is acknowledged only when it is durable. Watches deliver
//! every change after a revision, in order, without gaps, or say that they cannot ([`WatchError`]).
#![forbid(unsafe_code)]

mod changes;
pub mod embedded;
pub mod key;
mod quota;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use hypernetes_api::{ApiError, Reason, TenantId};

pub use changes::{Changes, WatchLimits};
pub use embedded::EmbeddedStore;
pub use hypernetes_api::ResourceId;
pub use key::{Key, Prefix};
pub use quota::{Exceeded, METERED, Meter, Metered, Quota, Quotas, Usage};

/// Number of a committed transaction; 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One version of one key. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

/// What has to hold for a transaction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    Absent(Key),
    /// The key's last change was at this revision.
    Unchanged(Key, Revision),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put(Key, Bytes),
    /// Deleting what is absent does nothing.
    Delete(Key),
}

/// All of `ops`, or, when a guard fails, nothing. At most one op per key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum TxnError {
    /// A guard failed; this is the key's current entry, if it has one.
    #[error("the key {key} has changed")]
    Conflict { key: Key, current: Option<Box<Entry>> },
    /// Nothing was written and nothing that was written before is lost.
    #[error("no room in the store: {0}")]
    NoSpace(String),
    /// The tenant has, or would have, more than it may.
    #[error("exceeded quota: {what:?}, used: {used}, limited: {limit}")]
    Quota { what: Exceeded, used: u64, limit: u64 },
    /// The value is larger than [`MAX_VALUE_BYTES`].
    #[error("a value of {0} bytes is larger than the store's limit of {MAX_VALUE_BYTES}")]
    TooLarge(usize),
    /// It is not known whether it was written.
    #[error("writing to the store: {0}")]
    Io(String),
}

/// etcd's default request limit.
pub const MAX_VALUE_BYTES: usize = 1_572_864;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The revision is older than what is kept.
    #[error("revision {requested} has been compacted; the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {0} is in the future")]
    Future(Revision),
    #[error("reading from the store: {0}")]
    Io(String),
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
        }
    }
}

/// Why a watch ended early; the watcher lists again and starts anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("the watcher was too slow and has missed changes")]
    Lagged,
    #[error("the store is closing")]
    Closed,
}

/// One committed change. All changes of one transaction carry the same revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub key: Key,
    /// The entry after the change; none when deleted.
    pub now: Option<Entry>,
    /// The entry before the change; none when created.
    pub before: Option<Entry>,
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

/// An engine: embedded or etcd. One contract test suite runs on each.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError>;

    /// Entries under a prefix in key order.
    async fn range(&self, prefix: &Prefix, options: RangeOptions) -> Result<Listing, ReadError>;

    /// Number of entries under a prefix now.
    async fn count(&self, prefix: &Prefix) -> Result<usize, ReadError>;

    /// Returns when the transaction is durable and visible to reads, with its revision.
    async fn commit(&self, txn: Txn) -> Result<Revision, TxnError>;

    /// Every change under the prefix after `from`.
    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Changes, ReadError>;

    /// The revision of the newest committed transaction.
    async fn revision(&self) -> Result<Revision, ReadError>;

    /// Whether it can be written to.
    ///
    /// # Errors
    /// When it never will be again.
    fn health(&self) -> Result<(), ReadError>;

    /// How much each tenant may keep.
    fn quotas(&self) -> Arc<Quotas>;

    /// What a tenant keeps now.
    fn usage(&self, tenant: &TenantId) -> Usage;

    /// Forgets versions older than `revision`. Reads and watches from before it fail with `Compacted`.
    async fn compact(&self, revision: Revision) -> Result<(), ReadError>;
}
