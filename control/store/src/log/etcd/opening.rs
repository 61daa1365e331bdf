//! Where a server that starts begins: not at what there is now but before, as far back as etcd has not forgotten, so that watches of before it
//! started go on.
//!
//! ```text
//! forgotten ◀─ compacted ─┊─ loaded here ─ followed ─▶ now: it is open ─▶
//! ```

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::{
    follow::{Follower, Lost},
    revisions::whole,
    wire::{KeyValue, RangeRequest},
};

/// Of etcd's revisions, that are gone back at the most: etcd tells of a thousand each tenth of a second. What of them is too much for the cache's
/// history is forgotten by that.
const PAST: i64 = 5000;
/// What takes longer than this to follow is not worth it: it is open sooner without.
const PATIENCE: Duration = Duration::from_secs(5);

/// Puts all that there is into the cache, with its past if that can be had.
///
/// # Errors
/// When it could not be read whole, or is nothing that this program may go on with.
pub(super) async fn load(follower: &mut Follower, deadline: Instant) -> Result<(), Lost> {
    if let Some(head) = head(follower, deadline, 0).await? {
        let newest = head.mod_revision;
        let oldest = oldest(follower, deadline, &head).await?;
        if oldest < newest {
            match with_past(follower, oldest, newest).await {
                Ok(()) => return Ok(()),
                // It may have been forgotten meanwhile, or sealed with a key that is not needed any more.
                Err(why) => tracing::info!(%why, "what was before now is not known: watches begin anew"),
            }
        }
    }
    follower.load(None).await
}

async fn with_past(follower: &mut Follower, oldest: i64, newest: i64) -> Result<(), Lost> {
    follower.load(Some(whole(oldest))).await?;
    let mut followed = follower.followed.subscribe();
    let following = async {
        tokio::select! {
            lost = follower.watch() => Err(lost),
            _ = followed.wait_for(|followed| followed.revision >= whole(newest)) => Ok(()),
        }
    };
    let late = || Lost::Past(format!("it is too much from {oldest} until {newest}"));
    timeout(PATIENCE, following).await.unwrap_or_else(|_| Err(late()))
}

/// The oldest of etcd's revisions of the store that it has not forgotten, if it is not too far back.
async fn oldest(follower: &Follower, deadline: Instant, head: &KeyValue) -> Result<i64, Lost> {
    let newest = head.mod_revision;
    let first = head.create_revision.max(newest.saturating_sub(PAST));
    let known = async |at: i64| match self::head(follower, deadline, at).await {
        Err(status) if status.code() == Code::OutOfRange => Ok(false),
        other => other.map(|_| true),
    };
    if known(first).await? {
        return Ok(first);
    }
    let (mut forgotten, mut oldest) = (first, newest);
    while oldest - forgotten > 1 {
        let between = forgotten + (oldest - forgotten) / 2;
        if known(between).await? {
            oldest = between;
        } else {
            forgotten = between;
        }
    }
    Ok(oldest)
}

/// What `head` was at one of etcd's revisions, or, with 0, is now.
async fn head(follower: &Follower, deadline: Instant, revision: i64) -> Result<Option<KeyValue>, Status> {
    let range = RangeRequest { key: follower.space.head(), revision, keys_only: true, ..Default::default() };
    let asking = follower.members.wait_for(deadline, |mut kv| {
        let range = range.clone();
        async move { kv.range(range).await }
    });
    Ok(asking.await?.kvs.into_iter().next())
}
