//! The embedded engine: one redb file, one writer thread, reads from memory.
//!
//! Writers hand their transactions to the writer thread, which carries out as many as are waiting in one redb
//! transaction (group commit: one fsync for all), publishes them to memory and to the watchers, and then
//! acknowledges. The file holds the newest version of each key; older versions, for consistent paging and for watches
//! from the past, are kept in memory within [`Options::history_changes`] and [`Options::history_bytes`].

mod disk;
mod memory;

use std::{path::Path, sync::Arc, thread};

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use self::{disk::Disk, memory::Memory};
use crate::{
    Changes, Entry, Key, Listing, MAX_VALUE_BYTES, Op, Prefix, RangeOptions, ReadError, Revision, Store, Txn, TxnError,
};

/// How much of the past is kept in memory.
#[derive(Debug, Clone)]
pub struct Options {
    pub history_changes: usize,
    pub history_bytes: usize,
    /// Changes that a watcher may be behind before it is told [`crate::WatchError::Lagged`].
    pub watch_buffer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_changes: 20_000, history_bytes: 16 << 20, watch_buffer: 4096 }
    }
}

/// The file cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
#[error("opening the store {path}: {reason}")]
pub struct OpenError {
    pub path: String,
    pub reason: String,
}

/// The store in one file. Closed when the last handle and the last unanswered write are gone.
pub struct EmbeddedStore {
    memory: Arc<RwLock<Memory>>,
    requests: mpsc::UnboundedSender<Request>,
    writer: Option<thread::JoinHandle<()>>,
}

struct Request {
    txn: Txn,
    answer: oneshot::Sender<Result<Revision, TxnError>>,
}

/// Transactions per fsync at the most; bounds how long the first of them waits.
const BATCH: usize = 1024;

impl EmbeddedStore {
    /// Opens the file, or makes it with mode 0600. Another process that has it open is an error.
    ///
    /// # Errors
    /// When the file cannot be read, is locked, or holds something else.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let failed = |reason: String| OpenError { path: path.display().to_string(), reason };
        let (disk, revision, entries) = Disk::open(path).map_err(failed)?;
        let memory = Arc::new(RwLock::new(Memory::new(options, revision, entries)));
        let (requests, queue) = mpsc::unbounded_channel();
        let shared = memory.clone();
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_loop(disk, &shared, queue))
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self { memory, requests, writer: Some(writer) })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // Closing the channel ends the writer after what it has taken; joining it releases the file's lock.
        let (closed, _) = mpsc::unbounded_channel();
        self.requests = closed;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self.memory.write().close_watchers();
    }
}

fn write_loop(mut disk: Disk, memory: &RwLock<Memory>, mut queue: mpsc::UnboundedReceiver<Request>) {
    let mut requests = Vec::new();
    while queue.blocking_recv_many(&mut requests, BATCH) > 0 {
        let mut batch = memory::Batch::new(memory.read().revision());
        let mut accepted = Vec::with_capacity(requests.len());
        for Request { txn, answer } in requests.drain(..) {
            match batch.add(&memory.read(), txn) {
                Ok(revision) => accepted.push((answer, revision)),
                // A conflict is with what is durable or will be, if this batch is: an earlier one in the batch may
                // yet fail, and then the client's retry finds that out.
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        if accepted.is_empty() {
            continue;
        }
        match disk.write(&batch) {
            Ok(()) => {
                memory.write().publish(batch);
                for (answer, revision) in accepted {
                    let _ = answer.send(Ok(revision));
                }
            }
            Err(error) => {
                tracing::error!(%error, transactions = accepted.len(), "the store cannot write");
                for (answer, _) in accepted {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        Ok(self.memory.read().get(key))
    }

    async fn range(&self, prefix: &Prefix, options: RangeOptions) -> Result<Listing, ReadError> {
        self.memory.read().range(prefix, &options)
    }

    async fn count(&self, prefix: &Prefix) -> Result<usize, ReadError> {
        Ok(self.memory.read().count(prefix))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, TxnError> {
        for op in &txn.ops {
            if let Op::Put(_, value) = op
                && value.len() > MAX_VALUE_BYTES
            {
                return Err(TxnError::TooLarge(value.len()));
            }
        }
        let closed = || TxnError::Io("the store is closed".into());
        let (answer, result) = oneshot::channel();
        self.requests.send(Request { txn, answer }).map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }

    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Changes, ReadError> {
        self.memory.write().watch(prefix, from)
    }

    async fn revision(&self) -> Result<Revision, ReadError> {
        Ok(self.memory.read().revision())
    }

    async fn compact(&self, revision: Revision) -> Result<(), ReadError> {
        self.memory.write().compact(revision)
    }
}
