//! What a read waits for: that the cache has everything that was acknowledged to anybody before it began.
//!
//! One linearizable read of `head` says how far that is, for all who were waiting when it began; who comes later is of the
//! next round.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{follow::Followed, keyspace::Keyspace, members::Members, revisions::whole, wire::RangeRequest};
use crate::{ReadError, Revision};

/// How long a read waits for etcd.
const DEADLINE: Duration = Duration::from_secs(5);

type Answer = oneshot::Sender<Result<Revision, ReadError>>;

#[derive(Clone)]
pub(super) struct Barriers {
    waiting: mpsc::UnboundedSender<Answer>,
    followed: watch::Receiver<Followed>,
}

/// Asks for whoever waits.
pub(super) struct Asker {
    waiting: mpsc::UnboundedReceiver<Answer>,
    followed: watch::Receiver<Followed>,
    members: Members,
    space: Keyspace,
    went_back: Arc<Notify>,
}

pub(super) fn barriers(
    members: Members,
    space: Keyspace,
    followed: watch::Receiver<Followed>,
    went_back: Arc<Notify>,
) -> (Barriers, Asker) {
    let (sender, waiting) = mpsc::unbounded_channel();
    let asker = Asker { waiting, followed: followed.clone(), members, space, went_back };
    (Barriers { waiting: sender, followed }, asker)
}

impl Barriers {
    /// # Errors
    /// `Unavailable` when etcd does not answer, or the cache does not come so far, in five seconds.
    pub async fn wait(&self) -> Result<(), ReadError> {
        let waiting = async {
            let (answer, result) = oneshot::channel();
            self.waiting.send(answer).map_err(|_| closed())?;
            let revision = result.await.map_err(|_| closed())??;
            self.reached(revision).await
        };
        let late = || ReadError::Unavailable("etcd has not answered in time".into());
        timeout(DEADLINE, waiting).await.map_err(|_| late())?
    }

    /// Waits until the cache has this, and those who wait for what is in it have been told.
    ///
    /// # Errors
    /// When nothing comes any more.
    pub async fn reached(&self, revision: Revision) -> Result<(), ReadError> {
        let mut followed = self.followed.clone();
        let reached = followed.wait_for(|followed| followed.revision >= revision).await;
        reached.map(drop).map_err(|_| closed())
    }
}

fn closed() -> ReadError {
    ReadError::Unavailable("the store is closed".into())
}

impl Asker {
    pub async fn run(mut self) {
        let mut round = Vec::new();
        while self.waiting.recv_many(&mut round, usize::MAX).await > 0 {
            let answer = self.newest().await;
            for waiting in round.drain(..) {
                let _ = waiting.send(answer.clone());
            }
        }
    }

    /// The revision of the newest transaction of any server.
    async fn newest(&self) -> Result<Revision, ReadError> {
        let before = *self.followed.borrow();
        let range = RangeRequest { key: self.space.head(), keys_only: true, ..Default::default() };
        let asking = self.members.read(Instant::now() + DEADLINE, |mut kv| {
            let range = range.clone();
            async move { kv.range(range).await }
        });
        let answer = asking.await.map_err(|status| ReadError::Unavailable(super::said(&status)))?;
        match answer.kvs.first() {
            Some(head) if head.version >= before.heads => Ok(whole(head.mod_revision)),
            // Restored from a copy, or deleted: what the cache has is not true any more.
            _ => {
                self.went_back.notify_one();
                Err(ReadError::Unavailable("etcd has less than it had: it is read anew".into()))
            }
        }
    }
}
