//! The one thread that writes.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::mpsc;

use super::{
    Asked, Request, Rotation,
    checkpoint::Checkpoints,
    files::Files,
    segments::{Segments, WriteError},
};
use crate::{
    TxnError,
    log::batch::{Batch, Growth},
    mvcc::Cache,
};

/// Transactions per fdatasync at the most, and their bytes, if there is more than one: both bound how long the first waits.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// Segments that are worth a checkpoint, however little there is.
const WORTH: u64 = 8;

pub(super) struct Writer {
    pub files: Files,
    pub segments: Segments,
    pub checkpoints: Checkpoints,
    pub cache: Arc<Cache>,
    batch_bytes: usize,
    /// Something is still sealed with another key than what is written.
    pub another_key: bool,
    /// One after the other.
    pub rotations: VecDeque<Rotation>,
}

impl Writer {
    pub fn new(
        files: Files,
        segments: Segments,
        checkpoints: Checkpoints,
        cache: Arc<Cache>,
        another_key: bool,
    ) -> Self {
        // So that whatever is small fits into a segment that there is.
        let batch_bytes = BATCH_BYTES.min(segments.segment_bytes as usize / 4);
        Self { files, segments, checkpoints, cache, batch_bytes, another_key, rotations: VecDeque::new() }
    }

    /// # Errors
    /// When it is not known what is in the log.
    pub fn run(mut self, mut queue: mpsc::UnboundedReceiver<Asked>) -> Result<(), String> {
        self.remember();
        if self.another_key {
            self.rotations.push_back(Rotation { keys: self.files.encryption.now(), answer: None, next: None });
            self.go_on_with_rotations();
        }
        let (mut taken, mut waiting) = (Vec::new(), VecDeque::new());
        while !waiting.is_empty() || queue.blocking_recv_many(&mut taken, BATCH) > 0 {
            for asked in taken.drain(..) {
                match asked {
                    Asked::Commit(request) => waiting.push_back(request),
                    Asked::Rotate(rotation) => self.rotations.push_back(rotation),
                    // Its thread is about to end. One that was waited for has been seen to.
                    Asked::CheckpointIsOver(number) => self.release(number == self.checkpoints.newest + 1),
                }
            }
            self.go_on_with_rotations();
            if waiting.is_empty() {
                continue;
            }
            let batch = self.next(&mut waiting);
            self.carry_out(batch)?;
            self.maintain();
        }
        while !self.rotations.is_empty() {
            self.release(true);
            self.go_on_with_rotations();
        }
        if !self.another_key {
            self.checkpoints.stop();
        }
        self.release(true);
        let closed = self.segments.close(self.cache.revision());
        self.remember();
        match closed {
            Err(WriteError::Doubtful(why)) => Err(why),
            Ok(()) | Err(WriteError::Refused(_)) => Ok(()),
        }
    }

    /// As many of the first as may be written at once.
    fn next(&self, waiting: &mut VecDeque<Request>) -> Vec<Request> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(request) = waiting.front() {
            bytes += request.txn.bytes();
            if batch.len() == BATCH || (bytes > self.batch_bytes && !batch.is_empty()) {
                break;
            }
            batch.extend(waiting.pop_front());
        }
        batch
    }

    /// How much more room may be taken for transactions of so many bytes. What takes none can be written always: there is
    /// a segment for it, and room for the checkpoint that makes one of those before free.
    fn allowed(&mut self, incoming: usize) -> Growth {
        if !self.segments.has_spare() {
            self.free_segments();
        }
        let total = self.cache.total();
        let bytes = total.bytes + incoming as u64;
        if self.segments.has_spare() && self.checkpoints.has_room(total.objects + 1, bytes) {
            Growth::Large
        } else if self.segments.rest() > self.segments.segment_bytes / 2 {
            Growth::Small
        } else {
            Growth::None
        }
    }

    /// Writes what can be written and answers. Nobody is told anything before it is durable: not even that it is in
    /// conflict with something.
    fn carry_out(&mut self, mut requests: Vec<Request>) -> Result<(), String> {
        let mut allowed = self.allowed(requests.iter().map(|request| request.txn.bytes()).sum());
        loop {
            let (durable, mut batch, outcomes);
            {
                let there = self.cache.current();
                durable = there.revision();
                batch = Batch::new(durable);
                outcomes = requests.iter().map(|request| batch.add(&there, &request.txn, allowed)).collect::<Vec<_>>();
            }
            let written = if batch.is_empty() { Ok(()) } else { self.write(&batch, durable) };
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

    /// Where there is no segment to go on in, a checkpoint makes one of those before free.
    fn write(&mut self, batch: &Batch, durable: crate::Revision) -> Result<(), WriteError> {
        match self.segments.append(batch, durable) {
            Err(WriteError::Refused(why)) => {
                let before = self.segments.rest();
                self.free_segments();
                if self.segments.rest() == before {
                    return Err(WriteError::Refused(why));
                }
                self.segments.append(batch, durable)
            }
            other => other,
        }
    }

    /// Waits for a checkpoint with which no segment but the current one is needed.
    fn free_segments(&mut self) {
        self.release(true);
        if !self.segments.full.is_empty() {
            self.checkpoints.begin(&self.cache, self.segments.current.number);
            self.release(true);
        }
    }

    /// Makes a checkpoint when so much has been written that it is worth one: no more is written twice than once.
    fn maintain(&mut self) {
        self.release(false);
        let worth = self.cache.total().bytes.max(WORTH * self.segments.segment_bytes);
        if self.segments.bytes() > worth && !self.checkpoints.is_writing() {
            self.checkpoints.begin(&self.cache, self.segments.current.number);
        }
    }

    /// Frees the segments that a checkpoint has made useless; with `wait` the one that is being made is waited for.
    pub fn release(&mut self, wait: bool) {
        if let Some(segment) = self.checkpoints.finish(wait) {
            self.segments.release_before(segment);
            self.remember();
            if !self.checkpoints.is_any_stale() && std::mem::take(&mut self.another_key) {
                tracing::info!(key = self.files.encryption.current(), "the store needs no other key any more");
            }
        }
    }

    fn remember(&self) {
        self.files.remember(self.segments.store, self.cache.revision());
    }
}
