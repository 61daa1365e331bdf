//! What `head` holds: which transactions were the last, and what of them cannot be told in another way.
//!
//! ```text
//! MARK                               one transaction
//! N MARK… { RANK LENGTH KEY }…       N of them, each with its rank, and the keys that they delete with the ranks of who does
//! ```
//!
//! Those of one batch are named whether they were carried out or not. LENGTH is two bytes, big-endian.

use bytes::{BufMut, Bytes};
use uuid::Uuid;

use crate::Key;

const MARK: usize = 16;

/// Names one transaction, whoever's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark(Uuid);

impl Mark {
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    pub fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// By rank. One alone has none.
    pub marks: Vec<Mark>,
    /// What transactions with a rank delete.
    pub deleted: Vec<(u8, Key)>,
}

impl Head {
    pub fn bytes(&self) -> Bytes {
        if let [mark] = self.marks.as_slice() {
            return mark.bytes();
        }
        let mut out = Vec::with_capacity(1 + self.marks.len() * MARK);
        out.put_u8(u8::try_from(self.marks.len()).unwrap_or(u8::MAX));
        self.marks.iter().for_each(|mark| out.put_slice(mark.0.as_bytes()));
        for (rank, key) in &self.deleted {
            let key = key.as_str();
            out.put_u8(*rank);
            out.put_u16(u16::try_from(key.len()).unwrap_or(u16::MAX));
            out.put_slice(key.as_bytes());
        }
        out.into()
    }

    /// None: nothing of ours.
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.len() == MARK {
            return Some(Self { marks: vec![mark(value)?], deleted: Vec::new() });
        }
        let (count, rest) = value.split_first().filter(|(count, _)| **count > 1)?;
        let (marks, mut rest) = rest.split_at_checked(usize::from(*count) * MARK)?;
        let marks = marks.chunks(MARK).map(mark).collect::<Option<_>>()?;
        let mut deleted = Vec::new();
        while let Some((&[rank, high, low], behind)) = rest.split_first_chunk() {
            let (key, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            deleted.push((rank, Key::parse(std::str::from_utf8(key).ok()?)?));
            rest = behind;
        }
        rest.is_empty().then_some(Self { marks, deleted })
    }

    /// Which transaction has deleted a key; none: one that was alone.
    pub fn deleted_by(&self, key: &Key) -> Option<u8> {
        self.deleted.iter().find(|(_, deleted)| deleted == key).map(|(rank, _)| *rank)
    }
}

fn mark(bytes: &[u8]) -> Option<Mark> {
    Uuid::from_slice(bytes).ok().map(Mark)
}

#[cfg(test)]
mod tests {
    use hypernetes_api::{ResourceId, TenantId};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_and_nothing_else(
            marks in 1..64_usize,
            deleted in proptest::collection::vec((0..64_u8, "[a-z]{1,40}"), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let key = |name: &str| Key::new(&ResourceId::new("", "pods"), &TenantId::system(), "default", name).unwrap();
            let deleted = if marks == 1 { vec![] } else { deleted };
            let deleted: Vec<_> = deleted.iter().map(|(rank, name)| (*rank, key(name))).collect();
            let head = Head { marks: (0..marks).map(|_| Mark::new()).collect(), deleted };
            let bytes = head.bytes();
            let found = Head::parse(&bytes);
            prop_assert_eq!(found.as_ref(), Some(&head));
            for (rank, key) in &head.deleted {
                let first = head.deleted.iter().find(|(_, other)| other == key).map(|(rank, _)| *rank);
                prop_assert_eq!(head.deleted_by(key), first, "{}", rank);
            }
            // What is not whole is taken for nothing else, but that nothing tells that no more was deleted.
            let part = &bytes[..cut.index(bytes.len())];
            if let Some(found) = Head::parse(part) {
                prop_assert!(found.marks == head.marks && head.deleted.starts_with(&found.deleted) || part.len() == MARK);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(head) = Head::parse(&bytes) {
                prop_assert!(head.marks.len() <= bytes.len());
            }
        }
    }
}
