//! The whole, in pieces: what checkpoints and snapshots are made of.

use std::{collections::BTreeSet, io};

use super::{
    Unopened,
    files::Files,
    frame::{self, Found, Salt},
    header::{Header, Kind, SIZE, StoreId},
    medium::{Blob, fill},
    record::{self, Said},
};
use crate::Encryption;
use crate::entry::Record;

/// Pieces that are written before they are made durable, so that it is not all at once.
const SYNC_EVERY: u64 = 8;

/// Frames of entries, behind a header that comes last.
pub(super) struct Pieces<'a> {
    blob: &'a dyn Blob,
    encryption: &'a Encryption,
    salt: Salt,
    at: u64,
    frames: u64,
    entries: u64,
    buffer: Vec<u8>,
}

impl<'a> Pieces<'a> {
    /// What was there is none any more.
    pub fn begin(blob: &'a dyn Blob, encryption: &'a Encryption) -> io::Result<Self> {
        blob.write_at(&[0; SIZE as usize], 0)?;
        blob.sync()?;
        Ok(Self { blob, encryption, salt: Salt::random(), at: SIZE, frames: 0, entries: 0, buffer: Vec::new() })
    }

    pub fn put(&mut self, entries: &[Record]) -> io::Result<()> {
        self.buffer.clear();
        frame::append(&mut self.buffer, self.salt, self.frames, self.encryption, |out| {
            record::put_entries(out, entries)
        });
        self.blob.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.frames += 1;
        self.entries += entries.len() as u64;
        if self.frames.is_multiple_of(SYNC_EVERY) {
            self.blob.sync()?;
        }
        Ok(())
    }

    /// Durable and whole when it returns.
    pub fn end(self, store: StoreId, kind: impl FnOnce(u64, u64) -> Kind) -> io::Result<Header> {
        self.blob.sync()?;
        let header = Header { store, salt: self.salt, kind: kind(self.entries, self.at) };
        self.blob.write_at(&header.to_bytes(), 0)?;
        self.blob.sync()?;
        Ok(header)
    }
}

/// Writes zeros over all that is there: last over what [`key_of`] looks at.
pub(super) fn wipe(blob: &dyn Blob) -> io::Result<()> {
    let first = SIZE + frame::HEAD as u64;
    for (from, to) in [(0, SIZE), (first, blob.len()?), (SIZE, first)] {
        fill(blob, from, to)?;
        blob.sync()?;
    }
    Ok(())
}

/// What the first frame of a file is sealed with, of what it is or was before; none: there is none.
pub(super) fn key_of(blob: &dyn Blob) -> io::Result<Option<u32>> {
    let mut head = [0; frame::HEAD];
    if blob.len()? < SIZE + head.len() as u64 {
        return Ok(None);
    }
    blob.read_at(&mut head, SIZE)?;
    Ok(frame::key(&head))
}

/// So many entries, in frames until `length`, in the order of their keys; `keys` gets those that the frames are sealed with.
pub(super) fn read(
    files: &Files,
    name: &str,
    blob: &dyn Blob,
    header: &Header,
    (count, length): (u64, u64),
    keys: &mut BTreeSet<u32>,
) -> Result<Vec<Record>, Unopened> {
    let damaged = |at: u64| files.damaged(name, at, "what is there is not what was written");
    let (mut entries, mut at, mut number) = (Vec::with_capacity(count.min(1 << 24) as usize), SIZE, 0);
    let mut buffer = Vec::new();
    while at < length {
        let mut head = [0; frame::HEAD];
        blob.read_at(&mut head, at).map_err(|_| damaged(at))?;
        let size = frame::length(&head).filter(|size| *size as u64 <= length - at).ok_or_else(|| damaged(at))?;
        buffer.resize(size, 0);
        blob.read_at(&mut buffer, at).map_err(|_| damaged(at))?;
        let payload = match frame::read(&buffer, 0, header.salt, number, &files.encryption) {
            Found::Frame { payload, key, .. } => {
                keys.insert(key);
                payload
            }
            Found::Sealed { key } => return Err(Unopened::Sealed { key }),
            Found::Nothing => return Err(damaged(at)),
        };
        let Some(Said::Batch(batch)) = record::read(&payload) else { return Err(damaged(at)) };
        for (_, _, entry) in batch.changes {
            entries.push(entry.ok_or_else(|| damaged(at))?);
        }
        at += size as u64;
        number += 1;
    }
    if entries.len() as u64 == count { Ok(entries) } else { Err(damaged(at)) }
}
