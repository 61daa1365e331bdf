//! Reading what is there: the newest checkpoint, and the log from there on.
//!
//! What was acknowledged was made durable frame by frame. The last frame may be torn, and is none then; one that is not whole
//! although another comes behind it was whole once: nothing of such a log is served.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use super::{
    Unopened,
    checkpoint::{Checkpoints, Place},
    files::{self, CHECKPOINTS, Files, segment_name},
    frame,
    header::{Found, Header, Kind, SIZE, StoreId},
    medium::fill,
    pieces::{self, Pieces},
    record::{self, Batch, Said},
    segments::{Room, SPARES, Segment, Segments, begin, make_room},
};
use crate::{Key, Revision, entry::Record};

/// What was there.
pub(super) struct Recovered {
    /// At `revision`.
    pub entries: Vec<Record>,
    pub revision: Revision,
    /// What came after, in order.
    pub later: Vec<Batch>,
    pub segments: Segments,
    pub checkpoints: Checkpoints,
    /// Something is sealed with another key than what is written will be, or is not sealed and will be.
    pub another_key: bool,
}

struct Candidate {
    room: Room,
    header: Header,
    number: u64,
}

/// Opens the log in the directory, or makes one that begins with `first` at a revision.
pub(super) fn open(
    files: &Files,
    segment_bytes: u64,
    first: impl FnOnce() -> Result<(Revision, Vec<Record>), Unopened>,
) -> Result<Recovered, Unopened> {
    files.medium.make_directory(&files.directory)?;
    let mut newest: Option<(usize, Header)> = None;
    let (mut places, mut broken) = (Vec::new(), None);
    for (index, name) in CHECKPOINTS.iter().enumerate() {
        let blob = files.open(name, true)?;
        match files::header(&*blob)? {
            Found::Newer(found) => {
                return Err(Unopened::Newer { found: found.into(), known: super::header::FORMAT.into() });
            }
            Found::Damaged => broken = Some(*name),
            Found::Nothing => {}
            Found::Header(header) => {
                if number_of(&header) >= newest.as_ref().map(|(_, have)| number_of(have)).unwrap_or_default() {
                    newest = Some((index, header));
                }
            }
        }
        places.push(Place { len: blob.len()?, blob });
    }
    let mut candidates = BTreeMap::new();
    let (mut unused, mut next_slot) = (Vec::new(), 0);
    for slot in files.slots()? {
        next_slot = slot + 1;
        let blob = files.open(&segment_name(slot), false)?;
        let room = Room { len: blob.len()?, blob, slot };
        match files::header(&*room.blob)? {
            Found::Newer(found) => {
                return Err(Unopened::Newer { found: found.into(), known: super::header::FORMAT.into() });
            }
            Found::Header(header @ Header { kind: Kind::Segment { number }, .. }) => {
                candidates.insert(number, Candidate { room, header, number });
            }
            // One that was to be used again: its predecessor says whether it was.
            Found::Header(_) | Found::Damaged | Found::Nothing => unused.push(room),
        }
    }
    let places = <[Place; 2]>::try_from(places).map_err(|_| Unopened::Failed("two checkpoints".into()))?;
    let Some((index, header)) = newest else {
        for candidate in candidates.values() {
            if is_used(candidate)? {
                broken = broken.or(Some(CHECKPOINTS[0]));
            }
        }
        if let Some(name) = broken {
            return Err(files.damaged(name, 0, "its header is not what was written"));
        }
        unused.extend(candidates.into_values().map(|candidate| candidate.room));
        return create(files, segment_bytes, places, unused, next_slot, first()?);
    };
    let mut keys = BTreeSet::new();
    let Kind::Checkpoint { number, segment, from, until, entries, length } = header.kind else {
        return Err(files.damaged(CHECKPOINTS[index], 0, "it is no checkpoint"));
    };
    let blob = &*places[index].blob;
    let entries = pieces::read(files, CHECKPOINTS[index], blob, &header, (entries, length), &mut keys)?;
    let mut reading =
        Reading { files, store: header.store, from, until, last: None, later: Vec::new(), whole: None, keys };
    reading.whole = Some(entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect());
    let (current, full) = reading.segments(&mut candidates, segment)?;
    let last = reading.last.unwrap_or(from);
    if last < until {
        let name = segment_name(current.room.slot);
        let what = format!("it ends at revision {last}, and there has been {until}");
        return Err(files.damaged(&name, current.at, what));
    }
    for Candidate { room, number, .. } in candidates.into_values() {
        // One that was begun, and was not gone on in: its number will be another one's.
        if number > current.number {
            room.blob.write_at(&[0; SIZE as usize], 0)?;
            room.blob.sync()?;
        }
        unused.push(room);
    }
    // Also what is not read: whoever was killed while keys were changed has left something there.
    let is_another = |key: u32| key != files.encryption.current();
    let not_read = places.iter().map(|place| &place.blob).chain(unused.iter().map(|room| &room.blob));
    let mut another_key = reading.keys.iter().copied().any(is_another);
    for blob in not_read {
        another_key |= pieces::key_of(&**blob)?.is_some_and(is_another);
    }
    // What is left over is used again, as far as it is of use.
    let mut spares = Vec::new();
    for room in unused {
        if room.len == segment_bytes && spares.len() < SPARES {
            spares.push(room);
        } else {
            files.discard_segment(room.slot);
        }
    }
    let (whole, later) = (reading.whole.unwrap_or_default(), reading.later);
    let segments = Segments {
        files: files.clone(),
        store: header.store,
        current,
        full,
        spares,
        next_slot,
        segment_bytes,
        sealed_from: 0,
        starved: None,
        buffer: Vec::new(),
    };
    let places = places.map(Some);
    let checkpoints = Checkpoints {
        store: header.store,
        files: files.clone(),
        places,
        newest: number,
        writing: None,
        stale: [false; 2],
        tell: None,
    };
    Ok(Recovered { entries: whole.into_values().collect(), revision: until, later, segments, checkpoints, another_key })
}

fn number_of(header: &Header) -> u64 {
    match header.kind {
        Kind::Checkpoint { number, .. } | Kind::Segment { number } => number,
        Kind::Snapshot { .. } => 0,
    }
}

/// A new log. It is one when its checkpoint has a header: whoever is killed before begins again.
fn create(
    files: &Files,
    segment_bytes: u64,
    places: [Place; 2],
    mut unused: Vec<Room>,
    mut next_slot: u32,
    (revision, entries): (Revision, Vec<Record>),
) -> Result<Recovered, Unopened> {
    let store = StoreId::random();
    let whole = unused.iter().position(|room| room.len == segment_bytes).map(|index| unused.swap_remove(index));
    let room = match whole {
        Some(room) => room,
        None => {
            next_slot += 1;
            make_room(files, next_slot - 1, segment_bytes)?
        }
    };
    for room in unused {
        files.remove(&segment_name(room.slot))?;
    }
    let current = begin(room, store, 1)?;
    let [even, mut odd] = places;
    {
        let mut pieces = Pieces::begin(&*odd.blob, &files.encryption)?;
        for piece in entries.chunks(256) {
            pieces.put(piece)?;
        }
        pieces.end(store, |entries, length| Kind::Checkpoint {
            number: 1,
            segment: 1,
            from: revision,
            until: revision,
            entries,
            length,
        })?;
    }
    odd.len = odd.blob.len()?;
    files.medium.sync_directory(&files.directory)?;
    let segments = Segments {
        files: files.clone(),
        store,
        current,
        full: VecDeque::new(),
        spares: Vec::new(),
        next_slot,
        segment_bytes,
        sealed_from: 0,
        starved: None,
        buffer: Vec::new(),
    };
    let places = [Some(even), Some(odd)];
    let checkpoints =
        Checkpoints { store, files: files.clone(), places, newest: 1, writing: None, stale: [false; 2], tell: None };
    Ok(Recovered { entries, revision, later: Vec::new(), segments, checkpoints, another_key: false })
}

/// What has been read of the log.
struct Reading<'a> {
    files: &'a Files,
    store: StoreId,
    from: Revision,
    until: Revision,
    last: Option<Revision>,
    whole: Option<BTreeMap<Key, Record>>,
    later: Vec<Batch>,
    /// What frames are sealed with.
    keys: BTreeSet<u32>,
}

impl Reading<'_> {
    /// All from the segment `first` on: the one to go on in, and those before.
    fn segments(
        &mut self,
        candidates: &mut BTreeMap<u64, Candidate>,
        first: u64,
    ) -> Result<(Segment, VecDeque<Segment>), Unopened> {
        let (mut number, mut full) = (first, VecDeque::new());
        loop {
            let Some(candidate) = candidates.remove(&number) else {
                let directory = self.files.directory.display().to_string();
                return Err(Unopened::Damaged {
                    file: directory,
                    at: 0,
                    what: format!("segment {number} of the log is missing"),
                });
            };
            let (segment, goes_on) = self.segment(candidate)?;
            if !goes_on {
                let next = candidates.get(&(number + 1)).map(is_used).transpose()?;
                if next == Some(true) {
                    let name = segment_name(segment.room.slot);
                    return Err(self.files.damaged(&name, segment.at, "what is there is not what was written"));
                }
                return Ok((segment, full));
            }
            full.push_back(segment);
            number += 1;
        }
    }

    fn segment(&mut self, Candidate { room, header, number }: Candidate) -> Result<(Segment, bool), Unopened> {
        let name = segment_name(room.slot);
        if header.store != self.store {
            return Err(self.files.damaged(&name, 0, "it is of another store"));
        }
        let mut bytes = vec![0; usize::try_from(room.len).unwrap_or_default()];
        room.blob.read_at(&mut bytes, 0)?;
        let (mut at, mut frames) = (SIZE as usize, 0);
        let mut goes_on = false;
        while !goes_on {
            let (payload, next) = match frame::read(&bytes, at, header.salt, frames, &self.files.encryption) {
                frame::Found::Frame { payload, key, next } => {
                    self.keys.insert(key);
                    (payload, next)
                }
                frame::Found::Sealed { key } => return Err(Unopened::Sealed { key }),
                frame::Found::Nothing => break,
            };
            let follows = match record::read(&payload) {
                Some(Said::GoesOn) => {
                    goes_on = true;
                    true
                }
                Some(Said::Batch(batch)) => self.take(batch),
                None => false,
            };
            if !follows {
                return Err(self.files.damaged(&name, at as u64, "it is not what follows"));
            }
            (at, frames) = (next, frames + 1);
        }
        if !goes_on {
            if frame::is_followed(&bytes, at, header.salt, frames) {
                return Err(self.files.damaged(&name, at as u64, "what is there is not what was written"));
            }
            // The rest of a frame that was not finished, or of what the file was before.
            if bytes[at.min(bytes.len())..].iter().any(|byte| *byte != 0) {
                fill(&*room.blob, at as u64, room.len)?;
                room.blob.sync()?;
            }
        }
        Ok((Segment { room, number, salt: header.salt, frames, at: at as u64 }, goes_on))
    }

    /// False: something is missing before it.
    fn take(&mut self, batch: Batch) -> bool {
        let follows = self.last.map_or(batch.before <= self.from, |last| batch.before == last);
        self.last = Some(batch.last);
        if batch.last > self.until {
            self.later.push(batch);
        } else if let (Some(whole), true) = (&mut self.whole, batch.last > self.from) {
            for (_, key, now) in batch.changes {
                match now {
                    Some(entry) => drop(whole.insert(key, entry)),
                    None => drop(whole.remove(&key)),
                }
            }
        }
        follows
    }
}

/// Whether anything was written into a segment.
fn is_used(candidate: &Candidate) -> io::Result<bool> {
    let mut bytes = vec![0; usize::try_from(candidate.room.len).unwrap_or_default()];
    candidate.room.blob.read_at(&mut bytes, 0)?;
    Ok(frame::is_followed(&bytes, SIZE as usize, candidate.header.salt, 0))
}

impl From<io::Error> for Unopened {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
