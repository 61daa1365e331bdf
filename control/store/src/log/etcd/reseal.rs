//! Writes anew what is not sealed with the first of the operator's keys, once, one object after the other, while the server works.
//!
//! To whoever watches it each is a change of its version. What another server, whose first key is another yet, writes meanwhile is that one's
//! to write anew, when it starts with this key first.

use std::{sync::Arc, time::Duration};

use super::commit::Committer;
use crate::{Guard, Key, Op, Revision, Txn, TxnError};

/// Between attempts while etcd takes nothing.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) async fn run(committer: Arc<Committer>, otherwise_sealed: Vec<(Key, Revision)>) {
    let key = committer.cache.options().encryption.current();
    tracing::info!(key, objects = otherwise_sealed.len(), "what is in etcd is sealed with the first key");
    for (key, revision) in otherwise_sealed {
        anew(&committer, key, revision).await;
    }
    tracing::info!(key, "all that was in etcd is sealed with the first key");
}

async fn anew(committer: &Committer, key: Key, revision: Revision) {
    loop {
        // What was written since was sealed then.
        let record = committer.cache.record(&key).filter(|record| record.mod_revision == revision);
        let Some(record) = record else { return };
        let txn = Txn {
            guards: vec![Guard::Unchanged(key.clone(), revision)],
            ops: vec![Op::Put(key.clone(), record.value)],
        };
        match committer.commit(&txn).await {
            Ok(_) | Err(TxnError::Conflict { .. }) => return,
            Err(error @ (TxnError::TooLarge(_) | TxnError::Quota { .. })) => {
                tracing::warn!(%key, %error, "it stays as it is");
                return;
            }
            Err(error) => tracing::warn!(%key, %error, "sealing with the first key waits for etcd"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
