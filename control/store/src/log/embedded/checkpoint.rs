//! Checkpoints: the whole in one file, so that the log before need not be kept nor read.
//!
//! One is made while the log goes on: of each key what it held when it was come by, somewhere between the revisions `from` and
//! `until`. With the log from `from` on it is the whole at `until`. Two files are written in turns; what says that one is whole,
//! its header, is written last. Each keeps room for all that there is, so that on a full disk there can be another.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use tokio::sync::mpsc;

use super::{
    Asked,
    files::{CHECKPOINTS, Files},
    frame,
    header::{Header, Kind, SIZE, StoreId},
    medium::Blob,
    pieces::{self, Pieces},
};
use crate::{Encryption, Revision, mvcc::Cache};

/// Bytes of entries in a frame: to gather them holds up nobody for long.
const PIECE: usize = 1 << 20;

pub(super) struct Place {
    pub blob: Box<dyn Blob>,
    /// Bytes of the disk that it has.
    pub len: u64,
}

/// Both files.
pub(super) struct Checkpoints {
    pub store: StoreId,
    pub files: Files,
    /// None: it is being written.
    pub places: [Option<Place>; 2],
    /// The number of the newest, which is in the place of its parity.
    pub newest: u64,
    pub writing: Option<Writing>,
    /// Which of the places has something that is sealed with another key, somewhere in it.
    pub stale: [bool; 2],
    /// Is told of each that is over.
    pub tell: Option<mpsc::WeakUnboundedSender<Asked>>,
}

pub(super) struct Writing {
    thread: JoinHandle<(Place, io::Result<Header>)>,
    stop: Arc<AtomicBool>,
}

fn place_of(number: u64) -> usize {
    (number % 2) as usize
}

/// Bytes of a checkpoint of so many entries with keys and values of so many bytes.
fn size_of(objects: u64, bytes: u64) -> u64 {
    let records = bytes + objects * 24;
    SIZE + records + (records / PIECE as u64 + 1) * frame::size_of(20)
}

impl Checkpoints {
    /// Whether there is room for one of so much. It is taken if it can be had.
    pub fn has_room(&mut self, objects: u64, bytes: u64) -> bool {
        let needed = size_of(objects, bytes);
        self.places.iter_mut().flatten().all(|place| {
            // With some to spare, so that it need not be taken for each write.
            let more = needed + needed / 4;
            let enough = |place: &mut Place, len: u64| {
                let have = place.len >= len || place.blob.allocate(len).is_ok();
                place.len = if have { place.len.max(len) } else { place.len };
                have
            };
            place.len >= needed || enough(place, more) || enough(place, needed)
        })
    }

    /// Begins one of what is written from now on in the segment `segment`, unless one is being made.
    pub fn begin(&mut self, cache: &Arc<Cache>, segment: u64) {
        let number = self.newest + 1;
        let Some(place) = self.places[place_of(number)].take() else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let task = Task {
            store: self.store,
            number,
            segment,
            from: cache.revision(),
            cache: cache.clone(),
            encryption: self.files.encryption.clone(),
            wipe: self.stale[place_of(number)],
            stop: stop.clone(),
        };
        let tell = self.tell.clone();
        let run = move || {
            let made = task.run(place);
            if let Some(writer) = tell.and_then(|tell| tell.upgrade()) {
                let _ = writer.send(Asked::CheckpointIsOver(number));
            }
            made
        };
        let spawned = std::thread::Builder::new().name("store-checkpoint".into()).spawn(run);
        match spawned {
            Ok(thread) => self.writing = Some(Writing { thread, stop }),
            Err(error) => {
                tracing::warn!(%error, "making a checkpoint of the store");
                // The place went with what was not begun.
                self.places[place_of(number)] = self.reopen(place_of(number)).ok();
            }
        }
    }

    fn reopen(&self, index: usize) -> io::Result<Place> {
        let blob = self.files.open(CHECKPOINTS[index], true)?;
        Ok(Place { len: blob.len()?, blob })
    }

    pub fn is_any_stale(&self) -> bool {
        self.stale.contains(&true)
    }

    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The first segment that is needed, once the one that is being made is done; with `wait` it is waited for.
    pub fn finish(&mut self, wait: bool) -> Option<u64> {
        if !wait && !self.writing.as_ref()?.thread.is_finished() {
            return None;
        }
        let number = self.newest + 1;
        let (place, written) = match self.writing.take()?.thread.join() {
            Ok((place, written)) => (Some(place), written),
            Err(_) => (self.reopen(place_of(number)).ok(), Err(io::Error::other("it panicked"))),
        };
        self.places[place_of(number)] = place;
        match written {
            Ok(Header { kind: Kind::Checkpoint { segment, .. }, .. }) => {
                self.newest = number;
                self.stale[place_of(number)] = false;
                Some(segment)
            }
            Ok(_) => None,
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    tracing::warn!(%error, "making a checkpoint of the store");
                }
                None
            }
        }
    }

    /// Gives up the one that is being made.
    pub fn stop(&mut self) {
        if let Some(writing) = &self.writing {
            writing.stop.store(true, Ordering::Relaxed);
            self.finish(true);
        }
    }
}

struct Task {
    store: StoreId,
    number: u64,
    segment: u64,
    from: Revision,
    cache: Arc<Cache>,
    encryption: Encryption,
    /// Nothing of what was there may be left.
    wipe: bool,
    stop: Arc<AtomicBool>,
}

impl Task {
    fn run(self, mut place: Place) -> (Place, io::Result<Header>) {
        hypernetes_background::give_way(hypernetes_background::LESS);
        let written = self.write(&*place.blob);
        place.len = place.blob.len().unwrap_or(place.len).max(place.len);
        (place, written)
    }

    fn write(&self, blob: &dyn Blob) -> io::Result<Header> {
        if self.wipe {
            pieces::wipe(blob)?;
        }
        let mut pieces = Pieces::begin(blob, &self.encryption)?;
        let mut after = None;
        loop {
            let entries = self.cache.piece(after.as_ref(), PIECE);
            let Some(last) = entries.last() else { break };
            after = Some(last.key.clone());
            pieces.put(&entries)?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        // Whatever was come by is durable, and in the log until here.
        let until = self.cache.revision();
        pieces.end(self.store, |entries, length| Kind::Checkpoint {
            number: self.number,
            segment: self.segment,
            from: self.from,
            until,
            entries,
            length,
        })
    }
}
