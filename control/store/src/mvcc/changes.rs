//! What a watcher has not read yet, bounded in bytes: for each watcher, and for all of a tenant's together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use crate::{Change, Revision, WatchError};

/// How far watchers may be behind before they are told [`WatchError::Lagged`].
#[derive(Debug, Clone, Copy)]
pub struct WatchLimits {
    /// Bytes that wait for one watcher.
    pub bytes: usize,
    /// Bytes that wait for all watchers of one tenant; whoever has less than [`SPARED`] waiting goes on.
    pub tenant_bytes: usize,
}

/// A watcher that is no further behind than this many bytes does not pay for its tenant's others.
const SPARED: usize = 64 << 10;

/// Bytes that the watchers of one tenant have not read.
pub(super) type Buffer = AtomicUsize;

/// About what a change takes in memory: the entry, or the one that was deleted.
pub(super) fn bytes_of(change: &Change) -> usize {
    let value = change.now.as_ref().or(change.before.as_ref()).map_or(0, |entry| entry.value.len());
    value + change.key.as_str().len() + 200
}

type Item = Result<Arc<Change>, WatchError>;

/// Bytes that wait: the watcher's own and its tenant's.
struct Waiting {
    own: AtomicUsize,
    tenant: Arc<Buffer>,
}

impl Waiting {
    fn add(&self, bytes: usize) {
        self.own.fetch_add(bytes, Ordering::Relaxed);
        self.tenant.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.own.fetch_sub(bytes, Ordering::Relaxed);
        self.tenant.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn has_room(&self, bytes: usize, limits: WatchLimits) -> bool {
        let own = self.own.load(Ordering::Relaxed) + bytes;
        let tenant = self.tenant.load(Ordering::Relaxed) + bytes;
        own <= limits.bytes.max(bytes) && (own <= SPARED || tenant <= limits.tenant_bytes)
    }
}

/// Changes of a watch, in order. `None` never comes before an `Err`.
pub struct Changes {
    receiver: mpsc::UnboundedReceiver<Item>,
    waiting: Arc<Waiting>,
    /// Gives the watch's place back.
    _place: Box<dyn Send + Sync>,
}

impl Changes {
    pub async fn recv(&mut self) -> Option<Item> {
        let item = self.receiver.recv().await;
        if let Some(Ok(change)) = &item {
            self.waiting.subtract(bytes_of(change));
        }
        item
    }

    /// What has come already; `Ok(None)`: nothing now.
    ///
    /// # Errors
    /// When the watch has ended.
    pub fn try_recv(&mut self) -> Result<Option<Arc<Change>>, WatchError> {
        match self.receiver.try_recv() {
            Ok(Ok(change)) => {
                self.waiting.subtract(bytes_of(&change));
                Ok(Some(change))
            }
            Ok(Err(error)) => Err(error),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(WatchError::Closed),
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.receiver.close();
        while let Ok(item) = self.receiver.try_recv() {
            if let Ok(change) = item {
                self.waiting.subtract(bytes_of(&change));
            }
        }
    }
}

/// The store's end of a watch.
pub(super) struct Feed {
    sender: mpsc::UnboundedSender<Item>,
    waiting: Arc<Waiting>,
    limits: WatchLimits,
    /// What is not newer was in the backlog.
    from: Revision,
}

impl Feed {
    /// False: the watch has ended.
    pub fn send(&self, change: &Arc<Change>) -> bool {
        if change.revision <= self.from {
            return true;
        }
        let bytes = bytes_of(change);
        if !self.waiting.has_room(bytes, self.limits) {
            let _ = self.sender.send(Err(WatchError::Lagged));
            return false;
        }
        self.waiting.add(bytes);
        let sent = self.sender.send(Ok(change.clone())).is_ok();
        if !sent {
            self.waiting.subtract(bytes);
        }
        sent
    }

    pub fn end(self, why: WatchError) {
        let _ = self.sender.send(Err(why));
    }
}

/// A watch that begins with `backlog` and goes on after `from`; its place back when the backlog is too much already.
pub(super) fn channel<P: Send + Sync + 'static>(
    backlog: Vec<Arc<Change>>,
    from: Revision,
    limits: WatchLimits,
    tenant: Arc<Buffer>,
    place: P,
) -> Result<(Feed, Changes), P> {
    let waiting = Arc::new(Waiting { own: AtomicUsize::new(0), tenant });
    let bytes = backlog.iter().map(|change| bytes_of(change)).sum();
    if !waiting.has_room(bytes, limits) {
        return Err(place);
    }
    waiting.add(bytes);
    let (sender, receiver) = mpsc::unbounded_channel();
    for change in backlog {
        let _ = sender.send(Ok(change));
    }
    Ok((
        Feed { sender, waiting: waiting.clone(), limits, from },
        Changes { receiver, waiting, _place: Box::new(place) },
    ))
}
