//! Which keys of etcd are the store's, and what they are: objects, and a few of the engine's own.
//!
//! ```text
//! PREFIX/<key>       an object, by the text of its Key, which begins with a slash
//! PREFIXformat       version of what is stored; written once
//! PREFIXhead         written by each transaction: its mark. Never deleted
//! PREFIXcompaction   whoever writes it compacts
//! PREFIXrestoring    somebody makes a store of a snapshot, and has not finished
//! PREFIXauthority    which authority the servers have, written once
//! PREFIXtokens/ID    what a further server needs, sealed; with a lease
//! ```
//!
//! Of `head`, the mod revision says which transaction was the last, its version how many there were, and its value which one
//! it was: so a server finds out how far it has to be to have seen all, that it has missed nothing, and whether a transaction
//! of which it got no answer was carried out.

use uuid::Uuid;

use super::{
    envelope::{self, Unread},
    wire,
};
use crate::{Encryption, Key, Revision, entry::Record};

/// Version of what is stored: of values as they are, and of those that may be sealed ([`envelope`]).
pub(super) const PLAIN: u64 = 1;
pub(super) const SEALED: u64 = 2;

#[derive(Debug, Clone)]
pub(super) struct Keyspace {
    /// Ends with one slash.
    prefix: String,
}

/// What a key of etcd under the prefix is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Object(Key),
    Head,
    Format,
    /// Nothing that concerns the cache.
    Other,
}

impl Keyspace {
    /// Slashes at either end are of no meaning, but that one is at each.
    pub fn new(prefix: &str) -> Self {
        let name = prefix.trim_matches('/');
        Self { prefix: if name.is_empty() { "/".into() } else { format!("/{name}/") } }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The range of all keys: from the first to the one that is not in it any more.
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let mut end = self.prefix.clone().into_bytes();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (self.prefix.clone().into_bytes(), end)
    }

    pub fn object(&self, key: &Key) -> Vec<u8> {
        format!("{}{}", self.prefix, key.as_str()).into_bytes()
    }

    pub fn head(&self) -> Vec<u8> {
        format!("{}head", self.prefix).into_bytes()
    }

    pub fn format(&self) -> Vec<u8> {
        format!("{}format", self.prefix).into_bytes()
    }

    pub fn compaction(&self) -> Vec<u8> {
        format!("{}compaction", self.prefix).into_bytes()
    }

    pub fn restoring(&self) -> Vec<u8> {
        format!("{}restoring", self.prefix).into_bytes()
    }

    pub fn authority(&self) -> Vec<u8> {
        format!("{}authority", self.prefix).into_bytes()
    }

    /// Of the token of that ID; with an empty one the beginning of all of them.
    pub fn token(&self, id: &str) -> Vec<u8> {
        format!("{}tokens/{id}", self.prefix).into_bytes()
    }

    pub fn place(&self, key: &[u8]) -> Place {
        let text = std::str::from_utf8(key).ok().and_then(|text| text.strip_prefix(&self.prefix));
        match text {
            Some("head") => Place::Head,
            Some("format") => Place::Format,
            Some(text) => Key::parse(text).map_or(Place::Other, Place::Object),
            None => Place::Other,
        }
    }
}

/// Names one transaction, whoever's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark(Uuid);

impl Mark {
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        Uuid::from_slice(value).ok().map(Self)
    }

    pub fn bytes(&self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(self.0.as_bytes())
    }
}

/// etcd's are positive, and begin with 1.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// What is in etcd, and the number of the key that it was sealed with.
///
/// # Errors
/// When it cannot be read.
pub(super) fn entry(encryption: &Encryption, key: Key, found: wire::KeyValue) -> Result<(Record, u32), Unread> {
    let (value, sealed_with) = envelope::open(encryption, &key, found.value)?;
    let [create_revision, mod_revision] = [found.create_revision, found.mod_revision].map(revision);
    Ok((Record { key, value, create_revision, mod_revision }, sealed_with))
}

#[cfg(test)]
mod tests {
    use hypernetes_api::{ResourceId, TenantId};

    use super::*;

    #[test]
    fn keys_are_found_again_and_others_are_not_ours() {
        let key = Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", "a").unwrap();
        for (text, prefix) in [("/hypernetes/", "/hypernetes/"), ("a/b", "/a/b/"), ("/", "/"), ("", "/")] {
            let space = Keyspace::new(text);
            assert_eq!(space.prefix(), prefix);
            assert_eq!(space.place(&space.object(&key)), Place::Object(key.clone()));
            assert_eq!(space.place(&space.head()), Place::Head);
            assert_eq!(space.place(&space.format()), Place::Format);
            let (first, end) = space.range();
            for inside in [space.object(&key), space.head(), space.format()] {
                assert!(first <= inside && inside < end);
            }
            for other in [space.compaction(), space.restoring(), space.authority(), space.token("a")] {
                assert_eq!(space.place(&other), Place::Other);
                assert!(first <= other && other < end);
            }
        }
        let space = Keyspace::new("/one/");
        for other in ["/one", "/onehead", "/two/head", "/one/head/", "/one//configmaps/system/a"] {
            assert_eq!(space.place(other.as_bytes()), Place::Other, "{other}");
        }
        assert_eq!(space.place(&[0xff, 0xfe]), Place::Other);
    }
}
