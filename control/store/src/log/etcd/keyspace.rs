//! Which keys of etcd are the store's, and what they are: objects, and a few of the engine's own.
//!
//! ```text
//! PREFIX/<key>       an object, by the text of its Key, which begins with a slash
//! PREFIXformat       version of what is stored
//! PREFIXhead         written with each transaction, or with all of a batch ([`super::head`]). Never deleted
//! PREFIXcompaction   whoever writes it compacts
//! PREFIXrestoring    somebody makes a store of a snapshot, and has not finished
//! PREFIXauthority    which authority the servers have, written once
//! PREFIXtokens/ID    what a further server needs, sealed; with a lease
//! ```
//!
//! Of `head`, the mod revision says when the last transaction was, its version how many batches there were, and its value which
//! transactions were in it: so a server finds out how far it has to be to have seen all, that it has missed nothing, and whether a
//! transaction of which it got no answer was carried out.

use super::{
    envelope::{self, Unread},
    revisions::{ranked, whole},
    wire,
};
use crate::{Encryption, Key, entry::Record};

/// Version of what is stored. Before it values had no ranks, and with 1 they were not sealed ([`envelope`]): what is of those can be read.
pub(super) const FORMAT: u64 = 3;

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

/// What is in etcd, and the number of the key that it was sealed with.
///
/// # Errors
/// When it cannot be read.
pub(super) fn entry(encryption: &Encryption, key: Key, found: wire::KeyValue) -> Result<(Record, u32), Unread> {
    let (value, sealed_with, rank) = envelope::open(encryption, &key, found.value)?;
    let mod_revision = ranked(found.mod_revision, rank);
    // Which rank it had when it was created is not known any more.
    let is_new = found.create_revision == found.mod_revision;
    let create_revision = if is_new { mod_revision } else { whole(found.create_revision) };
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
