//! The embedded engine: a log of its own in one directory, and one thread that writes it.
//!
//! Writers hand their transactions to the thread, which appends as many as are waiting as one frame (group commit: one
//! fdatasync for all, into room that was taken before), puts them into the cache, and then acknowledges. Checkpoints of the
//! cache are made beside that, so that opening reads little more than the data.
//!
//! On a full disk what takes more room is refused, and goes again when there is some; what takes none goes on in room that is
//! kept: a segment of the log, and a checkpoint's. After a failure that leaves it open whether something was written nothing is
//! written any more ([`Store::ended`](crate::Store::ended)): the process has to end, and the next one reads what the disk has.

mod checkpoint;
mod files;
mod frame;
mod header;
mod medium;
mod migrate;
mod pieces;
mod record;
mod recover;
mod rotation;
mod segments;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::{
    files::Files,
    medium::{Disk, Medium},
    recover::Recovered,
    writer::Writer,
};
use super::Log;
use crate::{Encryption, ReadError, Revision, RotationError, Txn, TxnError, mvcc::Applied, mvcc::Cache};

pub use snapshot::{Contents, Snapshot};

/// The directory cannot be opened as a store. Nothing in it has changed.
#[derive(Debug, thiserror::Error)]
#[error("opening the store {path}: {why}")]
pub struct OpenError {
    pub path: String,
    pub why: Unopened,
}

/// Why something cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// Only what has written it knows what is in it.
    #[error("it has format {found}, this program knows {known} at most: a newer version has written it")]
    Newer { found: u64, known: u64 },
    #[error("it is no store, but a database of something else")]
    Foreign,
    /// What was written is not what is read.
    #[error("{file} is damaged at byte {at}: {what}; go on with a snapshot: `hypernetes snapshot restore`")]
    Damaged { file: String, at: u64, what: String },
    #[error("it is encrypted with key {key}, which is not among those that were given: `--encryption-keys`")]
    Sealed { key: u32 },
    /// It was put in the place of one that had come further.
    #[error(
        "it is at revision {found}, and a store that was here had come to {seen}: it is an older copy, or another one; to go on \
         with it nevertheless, remove {memory}"
    )]
    Older { found: Revision, seen: Revision, memory: String },
    #[error("another process has it open")]
    Locked,
    /// It cannot be read, or is no database.
    #[error("{0}")]
    Failed(String),
}

/// The log in one directory. Closed when its last unanswered write is gone.
pub(crate) struct Embedded {
    requests: mpsc::UnboundedSender<Asked>,
    /// KiB of transactions that may wait.
    room: Arc<Semaphore>,
    writer: Option<thread::JoinHandle<()>>,
    /// Why the writer has ended.
    ended: watch::Receiver<Option<String>>,
    /// Of this process alone, for as long as this is.
    _lock: Option<File>,
}

/// What the writer does, one after the other.
enum Asked {
    Commit(Request),
    Rotate(Rotation),
    /// The checkpoint of this number is made, or cannot be.
    CheckpointIsOver(u64),
}

/// A transaction that waits to be written.
struct Request {
    txn: Txn,
    answer: oneshot::Sender<Result<Revision, TxnError>>,
}

/// Keys that are to be used.
struct Rotation {
    keys: Encryption,
    /// Who waits; none: it came with the start.
    answer: Option<oneshot::Sender<Result<(), RotationError>>>,
    /// The checkpoint that comes next; none: it has not begun.
    next: Option<u64>,
}

/// KiB of transactions that wait: who brings more waits before.
const QUEUE_KIB: usize = 64 << 10;

impl Embedded {
    /// In a directory that is made, mode 0700, if it is not there. What a version before left in the file of the same name
    /// with `.redb` behind it is taken over.
    pub fn open(path: &Path, cache: Arc<Cache>) -> Result<Self, OpenError> {
        let failed = |why: Unopened| OpenError { path: path.display().to_string(), why };
        let lock = lock(path).map_err(failed)?;
        let mut log = Self::open_with(path, cache, Arc::new(Disk))?;
        log._lock = Some(lock);
        Ok(log)
    }

    fn open_with(path: &Path, cache: Arc<Cache>, medium: Arc<dyn Medium>) -> Result<Self, OpenError> {
        let failed = |why: Unopened| OpenError { path: path.display().to_string(), why };
        let options = cache.options();
        let files = Files { medium, directory: path.to_owned(), encryption: options.encryption.clone() };
        let before = path.with_extension("redb");
        let mut taken_over = false;
        let first = || {
            let found = migrate::read(&before)?;
            taken_over = found.is_some();
            Ok(found.unwrap_or_default())
        };
        let recovered = recover::open(&files, options.reserve_bytes.max(4096), first).map_err(failed)?;
        let Recovered { entries, revision, later, segments, mut checkpoints, another_key } = recovered;
        let last = later.last().map_or(revision, |batch| batch.last);
        if let Ok(Some(seen)) = files.seen()
            && (seen.store != segments.store || seen.revision > last)
        {
            let memory = files.seen_path().display().to_string();
            return Err(failed(Unopened::Older { found: last, seen: seen.revision, memory }));
        }
        if taken_over {
            migrate::remove(&before);
        }
        cache.load(revision, entries);
        for batch in later {
            let applied = |(revision, key, now)| Applied { revision, key, now };
            cache.apply(batch.changes.into_iter().map(applied).collect(), batch.last);
        }
        let (requests, queue) = mpsc::unbounded_channel();
        checkpoints.tell = Some(requests.downgrade());
        let (ending, ended) = watch::channel(None);
        let writer = Writer::new(files, segments, checkpoints, cache, another_key);
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                if let Err(why) = writer.run(queue) {
                    tracing::error!(why, "the store has ended: what it wrote last may or may not be there");
                    let _ = ending.send(Some(why));
                }
            })
            .map_err(|e| failed(Unopened::Failed(e.to_string())))?;
        let room = Arc::new(Semaphore::new(QUEUE_KIB));
        Ok(Self { requests, room, writer: Some(writer), ended, _lock: None })
    }
}

/// No other process has the directory open until the file is dropped.
fn lock(directory: &Path) -> Result<File, Unopened> {
    Disk.make_directory(directory)?;
    let file = File::options().create(true).truncate(false).write(true).open(directory.join("lock"))?;
    // One that was killed may not be quite gone yet.
    for _ in 0..100 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(Unopened::Locked)
}

#[async_trait]
impl Log for Embedded {
    async fn commit(&self, txn: Txn) -> Result<Revision, TxnError> {
        let closed = || TxnError::Unknown("the store is closed".into());
        let kib = u32::try_from((txn.bytes() >> 10) + 1).unwrap_or(u32::MAX).min(QUEUE_KIB as u32);
        let room = self.room.clone().acquire_many_owned(kib).await.map_err(|_| closed())?;
        let (answer, result) = oneshot::channel();
        self.requests.send(Asked::Commit(Request { txn, answer })).map_err(|_| closed())?;
        let result = result.await.map_err(|_| closed())?;
        drop(room);
        result
    }

    /// Nobody else writes, and what is acknowledged is in the cache.
    async fn barrier(&self) -> Result<(), ReadError> {
        Ok(())
    }

    async fn rotate(&self, keys: Encryption) -> Result<(), RotationError> {
        let closed = || RotationError::Failed("the store is closed".into());
        let (answer, result) = oneshot::channel();
        let rotation = Rotation { keys, answer: Some(answer), next: None };
        self.requests.send(Asked::Rotate(rotation)).map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }

    fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    fn close(&mut self) {
        // Closing the channel ends the writer after what it has taken.
        let (closed, _) = mpsc::unbounded_channel();
        self.requests = closed;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self._lock = None;
    }
}
