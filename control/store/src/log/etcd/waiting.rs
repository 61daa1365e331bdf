//! Transactions of this server that were sent and have not been seen yet, by their marks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{budget::Share, keyspace::Mark};
use crate::Revision;

/// How long a transaction whose outcome is not known counts against its tenant: a multiple of the seven seconds after which
/// etcd itself gives a request up.
pub(super) const FORGET: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Waiting(Mutex<HashMap<Mark, Sent>>);

struct Sent {
    /// Is told the revision.
    seen: oneshot::Sender<Revision>,
    share: Share,
}

/// A transaction that was sent. Dropped before it was seen or
/// settled, it may still be carried out.
pub(super) struct Pending {
    waiting: Arc<Waiting>,
    mark: Mark,
    seen: oneshot::Receiver<Revision>,
    /// Nothing more comes of it.
    over: bool,
}

impl Waiting {
    pub fn begin(self: &Arc<Self>, share: Share) -> Pending {
        let mark = Mark::new();
        let (sender, seen) = oneshot::channel();
        self.0.lock().insert(mark, Sent { seen: sender, share });
        Pending { waiting: self.clone(), mark, seen, over: false }
    }

    /// Of a transaction, whoever's, that is in the cache now.
    pub fn saw(&self, mark: Mark, revision: Revision) {
        let sent = self.0.lock().remove(&mark);
        if let Some(Sent { seen, share }) = sent {
            // It counts in the cache's usage now.
            drop(share);
            let _ = seen.send(revision);
        }
    }

    /// What was sent until now may have been carried out without having been seen: it will not be seen any more.
    pub fn missed_all(&self) {
        self.0.lock().clear();
    }
}

impl Pending {
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// When it is in the cache; none: the cache was loaded anew, and whether it is in there is not known.
    pub async fn seen(&mut self) -> Option<Revision> {
        let seen = (&mut self.seen).await.ok();
        self.over = true;
        seen
    }

    /// What [`Self::seen`] would say, when it would say it at once.
    pub fn seen_already(&mut self) -> Option<Revision> {
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
        self.waiting.0.lock().remove(&self.mark);
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
