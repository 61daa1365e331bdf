//! The log: segments of room that was taken before, to which batches are appended.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use super::{
    files::{Files, segment_name},
    frame::{self, Salt},
    header::{Header, Kind, SIZE, StoreId},
    medium::{Blob, fill, is_full},
    record,
};
use crate::{Revision, log::batch::Batch};

/// Why a batch was not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// There is no room. Nothing of it is in the log.
    Refused(String),
    /// Whether it is in the log is unknown, and nothing more may be written by this process.
    Doubtful(String),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Refused(error.to_string()) } else { Self::Doubtful(error.to_string()) }
    }
}

/// What a failed sync has written is unknown, whatever its reason.
pub(super) fn sync(blob: &dyn Blob) -> Result<(), WriteError> {
    blob.sync().map_err(|error| WriteError::Doubtful(error.to_string()))
}

/// After there was no room for another segment: when to look again.
const RETRY: Duration = Duration::from_secs(1);
/// Segments that are kept to be used again.
pub(super) const SPARES: usize = 8;

/// A file of zeros, or of what is of no use any more.
pub(super) struct Room {
    pub blob: Box<dyn Blob>,
    pub slot: u32,
    pub len: u64,
}

/// What is being written to, or was.
pub(super) struct Segment {
    pub room: Room,
    pub number: u64,
    pub salt: Salt,
    /// Of the next frame.
    pub frames: u64,
    /// Where the next frame begins.
    pub at: u64,
}

pub(super) struct Segments {
    pub files: Files,
    pub store: StoreId,
    pub current: Segment,
    /// Those before, the oldest first.
    pub full: VecDeque<Segment>,
    pub spares: Vec<Room>,
    /// No file has this slot or a later one.
    pub next_slot: u32,
    /// Of a segment that is made.
    pub segment_bytes: u64,
    /// What was before this one is sealed with another key, and not kept to be used again.
    pub sealed_from: u64,
    /// When there was no room for one.
    pub starved: Option<Instant>,
    pub buffer: Vec<u8>,
}

/// Of the frame that says that the log goes on, and of the one that says that it was closed.
fn mark() -> u64 {
    frame::size_of(20)
}

/// Takes room for a segment.
pub(super) fn make_room(files: &Files, slot: u32, len: u64) -> io::Result<Room> {
    let name = segment_name(slot);
    let made = files.open(&name, true).and_then(|blob| {
        fill(&*blob, 0, len)?;
        blob.sync()?;
        files.medium.sync_directory(&files.directory)?;
        Ok(Room { blob, slot, len })
    });
    made.inspect_err(|_| drop(files.remove(&name)))
}

/// Begins a segment where nothing is needed any more.
pub(super) fn begin(room: Room, store: StoreId, number: u64) -> io::Result<Segment> {
    let salt = Salt::random();
    room.blob.write_at(&Header { store, salt, kind: Kind::Segment { number } }.to_bytes(), 0)?;
    room.blob.sync()?;
    Ok(Segment { room, number, salt, frames: 0, at: SIZE })
}

impl Segment {
    fn rest(&self) -> u64 {
        self.room.len.saturating_sub(self.at)
    }
}

impl Segments {
    /// Durable when it returns `Ok`. `before` is the revision of what was written before.
    pub fn append(&mut self, batch: &Batch, before: Revision) -> Result<(), WriteError> {
        let payload: usize = 20
            + batch
                .changes()
                .iter()
                .map(|change| record::size_of(&change.key, change.now.as_ref().map_or(0, |entry| entry.value.len())))
                .sum::<usize>();
        let size = frame::size_of(payload);
        if self.current.rest() < size + mark() {
            self.rotate(size)?;
        }
        self.write(|out| record::put_batch(out, before, batch.revision(), batch.changes()))
    }

    /// Says that all that was written was acknowledged.
    pub fn close(&mut self, revision: Revision) -> Result<(), WriteError> {
        if self.current.rest() < mark() * 2 {
            return Ok(());
        }
        self.write(|out| record::put_batch(out, revision, revision, &[]))
    }

    fn write(&mut self, payload: impl FnOnce(&mut Vec<u8>)) -> Result<(), WriteError> {
        let segment = &mut self.current;
        self.buffer.clear();
        frame::append(&mut self.buffer, segment.salt, segment.frames, &self.files.encryption, payload);
        segment.room.blob.write_at(&self.buffer, segment.at)?;
        sync(&*segment.room.blob)?;
        segment.at += self.buffer.len() as u64;
        segment.frames += 1;
        // A large batch is no reason to keep so much for ever.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Goes on in a segment that a frame of `size` fits into.
    pub fn rotate(&mut self, size: u64) -> Result<(), WriteError> {
        let needed = SIZE + size + mark();
        let room = match self.spares.iter().position(|spare| spare.len >= needed) {
            Some(index) => self.spares.swap_remove(index),
            None => self.new_room(needed)?,
        };
        let next = begin(room, self.store, self.current.number + 1)?;
        // It is in the log from here on.
        self.write(record::put_goes_on).map_err(|error| match error {
            WriteError::Refused(why) | WriteError::Doubtful(why) => WriteError::Doubtful(why),
        })?;
        self.full.push_back(std::mem::replace(&mut self.current, next));
        Ok(())
    }

    fn new_room(&mut self, needed: u64) -> io::Result<Room> {
        let room = make_room(&self.files, self.next_slot, self.segment_bytes.max(needed))?;
        self.next_slot += 1;
        Ok(room)
    }

    /// Whether there is a segment to go on in. One is made if there is room.
    pub fn has_spare(&mut self) -> bool {
        if !self.spares.is_empty() {
            return true;
        }
        if self.starved.is_some_and(|when| when.elapsed() < RETRY) {
            return false;
        }
        match self.new_room(0) {
            Ok(room) => {
                self.spares.push(room);
                self.starved = None;
                true
            }
            Err(error) => {
                if self.starved.replace(Instant::now()).is_none() {
                    tracing::warn!(%error, "there is no room for another segment of the store's log");
                }
                false
            }
        }
    }

    /// Bytes that can be written before there has to be another segment.
    pub fn rest(&self) -> u64 {
        self.current.rest().saturating_sub(mark()) + self.spares.iter().map(|spare| spare.len - SIZE).sum::<u64>()
    }

    /// Bytes in all segments that a checkpoint would free.
    pub fn bytes(&self) -> u64 {
        self.current.at + self.full.iter().map(|segment| segment.at).sum::<u64>()
    }

    /// What is before the segment of that number is not needed any more.
    pub fn release_before(&mut self, number: u64) {
        while self.full.front().is_some_and(|segment| segment.number < number) {
            let Some(segment) = self.full.pop_front() else { return };
            let again = self.spares.len() < SPARES && segment.room.len <= self.segment_bytes;
            if again && segment.number >= self.sealed_from {
                self.spares.push(segment.room);
            } else {
                self.files.discard_segment(segment.room.slot);
            }
        }
        self.starved = None;
    }
}
