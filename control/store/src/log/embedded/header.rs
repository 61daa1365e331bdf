//! The first 128 bytes of each file of the log: what it is.
//!
//! ```text
//! magic: 16 bytes; format, kind: 4 each; store id: 16; salt: 8; seven numbers of the kind: 8 each; checksum of all that: 4
//! ```

use super::frame::Salt;
use crate::Revision;

const MAGIC: [u8; 16] = *b"hypernetes-store";
/// Raised when a program that knows only the one before would misread a file.
pub(super) const FORMAT: u32 = 2;
/// Of a file; what is behind the header are frames.
pub(super) const SIZE: u64 = 128;

/// Which store a file is part of: a copy of another one's has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreId(pub [u8; 16]);

impl StoreId {
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The `number`th piece of the log.
    Segment { number: u64 },
    /// The whole as it was while the log went from `from` in the segment `segment` to `until`.
    Checkpoint { number: u64, segment: u64, from: Revision, until: Revision, entries: u64, length: u64 },
    /// The whole at a revision.
    Snapshot { revision: Revision, entries: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub store: StoreId,
    pub salt: Salt,
    pub kind: Kind,
}

/// What the beginning of a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Header(Header),
    /// Nothing was ever written, or it was given up.
    Nothing,
    Newer(u32),
    /// Something else, or what it was has been changed.
    Damaged,
}

impl Header {
    pub fn to_bytes(self) -> [u8; SIZE as usize] {
        let mut words = [0; 7];
        let kind: u32 = match self.kind {
            Kind::Segment { number } => {
                words[0] = number;
                1
            }
            Kind::Checkpoint { number, segment, from, until, entries, length } => {
                words[..6].copy_from_slice(&[number, segment, from.0, until.0, entries, length]);
                2
            }
            Kind::Snapshot { revision, entries } => {
                words[..2].copy_from_slice(&[revision.0, entries]);
                3
            }
        };
        let mut out = Vec::with_capacity(SIZE as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.salt.0.to_le_bytes());
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        let mut bytes = [0; SIZE as usize];
        bytes[..out.len()].copy_from_slice(&out);
        bytes
    }

    pub fn read(bytes: &[u8; SIZE as usize]) -> Found {
        if bytes.iter().all(|byte| *byte == 0) {
            return Found::Nothing;
        }
        let u32_at = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        const END: usize = 16 + 4 + 4 + 16 + 8 + 7 * 8;
        if bytes[..16] != MAGIC || crc32fast::hash(&bytes[..END]) != u32_at(END) {
            return Found::Damaged;
        }
        if u32_at(16) > FORMAT {
            return Found::Newer(u32_at(16));
        }
        let word = |index: usize| u64_at(48 + 8 * index);
        let kind = match u32_at(20) {
            1 => Kind::Segment { number: word(0) },
            2 => Kind::Checkpoint {
                number: word(0),
                segment: word(1),
                from: Revision(word(2)),
                until: Revision(word(3)),
                entries: word(4),
                length: word(5),
            },
            3 => Kind::Snapshot { revision: Revision(word(0)), entries: word(1) },
            _ => return Found::Damaged,
        };
        let mut store = [0; 16];
        store.copy_from_slice(&bytes[24..40]);
        Found::Header(Self { store: StoreId(store), salt: Salt(u64_at(40)), kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_no_changed_bit_is_taken_for_one() {
        let (store, salt) = (StoreId([9; 16]), Salt(5));
        let (from, until) = (Revision(3), Revision(4));
        for kind in [
            Kind::Segment { number: 7 },
            Kind::Checkpoint { number: 1, segment: 2, from, until, entries: 6, length: 99 },
            Kind::Snapshot { revision: until, entries: 7 },
        ] {
            let header = Header { store, salt, kind };
            let bytes = header.to_bytes();
            assert_eq!(Header::read(&bytes), Found::Header(header));
            for bit in 0..108 * 8 {
                let mut changed = bytes;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::read(&changed), Found::Damaged, "bit {bit}");
            }
        }
        assert_eq!(Header::read(&[0; SIZE as usize]), Found::Nothing);
        let mut newer = Header { store, salt, kind: Kind::Segment { number: 1 } }.to_bytes();
        newer[16] = 9;
        let sum = crc32fast::hash(&newer[..104]);
        newer[104..108].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::read(&newer), Found::Newer(9));
    }
}
