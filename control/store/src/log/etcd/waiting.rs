//! Transactions of this server that were sent and have not been seen yet, by their marks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{budget::Share, head::Mark};
use crate::{Key, Revision};

/// How long a transaction whose outcome is not known counts against its tenant: a multiple of the seven seconds after which
/// etcd itself gives a request up.
pub(super) const FORGET: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Waiting(Mutex<HashMap<Mark, Sent>>);

/// What is known of a transaction that was sent, and who is told of it.
pub(super) struct Sent {
    /// One that it changes.
    key: Key,
    seen: oneshot::Sender<Outcome>,
    share: Share,
}

/// What became of a transaction that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done(Revision),
    /// It was not carried out, because something has changed, and never will be.
    Overtaken,
}

/// A transaction that was sent. Dropped before it was seen or
/// settled, it may still be carried out.
pub(super) struct Pending {
    waiting: Arc<Waiting>,
    mark: Mark,
    seen: oneshot::Receiver<Outcome>,
    /// Nothing more comes of it.
    over: bool,
}

impl Waiting {
    /// Of a transaction that changes this key, or does nothing.
    pub fn begin(self: &Arc<Self>, key: Key, share: Share) -> Pending {
        let mark = Mark::new();
        let (sender, seen) = oneshot::channel();
        self.0.lock().insert(mark, Sent { key, seen: sender, share });
        Pending { waiting: self.clone(), mark, seen, over: false }
    }

    /// A transaction of this server that etcd's watch has told of.
    pub fn take(&self, mark: Mark) -> Option<Sent> {
        self.0.lock().remove(&mark)
    }

    /// It was not carried out and never will be.
    pub fn settled(&self, mark: Mark) {
        self.0.lock().remove(&mark);
    }

    /// What was sent until now may have been carried out without having been seen: it will not be seen any more.
    pub fn missed_all(&self) {
        self.0.lock().clear();
    }
}

impl Sent {
    /// Whether it was carried out, of what was changed when it was, or else would have been.
    pub fn is_done<'a>(&self, mut changed: impl Iterator<Item = &'a Key>) -> bool {
        changed.any(|key| *key == self.key)
    }

    /// The cache has that, and counts what it has added.
    pub fn told(self, outcome: Outcome) {
        drop(self.share);
        let _ = self.seen.send(outcome);
    }
}

impl Pending {
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// What etcd's watch has told of it, and is in the cache; none: the cache was loaded anew, and whether it is in there is not known.
    pub async fn seen(&mut self) -> Option<Outcome> {
        let seen = (&mut self.seen).await.ok();
        self.over = true;
        seen
    }

    /// What [`Self::seen`] would say, when it would say it at once.
    pub fn seen_already(&mut self) -> Option<Outcome> {
        if self.over {
            return None;
        }
        let seen = self.seen.try_recv();
        self.over = !matches!(seen, Err(oneshot::error::TryRecvError::Empty));
        seen.ok()
    }

    /// Whether it was told already what there is to tell.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// It has not been carried out and never will be.
    pub fn settled(self) {
        self.waiting.settled(self.mark);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.waiting.0.lock().contains_key(&self.mark) {
            return;
        }
        let (waiting, mark) = (self.waiting.clone(), self.mark);
        // Without a runtime everything ends, and this with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(FORGET).await;
                waiting.0.lock().remove(&mark);
            });
        }
    }
}
