//! What is written at once: conditions, and what is done when they hold.

use bytes::Bytes;

use crate::{Key, Revision};

/// What has to hold for a transaction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    Absent(Key),
    /// The key's last change was at this revision.
    Unchanged(Key, Revision),
}

impl Guard {
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) => key,
        }
    }

    /// The revision that the key has to have; none: there is no such key.
    pub fn wanted(&self) -> Option<Revision> {
        match self {
            Self::Absent(_) => None,
            Self::Unchanged(_, revision) => Some(*revision),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put(Key, Bytes),
    /// Deleting what is absent does nothing.
    Delete(Key),
}

impl Op {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    /// What the key will hold; none: nothing.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Put(_, value) => Some(value),
            Self::Delete(_) => None,
        }
    }
}

/// All of `ops`, or, when a guard fails, nothing. At most one op per key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
}

impl Txn {
    /// Of its keys and values.
    pub fn bytes(&self) -> usize {
        self.ops.iter().map(|op| op.key().as_str().len() + op.value().map_or(0, Bytes::len)).sum()
    }
}

/// What a transaction would have exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    Objects,
    Bytes,
    /// By its place in [`Metered`](crate::Metered).
    Metered(usize),
}

/// Why a transaction was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TxnError {
    /// A guard failed; this is when the key was last changed, if there is one.
    #[error("the key {key} has changed")]
    Conflict { key: Key, current: Option<Revision> },
    /// Nothing was written and nothing that was written before is lost.
    #[error("no room in the store: {0}")]
    NoSpace(String),
    /// The tenant has, or would have, more than it may.
    #[error("exceeded quota: {what:?}, used: {used}, limited: {limit}")]
    Quota { what: Exceeded, used: u64, limit: u64 },
    /// This many bytes are more than the store takes: [`MAX_VALUE_BYTES`] for an object, and of a transaction what the engine can.
    #[error("{0} bytes are more than the store takes")]
    TooLarge(usize),
    /// What keeps the store cannot be reached, or takes nothing now. Nothing was written.
    #[error("the store cannot be written to: {0}")]
    Unavailable(String),
    /// It is not known whether it was written.
    #[error("writing to the store: {0}")]
    Unknown(String),
}

/// What an object may have with any engine: etcd's default limit of a request, less what goes with an object in one.
pub const MAX_VALUE_BYTES: usize = 1_572_864 - (8 << 10);
