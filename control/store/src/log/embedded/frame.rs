//! Frames: what every file of the log is made of. Each is checked when it is read.
//!
//! ```text
//! file:  header (128 bytes), frames, zeros
//! frame: magic, length, checksum, key id: 4 bytes each; number: 8; the payload, plain or sealed; zeros until a multiple of 8
//! ```
//!
//! All numbers are little-endian. The checksum (CRC-32) is of the file's salt, of what else is in the frame's head, and of the
//! payload: what a file held before it was used again, and what somebody has written into a payload, is no frame of it. A
//! sealed payload (AES-256-GCM) has its tag behind it; salt and number make the nonce.

use bytes::Bytes;

use crate::Encryption;

const MAGIC: [u8; 4] = *b"HNf\x01";
pub(super) const HEAD: usize = 24;
const ALIGNED: usize = 8;

/// What makes a file's frames its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt(pub u64);

impl Salt {
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// Bytes of a frame with so large a payload, at the most.
pub(super) fn size_of(payload: usize) -> u64 {
    (HEAD + payload + Encryption::TAG).next_multiple_of(ALIGNED) as u64
}

fn checksum(salt: Salt, head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.0.to_le_bytes());
    hasher.update(&head[..8]);
    hasher.update(&head[12..HEAD]);
    hasher.update(payload);
    hasher.finalize()
}

/// Appends a frame, whose payload `write` appends.
pub(super) fn append(
    out: &mut Vec<u8>,
    salt: Salt,
    number: u64,
    encryption: &Encryption,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let key = encryption.seal(salt.0, number, out, start + HEAD);
    let payload = (out.len() - start - HEAD) as u32;
    out[start..start + 4].copy_from_slice(&MAGIC);
    out[start + 4..start + 8].copy_from_slice(&payload.to_le_bytes());
    out[start + 12..start + 16].copy_from_slice(&key.to_le_bytes());
    out[start + 16..start + HEAD].copy_from_slice(&number.to_le_bytes());
    let (head, payload) = out[start..].split_at(HEAD);
    let checksum = checksum(salt, head, payload);
    out[start + 8..start + 12].copy_from_slice(&checksum.to_le_bytes());
    let padded = start + (out.len() - start).next_multiple_of(ALIGNED);
    out.resize(padded, 0);
}

/// What is at a place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A frame, the key that it was sealed with, and where the next begins.
    Frame { payload: Bytes, key: u32, next: usize },
    /// None that is whole.
    Nothing,
    /// One that is whole, and sealed with a key that is not there or another one.
    Sealed { key: u32 },
}

/// The frame of that number at `at`.
pub(super) fn read(bytes: &[u8], at: usize, salt: Salt, number: u64, encryption: &Encryption) -> Found {
    let Some((key, payload, next)) = whole(bytes, at, salt, |found| found == number) else { return Found::Nothing };
    match encryption.open(salt.0, number, key, payload) {
        Some(payload) => Found::Frame { payload: payload.into(), key, next },
        None => Found::Sealed { key },
    }
}

/// Whether there is a whole frame of the file anywhere from `at` on, of that number or a later one: what is before it was
/// written whole once.
pub(super) fn is_followed(bytes: &[u8], at: usize, salt: Salt, number: u64) -> bool {
    (at..bytes.len()).step_by(ALIGNED).any(|at| whole(bytes, at, salt, |found| found >= number).is_some())
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Key, stored payload and end of a frame whose checksum is right.
fn whole(bytes: &[u8], at: usize, salt: Salt, wanted: impl Fn(u64) -> bool) -> Option<(u32, &[u8], usize)> {
    let head = bytes.get(at..at.checked_add(HEAD)?)?;
    if head[..4] != MAGIC || !wanted(u64::from_le_bytes(number_at(head, 16)?)) {
        return None;
    }
    let length = u32::from_le_bytes(number_at(head, 4)?) as usize;
    let payload = bytes.get(at + HEAD..(at + HEAD).checked_add(length)?)?;
    if u32::from_le_bytes(number_at(head, 8)?) != checksum(salt, head, payload) {
        return None;
    }
    let key = u32::from_le_bytes(number_at(head, 12)?);
    Some((key, payload, (at + HEAD + length).next_multiple_of(ALIGNED)))
}

/// What a frame that begins with `head` says that it is sealed with; none: there is none.
pub(super) fn key(head: &[u8]) -> Option<u32> {
    (head.get(..4)? == MAGIC).then_some(u32::from_le_bytes(number_at(head, 12)?))
}

/// How many bytes a frame that begins with `head` takes; none: there is none.
pub(super) fn length(head: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(number_at(head, 4)?) as usize;
    (head.get(..4)? == MAGIC).then(|| (HEAD + length).next_multiple_of(ALIGNED))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(encryption: &Encryption, payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, payload) in payloads.iter().enumerate() {
            append(&mut out, Salt(7), number as u64, encryption, |out| out.extend_from_slice(payload));
        }
        out
    }

    fn read_all(bytes: &[u8], encryption: &Encryption) -> Vec<Vec<u8>> {
        let (mut at, mut all) = (0, Vec::new());
        while let Found::Frame { payload, next, .. } = read(bytes, at, Salt(7), all.len() as u64, encryption) {
            all.push(payload.into());
            at = next;
        }
        all
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_what_was_changed_is_not(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..6),
            at in any::<prop::sample::Index>(), bit in 0..8u8, sealed in any::<bool>(),
        ) {
            let encryption = if sealed { Encryption::test(&[3]) } else { Encryption::none() };
            let mut bytes = frames(&encryption, &payloads);
            prop_assert_eq!(read_all(&bytes, &encryption), payloads.clone());
            // Nothing of another file, nor out of order.
            prop_assert_eq!(read(&bytes, 0, Salt(8), 0, &encryption), Found::Nothing);
            prop_assert_eq!(read(&bytes, 0, Salt(7), 1, &encryption), Found::Nothing);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let found = read_all(&bytes, &encryption);
            // Only what fills up to the next frame is nobody's.
            prop_assert!(found == payloads || found.len() < payloads.len() && payloads.starts_with(&found));
        }

        #[test]
        fn whatever_is_there_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..300usize) {
            let _ = read(&bytes, at, Salt(7), 0, &Encryption::none());
            let _ = length(&bytes);
            is_followed(&bytes, at, Salt(7), 0);
        }
    }

    #[test]
    fn what_is_sealed_needs_its_key() {
        let bytes = frames(&Encryption::test(&[3]), &[b"secret of a tenant".to_vec()]);
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        assert_eq!(read(&bytes, 0, Salt(7), 0, &Encryption::none()), Found::Sealed { key: 3 });
        assert_eq!(read(&bytes, 0, Salt(7), 0, &Encryption::test(&[4])), Found::Sealed { key: 3 });
        assert_eq!(read_all(&bytes, &Encryption::test(&[4, 3])).len(), 1);
    }
}
