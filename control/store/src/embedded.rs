//! The embedded engine: one redb file, one writer thread, reads from memory.
//!
//! Writers hand their transactions to the writer thread, which carries out as many as are waiting in one redb
//! transaction (group commit: one fsync for all), publishes them to memory and to the watchers, and then
//! acknowledges. The file holds the newest version of each key; older versions, for consistent paging and for watches
//! from the past, are kept in memory within [`Options::history_changes`] and [`Options::history_bytes`].
//!
//! On a full disk what takes more room is refused, and goes again when there is some; deletions use room that is kept
//! for them. After a failure that leaves it open whether something was written nothing is written any more
//! ([`EmbeddedStore::ended`]): the process has to end, and the next one reads what the disk has.

mod disk;
#[cfg(test)]
mod failing;
mod medium;
mod memory;

use std::{path::Path, sync::Arc, thread};

use async_trait::async_trait;
use hypernetes_api::TenantId;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    disk::{Disk, WriteError},
    medium::OpenFile,
    memory::{Batch, Growth, Memory},
};
use crate::{
    Changes, Entry, Key, Listing, MAX_VALUE_BYTES, METERED, Meter, Op, Prefix, Quotas, RangeOptions, ReadError,
    Revision, Store, Txn, TxnError, Usage, WatchLimits,
};

/// How much of the past is kept in memory, and how much room on the disk.
#[derive(Debug, Clone)]
pub struct Options {
    /// Changes of one tenant.
    pub history_changes: usize,
    /// Bytes of one tenant's changes.
    pub history_bytes: usize,
    /// Bytes of all tenants' changes. When there are more the tenant with the most loses some.
    pub history_total_bytes: usize,
    /// How far watchers of one tenant may be behind.
    pub tenant_watch: WatchLimits,
    /// How far watchers of all tenants may be behind.
    pub infrastructure_watch: WatchLimits,
    /// Bytes on the disk that only deletions, and half of it small changes, may use.
    pub reserve_bytes: u64,
    /// What each tenant's quota is compared with, besides objects and bytes. The same for all that opens one file.
    pub meter: Meter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_changes: 20_000,
            history_bytes: 16 << 20,
            history_total_bytes: 64 << 20,
            tenant_watch: WatchLimits { bytes: 8 << 20, tenant_bytes: 32 << 20 },
            infrastructure_watch: WatchLimits { bytes: 64 << 20, tenant_bytes: usize::MAX },
            reserve_bytes: 16 << 20,
            meter: |_, _| [0; METERED],
        }
    }
}

/// The file cannot be opened as a store. Nothing in it has changed.
#[derive(Debug, thiserror::Error)]
#[error("opening the store {path}: {why}")]
pub struct OpenError {
    pub path: String,
    pub why: Unopened,
}

/// Why a file cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// Only what has written it knows what is in it.
    #[error("it has format {found}, this program knows {known} at most: a newer version has written it")]
    Newer { found: u64, known: u64 },
    #[error("it is no store, but a database of something else")]
    Foreign,
    /// It cannot be read, is locked, or is no database.
    #[error("{0}")]
    Failed(String),
}

/// The store in one file. Closed when the last handle and the last unanswered write are gone.
pub struct EmbeddedStore {
    memory: Arc<RwLock<Memory>>,
    quotas: Arc<Quotas>,
    requests: mpsc::UnboundedSender<Request>,
    writer: Option<thread::JoinHandle<()>>,
    /// Why the writer has ended.
    ended: watch::Receiver<Option<String>>,
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
    /// When the file cannot be read, is locked, holds something else, or is of a newer version.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_with(path, options, Box::new(medium::open_file))
    }

    fn open_with(path: &Path, options: Options, open_file: OpenFile) -> Result<Self, OpenError> {
        let failed = |why: Unopened| OpenError { path: path.display().to_string(), why };
        let (disk, revision, entries) = Disk::open(path, open_file, options.reserve_bytes).map_err(failed)?;
        let memory = Arc::new(RwLock::new(Memory::new(options, revision, entries)));
        let quotas = Arc::new(Quotas::default());
        let (requests, queue) = mpsc::unbounded_channel();
        let (ending, ended) = watch::channel(None);
        let writer = Writer { disk, memory: memory.clone(), quotas: quotas.clone() };
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                if let Err(why) = writer.run(queue) {
                    tracing::error!(why, "the store has ended: what it wrote last may or may not be there");
                    let _ = ending.send(Some(why));
                }
            })
            .map_err(|e| failed(Unopened::Failed(e.to_string())))?;
        Ok(Self { memory, quotas, requests, writer: Some(writer), ended })
    }

    /// Returns when nothing can be written any more, and says why. The process should end then: only opening the file
    /// anew tells what is in it.
    pub fn ended(&self) -> impl Future<Output = String> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            why.unwrap_or_else(|| "the store's writer has ended".into())
        }
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

/// The one thread that writes.
struct Writer {
    disk: Disk,
    memory: Arc<RwLock<Memory>>,
    quotas: Arc<Quotas>,
}

impl Writer {
    /// # Errors
    /// When it is not known what is in the file.
    fn run(mut self, mut queue: mpsc::UnboundedReceiver<Request>) -> Result<(), String> {
        let mut requests = Vec::new();
        while queue.blocking_recv_many(&mut requests, BATCH) > 0 {
            self.carry_out(std::mem::take(&mut requests))?;
        }
        Ok(())
    }

    /// Writes what can be written and answers. Nobody is told anything before it is durable: not even that it is in
    /// conflict with something.
    fn carry_out(&mut self, mut requests: Vec<Request>) -> Result<(), String> {
        let mut allowed = if self.disk.may_grow() { Growth::Large } else { Growth::Small };
        loop {
            let durable = self.memory.read().revision();
            let mut batch = Batch::new(durable);
            let outcomes: Vec<_> = {
                let memory = self.memory.read();
                requests.iter().map(|request| batch.add(&memory, &request.txn, &self.quotas, allowed)).collect()
            };
            let written = if batch.is_empty() { Ok(()) } else { self.disk.write(&batch, durable) };
            match written {
                Ok(()) => {
                    self.memory.write().publish(batch);
                    for (request, outcome) in requests.into_iter().zip(outcomes) {
                        let _ = request.answer.send(outcome.map(|(revision, _)| revision));
                    }
                    return Ok(());
                }
                Err(WriteError::Refused(why)) => {
                    tracing::warn!(why, "there is no room for the store's changes");
                    // What takes the most room is refused, and the rest tried again without.
                    let largest = batch.growth();
                    let mut rest = Vec::new();
                    for (request, outcome) in requests.into_iter().zip(outcomes) {
                        match outcome {
                            Ok((_, growth)) if growth == largest => {
                                let _ = request.answer.send(Err(TxnError::NoSpace(why.clone())));
                            }
                            _ => rest.push(request),
                        }
                    }
                    requests = rest;
                    allowed = match largest {
                        Growth::Large => Growth::Small,
                        Growth::Small | Growth::None => Growth::None,
                    };
                }
                Err(WriteError::Doubtful(why)) => {
                    for request in requests {
                        let _ = request.answer.send(Err(TxnError::Io(why.clone())));
                    }
                    return Err(why);
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

    fn health(&self) -> Result<(), ReadError> {
        if self.requests.is_closed() { Err(ReadError::Io("its writer has ended".into())) } else { Ok(()) }
    }

    fn quotas(&self) -> Arc<Quotas> {
        self.quotas.clone()
    }

    fn usage(&self, tenant: &TenantId) -> Usage {
        self.memory.read().usage(tenant.as_str())
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
