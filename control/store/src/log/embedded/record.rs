//! What frames say: which keys hold what from which revision on.
//!
//! ```text
//! batch:  revision before, last revision, number of changes: 8, 8, 4 bytes; the changes
//!         none: the log was closed; all ones: it goes on in the next segment
//! change: revision, create revision, lengths of key and value: 8, 8, 4, 4; key; value. A length of all ones: it was deleted
//! ```

use bytes::Bytes;

use crate::{Key, Revision, entry::Record, mvcc::Applied};

const DELETED: u32 = u32::MAX;

const GOES_ON: u32 = u32::MAX;

/// What a frame of the log says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Batch(Batch),
    /// In the next segment.
    GoesOn,
}

/// What became durable together, and what it came after. Of no changes: it was closed then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub before: Revision,
    pub last: Revision,
    pub changes: Vec<(Revision, Key, Option<Record>)>,
}

/// Bytes that a change takes.
pub(super) fn size_of(key: &Key, value: usize) -> usize {
    24 + key.as_str().len() + value
}

fn put_change(out: &mut Vec<u8>, revision: Revision, key: &Key, now: Option<&Record>) {
    out.extend_from_slice(&revision.0.to_le_bytes());
    out.extend_from_slice(&now.map_or(0, |entry| entry.create_revision.0).to_le_bytes());
    out.extend_from_slice(&(key.as_str().len() as u32).to_le_bytes());
    out.extend_from_slice(&now.map_or(DELETED, |entry| entry.value.len() as u32).to_le_bytes());
    out.extend_from_slice(key.as_str().as_bytes());
    out.extend_from_slice(now.map_or(&[], |entry| &entry.value));
}

pub(super) fn put_batch(out: &mut Vec<u8>, before: Revision, last: Revision, changes: &[Applied]) {
    put_head(out, before, last, changes.len());
    for Applied { revision, key, now } in changes {
        put_change(out, *revision, key, now.as_ref());
    }
}

pub(super) fn put_goes_on(out: &mut Vec<u8>) {
    put_head(out, Revision(0), Revision(0), GOES_ON as usize);
}

/// A part of a whole: of each key what it holds.
pub(super) fn put_entries(out: &mut Vec<u8>, entries: &[Record]) {
    put_head(out, Revision(0), Revision(0), entries.len());
    for entry in entries {
        put_change(out, entry.mod_revision, &entry.key, Some(entry));
    }
}

fn put_head(out: &mut Vec<u8>, before: Revision, last: Revision, count: usize) {
    out.extend_from_slice(&before.0.to_le_bytes());
    out.extend_from_slice(&last.0.to_le_bytes());
    out.extend_from_slice(&(count as u32).to_le_bytes());
}

/// What a frame says; none: it is none of these. Values are parts of the payload.
pub(super) fn read(payload: &Bytes) -> Option<Said> {
    let mut rest = Reader(payload);
    let (before, last, count) = (Revision(rest.u64()?), Revision(rest.u64()?), rest.u32()?);
    if count == GOES_ON {
        return Some(Said::GoesOn);
    }
    let mut changes = Vec::with_capacity((count as usize).min(payload.len() / 24));
    for _ in 0..count {
        let (revision, create_revision) = (Revision(rest.u64()?), Revision(rest.u64()?));
        let (key, value) = (rest.u32()?, rest.u32()?);
        let key = Key::parse(std::str::from_utf8(rest.take(key as usize)?).ok()?)?;
        let now = match value {
            DELETED => None,
            length => {
                let value = payload.slice_ref(rest.take(length as usize)?);
                Some(Record { key: key.clone(), value, create_revision, mod_revision: revision })
            }
        };
        changes.push((revision, key, now));
    }
    rest.0.is_empty().then_some(Said::Batch(Batch { before, last, changes }))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_is_read(changes in proptest::collection::vec(("[a-z]{1,9}", any::<Option<Vec<u8>>>()), 0..5)) {
            let changes: Vec<_> = changes.into_iter().enumerate().map(|(index, (name, value))| {
                let (revision, key) = (Revision(index as u64 + 5), Key::parse(&format!("//pods/acme/ns/{name}")).unwrap());
                let now = value.map(|value| Record {
                    key: key.clone(), value: value.into(), create_revision: Revision(3), mod_revision: revision,
                });
                Applied { revision, key, now }
            }).collect();
            let mut out = Vec::new();
            put_batch(&mut out, Revision(4), Revision(9), &changes);
            let Some(Said::Batch(read)) = read(&out.into()) else { panic!("it is a batch") };
            prop_assert_eq!((read.before, read.last), (Revision(4), Revision(9)));
            let expected: Vec<_> = changes.into_iter().map(|change| (change.revision, change.key, change.now)).collect();
            prop_assert_eq!(read.changes, expected);
        }

        #[test]
        fn anything_else_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes.into());
        }
    }
}
