//! The operator's keys: records are sealed with the first, and opened with any.

use std::{fmt, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::RwLock;
use rand::TryRngCore;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::SHA256,
    hkdf::{HKDF_SHA256, Prk},
};

/// What records on a disk are sealed with (AES-256-GCM). Cheap to clone; clones share what they are changed to.
#[derive(Clone, Default)]
pub struct Encryption(Arc<RwLock<Arc<Vec<Key>>>>);

struct Key {
    id: u32,
    /// By which it is known again.
    digest: [u8; 32],
    /// Of files' frames.
    frames: LessSafeKey,
    /// What the keys of single values are derived from.
    values: Prk,
}

impl Key {
    fn new(id: u32, secret: &[u8]) -> Option<Self> {
        let frames = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?);
        let digest = ring::digest::digest(&SHA256, secret).as_ref().try_into().ok()?;
        Some(Self { id, digest, frames, values: Prk::new_less_safe(HKDF_SHA256, secret) })
    }

    /// Of the one value with this salt, which is random: a nonce comes once, however many values there are.
    fn of_value(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let info = [b"hypernetes value".as_slice(), salt];
        let key = self.values.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

const SALT: usize = 24;

/// Says which keys there are, and nothing of them.
impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys().iter().map(|key| key.id)).finish()
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

/// The keys cannot be changed to these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error("the store is not encrypted: start the server with --encryption-keys")]
    None,
    #[error("key {0} is still needed, and not among them: put it behind the new one")]
    Missing(u32),
    #[error("key {0} is not the one that it was: a new key has a new number")]
    Changed(u32),
    /// The new keys are used, and all of them needed.
    #[error("not all is sealed with the new key yet: {0}; try again")]
    Failed(String),
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
        Self::parse(&text, &shown())
    }

    /// What is in such a file, which is called `shown`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str, shown: &str) -> Result<Self, KeysError> {
        let shown = || shown.to_owned();
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse(line).filter(|key| keys.iter().all(|have| have.id != key.id));
            keys.push(key.ok_or_else(|| KeysError::Malformed { path: shown(), line: index + 1 })?);
        }
        if keys.is_empty() { Err(KeysError::Empty { path: shown() }) } else { Ok(Self::of(keys)) }
    }

    /// The number of the key that is sealed with; 0: none.
    pub fn current(&self) -> u32 {
        self.keys().first().map_or(0, |key| key.id)
    }

    fn of(keys: Vec<Key>) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    fn keys(&self) -> Arc<Vec<Key>> {
        self.0.read().clone()
    }

    /// As they are now: what they are changed to later changes nothing of it.
    pub(crate) fn now(&self) -> Self {
        Self(Arc::new(RwLock::new(self.keys())))
    }

    /// All clones of this use the others' keys from now on.
    pub(crate) fn replace(&self, others: &Self) {
        let keys = others.keys();
        *self.0.write() = keys;
    }

    /// Whether these keys can be changed to those: the first, or `all`, are still needed.
    pub(crate) fn check_successor(&self, keys: &Self, all: bool) -> Result<(), RotationError> {
        let (own, keys) = (self.keys(), keys.keys());
        for (index, key) in own.iter().enumerate() {
            match keys.iter().find(|other| other.id == key.id) {
                None if index == 0 || all => return Err(RotationError::Missing(key.id)),
                Some(other) if other.digest != key.digest => return Err(RotationError::Changed(key.id)),
                None | Some(_) => {}
            }
        }
        Ok(())
    }

    /// Seals what is in `out` from `from` on. The key's number.
    pub(crate) fn seal(&self, salt: u64, number: u64, out: &mut Vec<u8>, from: usize) -> u32 {
        let keys = self.keys();
        let Some(Key { id, frames, .. }) = keys.first() else { return 0 };
        let aad = Aad::from(id.to_le_bytes());
        if let Ok(tag) = frames.seal_in_place_separate_tag(nonce(salt, number), aad, &mut out[from..]) {
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
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == id)?;
        let plain = key.frames.open_in_place(nonce(salt, number), Aad::from(id.to_le_bytes()), &mut bytes).ok()?.len();
        bytes.truncate(plain);
        Some(bytes)
    }

    /// Seals a value that is kept by itself, as what `about` says: key's number, salt, content. `None`: there is no key, or
    /// no random number.
    pub(crate) fn seal_value(&self, about: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys();
        let key = keys.first()?;
        let mut salt = [0; SALT];
        rand::rngs::OsRng.try_fill_bytes(&mut salt).ok()?;
        let mut content = value.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        key.of_value(&salt)?.seal_in_place_append_tag(nonce, Aad::from(about), &mut content).ok()?;
        Some([&key.id.to_le_bytes(), salt.as_slice(), &content].concat())
    }

    /// The key's number of a value that was sealed by itself.
    pub(crate) fn key_of_value(sealed: &[u8]) -> Option<u32> {
        sealed.first_chunk().map(|id| u32::from_le_bytes(*id))
    }

    /// Opens what [`Self::seal_value`] sealed as the same; none: the key is not there, or this is not what was sealed with it.
    pub(crate) fn open_value(&self, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = sealed.split_first_chunk()?;
        let (salt, content) = rest.split_first_chunk::<SALT>()?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == u32::from_le_bytes(*id))?;
        let (nonce, mut content) = (Nonce::assume_unique_for_key([0; NONCE_LEN]), content.to_vec());
        let plain = key.of_value(salt)?.open_in_place(nonce, Aad::from(about), &mut content).ok()?.len();
        content.truncate(plain);
        Some(content)
    }

    pub(crate) fn is_none(&self) -> bool {
        self.keys().is_empty()
    }

    pub(crate) fn has(&self, id: u32) -> bool {
        self.keys().iter().any(|key| key.id == id)
    }

    #[cfg(test)]
    pub(crate) fn test(ids: &[u32]) -> Self {
        Self::of(ids.iter().map(|id| Key::new(*id, &[*id as u8; 32]).unwrap()).collect())
    }
}

/// Files have random salts, and frames of a file their numbers, of which there are fewer than 2^32: no two are alike.
fn nonce(salt: u64, number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes[8..].copy_from_slice(&(number as u32).to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn parse(line: &str) -> Option<Key> {
    let (id, key) = line.split_once(' ')?;
    let id = id.parse().ok().filter(|id| *id > 0)?;
    let key = STANDARD.decode(key.trim()).ok()?;
    Key::new(id, &key)
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

    #[test]
    fn keys_are_changed_to_those_that_open_what_they_have_sealed() {
        let (old, other) = (Encryption::test(&[4, 2]), Encryption::test(&[4]));
        assert_eq!(old.check_successor(&Encryption::test(&[9, 4]), false), Ok(()));
        assert_eq!(old.check_successor(&Encryption::test(&[9, 4]), true), Err(RotationError::Missing(2)));
        assert_eq!(old.check_successor(&Encryption::test(&[9, 2]), false), Err(RotationError::Missing(4)));
        let changed = Encryption::of(vec![Key::new(4, &[5; 32]).unwrap()]);
        assert_eq!(old.check_successor(&changed, false), Err(RotationError::Changed(4)));
        let (clone, before) = (old.clone(), old.now());
        old.replace(&Encryption::test(&[9, 4]));
        assert_eq!((clone.current(), before.current(), other.current()), (9, 4, 4));
    }

    #[test]
    fn a_value_is_opened_as_what_it_was_sealed_as_and_as_nothing_else() {
        let (old, both) = (Encryption::test(&[4]), Encryption::test(&[9, 4]));
        let (one, other) = (old.seal_value(b"a", b"text").unwrap(), old.seal_value(b"a", b"text").unwrap());
        assert_ne!(one, other);
        assert!(!one.windows(4).any(|part| part == b"text"));
        assert_eq!((Encryption::key_of_value(&one), both.current()), (Some(4), 9));
        assert_eq!(both.open_value(b"a", &one).unwrap(), b"text");
        assert_eq!(both.open_value(b"b", &one), None, "another object's");
        assert_eq!(Encryption::test(&[9]).open_value(b"a", &one), None);
        for at in 0..one.len() {
            let mut changed = one.clone();
            changed[at] ^= 1;
            assert_eq!(both.open_value(b"a", &changed), None, "{at}");
            assert_eq!(both.open_value(b"a", &one[..at]), None, "{at}");
        }
        assert_eq!(Encryption::none().seal_value(b"a", b"text"), None);
    }
}
