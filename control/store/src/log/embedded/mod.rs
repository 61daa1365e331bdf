//! The embedded engine: one redb file and one writer thread.
//!
//! Writers hand their transactions to the writer thread, which carries out as many as are waiting in one redb
//! transaction (group commit: one fsync for all), puts them into the cache, and then acknowledges. The file holds the newest
//! version of each key.
//!
//! On a full disk what takes more room is refused, and goes again when there is some; deletions use room that is kept
//! for them. After a failure that leaves it open whether something was written nothing is written any more
//! ([`Store::ended`](crate::Store::ended)): the process has to end, and the next one reads what the disk has.

mod disk;
#[cfg(test)]
mod failing;
mod medium;

use std::{path::Path, sync::Arc, thread};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    disk::{Disk, WriteError},
    medium::OpenFile,
};
use super::{
    Log,
    batch::{Batch, Growth},
};
use crate::{ReadError, Revision, Txn, TxnError, mvcc::Cache};

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

/// The log in one file. Closed when its last unanswered write is gone.
pub(crate) struct Embedded {
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

impl Embedded {
    pub fn open(path: &Path, cache: Arc<Cache>) -> Result<Self, OpenError> {
        Self::open_with(path, cache, Box::new(medium::open_file))
    }

    fn open_with(path: &Path, cache: Arc<Cache>, open_file: OpenFile) -> Result<Self, OpenError> {
        let failed = |why: Unopened| OpenError { path: path.display().to_string(), why };
        let (disk, revision, entries) = Disk::open(path, open_file, cache.options().reserve_bytes).map_err(failed)?;
        cache.load(revision, entries);
        let (requests, queue) = mpsc::unbounded_channel();
        let (ending, ended) = watch::channel(None);
        let writer = Writer { disk, cache };
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                if let Err(why) = writer.run(queue) {
                    tracing::error!(why, "the store has ended: what it wrote last may or may not be there");
                    let _ = ending.send(Some(why));
                }
            })
            .map_err(|e| failed(Unopened::Failed(e.to_string())))?;
        Ok(Self { requests, writer: Some(writer), ended })
    }
}

#[async_trait]
impl Log for Embedded {
    async fn commit(&self, txn: Txn) -> Result<Revision, TxnError> {
        let closed = || TxnError::Unknown("the store is closed".into());
        let (answer, result) = oneshot::channel();
        self.requests.send(Request { txn, answer }).map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }

    /// Nobody else writes, and what is acknowledged is in the cache.
    async fn barrier(&self) -> Result<(), ReadError> {
        Ok(())
    }

    fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    fn close(&mut self) {
        // Closing the channel ends the writer after what it has taken; joining it releases the file's lock.
        let (closed, _) = mpsc::unbounded_channel();
        self.requests = closed;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The one thread that writes.
struct Writer {
    disk: Disk,
    cache: Arc<Cache>,
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
            let (durable, mut batch, outcomes);
            {
                let there = self.cache.current();
                durable = there.revision();
                batch = Batch::new(durable);
                outcomes = requests.iter().map(|request| batch.add(&there, &request.txn, allowed)).collect::<Vec<_>>();
            }
            let written = if batch.is_empty() { Ok(()) } else { self.disk.write(&batch, durable) };
            match written {
                Ok(()) => {
                    let revision = batch.revision();
                    self.cache.apply(batch.into_changes(), revision);
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
                        let _ = request.answer.send(Err(TxnError::Unknown(why.clone())));
                    }
                    return Err(why);
                }
            }
        }
    }
}
