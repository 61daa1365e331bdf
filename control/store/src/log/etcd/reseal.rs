//! Writes anew what is not sealed with the first of the operator's keys, one object after the other, while the server works; and then has
//! etcd forget the past, in which it is sealed as it was. Its file has that until it is defragmented.
//!
//! To whoever watches it each is a change of its version. What another server, whose first key is another yet, writes meanwhile is that one's
//! to write anew, when it has this key first.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tonic::Status;

use super::{commit::Committer, compaction, envelope, keyspace::Place, pages::Pages, revisions::number, said};
use crate::{Encryption, Guard, Key, Op, RotationError, Txn, TxnError};

/// Between attempts while etcd takes nothing.
const PAUSE: Duration = Duration::from_secs(5);

/// What is in etcd at one of its revisions and is not sealed with the first key; and all that something is sealed with.
#[derive(Default)]
struct Found {
    revision: i64,
    /// With etcd's revision.
    others: Vec<(Key, i64)>,
    keys: BTreeSet<u32>,
}

/// # Errors
/// When etcd does not answer.
async fn look(committer: &Committer) -> Result<Found, Status> {
    let (mut found, current) = (Found::default(), committer.cache.options().encryption.current());
    let mut pages = Pages::new(&committer.members, &committer.space, None);
    while let Some(page) = pages.next().await? {
        for kv in page {
            if let Place::Object(key) = committer.space.place(&kv.key) {
                let sealed_with = envelope::sealed_with(&kv.value);
                found.keys.insert(sealed_with);
                if sealed_with != current {
                    found.others.push((key, kv.mod_revision));
                }
            }
        }
    }
    found.revision = number(pages.revision());
    Ok(found)
}

/// At the start, once: the same as [`rotate`], with the keys that there are.
pub(super) async fn run(committer: Arc<Committer>) {
    let key = committer.cache.options().encryption.current();
    loop {
        match all(&committer).await {
            Ok(true) => return tracing::info!(key, "all that is in etcd is sealed with the first key"),
            Ok(false) => return tracing::warn!(key, "{UNFINISHED}"),
            Err(error) => tracing::warn!(%error, "sealing with the first key waits for etcd"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Rounds that are tried: what another server writes meanwhile with another first key is for the next.
const ROUNDS: usize = 3;
const UNFINISHED: &str = "another server writes with another key as its first, or an object is too large";

/// Until nothing that is there is sealed with another key than the first, and etcd has forgotten what was before: false, when others go on with
/// another.
///
/// # Errors
/// When etcd does not answer.
async fn all(committer: &Committer) -> Result<bool, Status> {
    for _ in 0..=ROUNDS {
        let found = look(committer).await?;
        if found.others.is_empty() {
            compaction::compact(&committer.members, found.revision, true).await?;
            return Ok(true);
        }
        // So that the cache has all of that.
        committer.barriers.wait().await.map_err(|error| Status::unavailable(error.to_string()))?;
        for (key, modified) in found.others {
            anew(committer, key, modified).await;
        }
    }
    Ok(false)
}

/// Uses other keys from now on, until nothing that etcd keeps is sealed with another than the first, or was.
///
/// # Errors
/// When one that is needed is not among them, etcd does not answer, or another server goes on with another first key.
pub(super) async fn rotate(committer: &Committer, keys: Encryption) -> Result<(), RotationError> {
    let failed = |status: Status| RotationError::Failed(said(&status));
    let own = &committer.cache.options().encryption;
    own.check_successor(&keys, false)?;
    // Also what other servers have written.
    let used = look(committer).await.map_err(failed)?.keys;
    if let Some(missing) = used.into_iter().find(|id| *id != 0 && !keys.has(*id)) {
        return Err(RotationError::Missing(missing));
    }
    own.replace(&keys);
    match all(committer).await.map_err(failed)? {
        true => Ok(()),
        false => Err(RotationError::Failed(UNFINISHED.into())),
    }
}

async fn anew(committer: &Committer, key: Key, modified: i64) {
    loop {
        // What was written since was sealed then.
        let record = committer.cache.record(&key).filter(|record| number(record.mod_revision) == modified);
        let Some(record) = record else { return };
        let txn = Txn {
            guards: vec![Guard::Unchanged(key.clone(), record.mod_revision)],
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
