//! Where transactions become durable, in one order, whoever commits them.
//!
//! An engine puts what is durable into the cache, in that order, and nothing else.

pub(crate) mod batch;
pub mod embedded;
pub mod etcd;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{Encryption, ReadError, Revision, RotationError, Txn, TxnError};

/// An engine. One contract test suite runs on each.
#[async_trait]
pub(crate) trait Log: Send + Sync + 'static {
    /// Returns when the transaction is durable and in the cache, with its revision.
    ///
    /// # Errors
    /// `Conflict`, `Quota`, `NoSpace`, `TooLarge`, `Unavailable`: nothing was written. `Unknown`: it may have been, or may be yet.
    async fn commit(&self, txn: Txn) -> Result<Revision, TxnError>;

    /// Returns when the cache has everything that was acknowledged to anybody before the call.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn barrier(&self) -> Result<(), ReadError>;

    /// Uses other keys from now on, and returns when nothing that is there now is sealed with another than the first of them.
    ///
    /// # Errors
    /// When a key that is needed is not among them: nothing has changed. Or when it could not be finished: the new keys are used, and those of
    /// before needed.
    async fn rotate(&self, keys: Encryption) -> Result<(), RotationError>;

    /// Why nothing can be written any more; none: something can.
    fn ended(&self) -> watch::Receiver<Option<String>>;

    /// Nothing more is asked of it. What was begun is finished, and what it holds is given back.
    fn close(&mut self);
}
