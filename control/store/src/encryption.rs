//! The operator's keys: records are sealed with the first, and opened with any.

use std::{fmt, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// What records on a disk are sealed with (AES-256-GCM). Cheap to clone.
#[derive(Clone, Default)]
pub struct Encryption(Arc<Vec<(u32, LessSafeKey)>>);

/// Says which keys there are, and nothing of them.
impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

/// A file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("reading the encryption keys in {path}: {why}")]
    Unread { path: String, why: std::io::Error },
    /// The line's text is not shown.
    #[error(
        "line {line} of {path} is no encryption key: it has to be a number from 1 on, a space and 32 bytes in base64"
    )]
    Malformed { path: String, line: usize },
    #[error("{path} has no encryption keys")]
    Empty { path: String },
}

impl Encryption {
    /// Bytes that sealing adds at the most.
    pub(crate) const TAG: usize = 16;

    /// Records are plain.
    pub fn none() -> Self {
        Self::default()
    }

    /// The keys of a file: one a line, its number from 1 on and 32 bytes in base64; lines that begin with `#` say nothing.
    /// What is written is sealed with the first.
    ///
    /// # Errors
    /// When a line is none of these, or there is no key.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|why| KeysError::Unread { path: shown(), why })?;
        let mut keys: Vec<(u32, LessSafeKey)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse(line).filter(|(id, _)| keys.iter().all(|(have, _)| have != id));
            keys.push(key.ok_or_else(|| KeysError::Malformed { path: shown(), line: index + 1 })?);
        }
        if keys.is_empty() { Err(KeysError::Empty { path: shown() }) } else { Ok(Self(Arc::new(keys))) }
    }

    /// The number of the key that is sealed with; 0: none.
    pub fn current(&self) -> u32 {
        self.0.first().map_or(0, |(id, _)| *id)
    }

    /// Seals what is in `out` from `from` on. The key's number.
    pub(crate) fn seal(&self, salt: u64, number: u64, out: &mut Vec<u8>, from: usize) -> u32 {
        let Some((id, key)) = self.0.first() else { return 0 };
        let aad = Aad::from(id.to_le_bytes());
        if let Ok(tag) = key.seal_in_place_separate_tag(nonce(salt, number), aad, &mut out[from..]) {
            out.extend_from_slice(tag.as_ref());
        }
        *id
    }

    /// What was sealed with a key; none: it is not there, or another one.
    pub(crate) fn open(&self, salt: u64, number: u64, id: u32, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        if id == 0 {
            return Some(bytes);
        }
        let (_, key) = self.0.iter().find(|(have, _)| *have == id)?;
        let plain = key.open_in_place(nonce(salt, number), Aad::from(id.to_le_bytes()), &mut bytes).ok()?.len();
        bytes.truncate(plain);
        Some(bytes)
    }

    #[cfg(test)]
    pub(crate) fn test(ids: &[u32]) -> Self {
        let key = |id: &u32| UnboundKey::new(&AES_256_GCM, &[*id as u8; 32]).map(|key| (*id, LessSafeKey::new(key)));
        Self(Arc::new(ids.iter().map(|id| key(id).unwrap()).collect()))
    }
}

/// Files have random salts, and frames of a file their numbers, of which there are fewer than 2^32: no two are alike.
fn nonce(salt: u64, number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes[8..].copy_from_slice(&(number as u32).to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn parse(line: &str) -> Option<(u32, LessSafeKey)> {
    let (id, key) = line.split_once(' ')?;
    let id = id.parse().ok().filter(|id| *id > 0)?;
    let key = STANDARD.decode(key.trim()).ok()?;
    Some((id, LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_their_text_is_not_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            Encryption::read(file.path())
        };
        let key = STANDARD.encode([7; 32]);
        let keys = read(&format!("# new\n9 {key}\n\n2 {}\n", STANDARD.encode([8; 32]))).unwrap();
        assert_eq!((keys.current(), format!("{keys:?}")), (9, "[9, 2]".to_owned()));
        for bad in [format!("0 {key}"), format!("1 {key}\n1 {key}"), "1 c2hvcnQ=".into(), key.clone(), "x y".into()] {
            let error = read(&bad).unwrap_err();
            assert!(matches!(error, KeysError::Malformed { .. }), "{bad}");
            assert!(!error.to_string().contains(&key));
        }
        assert!(matches!(read("# none\n"), Err(KeysError::Empty { .. })));
        assert_eq!(Encryption::none().current(), 0);
    }
}
