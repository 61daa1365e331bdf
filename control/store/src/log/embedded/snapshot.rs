//! Snapshots: a whole store in one file, as it was at one revision, made while it runs.
//!
//! The file is as a checkpoint is (`checkpoint`), but for its header, which comes first, since it is sent while it is made. A store
//! that is made of one goes on at a revision far behind: versions that somebody has seen before come never again.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    OpenError, Unopened,
    files::{self, Files},
    frame::{self, Salt},
    header::{Found, Header, Kind, StoreId},
    medium::Disk,
    pieces, record, recover,
};
use crate::Encryption;
use crate::{Entry, Revision, Values, entry::Record};

/// What a restored store's revision is ahead of its snapshot's: as etcd's documentation advises.
const AHEAD: u64 = 1_000_000_000;
const PIECE: usize = 256 << 10;

/// A snapshot on its way: its bytes, piece by piece.
pub struct Snapshot {
    entries: std::vec::IntoIter<Entry>,
    values: Values,
    encryption: Encryption,
    header: Option<Header>,
    salt: Salt,
    frames: u64,
}

impl Snapshot {
    pub(crate) fn new(revision: Revision, entries: Vec<Entry>, values: Values, encryption: Encryption) -> Self {
        let salt = Salt::random();
        let kind = Kind::Snapshot { revision, entries: entries.len() as u64 };
        let header = Some(Header { store: StoreId::random(), salt, kind });
        Self { entries: entries.into_iter(), values, encryption, header, salt, frames: 0 }
    }
}

impl Iterator for Snapshot {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = self.header.take().map(|header| header.to_bytes().to_vec()).unwrap_or_default();
        let (mut piece, mut size) = (Vec::new(), 0);
        while let Some(entry) = if size < PIECE { self.entries.next() } else { None } {
            size += entry.value.len();
            piece.push(entry.record(&self.values));
        }
        if piece.is_empty() {
            return (!out.is_empty()).then(|| out.into());
        }
        let put = |out: &mut Vec<u8>| record::put_entries(out, &piece);
        frame::append(&mut out, self.salt, self.frames, &self.encryption, put);
        self.frames += 1;
        Some(out.into())
    }
}

/// What is in a snapshot.
#[derive(Debug)]
pub struct Contents {
    pub revision: Revision,
    entries: Vec<Record>,
}

impl Contents {
    /// Reads a snapshot, every byte of it.
    ///
    /// # Errors
    /// When it is none, is damaged, not whole, or sealed with a key that is not given.
    pub fn read(path: &Path, encryption: &Encryption) -> Result<Self, OpenError> {
        read(path, encryption).map_err(|why| OpenError { path: path.display().to_string(), why })
    }

    pub fn objects(&self) -> usize {
        self.entries.len()
    }

    /// Objects and bytes by tenant.
    pub fn tenants(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut tenants = BTreeMap::<_, (usize, usize)>::new();
        for entry in &self.entries {
            let tenant = tenants.entry(entry.key.tenant()).or_default();
            *tenant = (tenant.0 + 1, tenant.1 + entry.key.as_str().len() + entry.value.len());
        }
        tenants
    }

    pub(crate) fn into_records(self) -> Vec<Record> {
        self.entries
    }

    /// Makes a store in a directory that has none.
    ///
    /// # Errors
    /// When there is something, or it cannot be written.
    pub fn restore(self, directory: &Path, encryption: &Encryption) -> Result<Revision, OpenError> {
        let failed = |why: Unopened| OpenError { path: directory.display().to_string(), why };
        let there = |path: &PathBuf| path.exists();
        if [directory.to_owned(), directory.with_extension("redb")].iter().any(there) {
            return Err(failed(Unopened::Failed("there is one already: move it away".into())));
        }
        let files = Files { medium: Arc::new(Disk), directory: directory.to_owned(), encryption: encryption.clone() };
        let revision = Revision(self.revision.0 + AHEAD);
        let made = recover::open(&files, crate::Options::default().reserve_bytes, || Ok((revision, self.entries)))
            .map_err(failed)?;
        // What was here before is no more, however far it had come.
        files.remember(made.segments.store, revision);
        Ok(revision)
    }
}

fn read(path: &Path, encryption: &Encryption) -> Result<Contents, Unopened> {
    let file = File::open(path)?;
    let files = Files { medium: Arc::new(Disk), directory: PathBuf::new(), encryption: encryption.clone() };
    let name = path.display().to_string();
    match files::header(&file)? {
        Found::Header(header @ Header { kind: Kind::Snapshot { revision, entries }, .. }) => {
            let length = file.metadata()?.len();
            let entries = pieces::read(&files, &name, &file, &header, (entries, length), &mut Default::default())?;
            Ok(Contents { revision, entries })
        }
        Found::Newer(found) => Err(Unopened::Newer { found: found.into(), known: super::header::FORMAT.into() }),
        Found::Header(_) | Found::Nothing | Found::Damaged => Err(files.damaged(&name, 0, "it is no snapshot")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Key, Op, Options, Prefix, RangeOptions, ResourceId, Store, Txn};

    fn key(tenant: &str, name: &str) -> Key {
        Key::new(&ResourceId::new("", "configmaps"), &tenant.parse().unwrap(), "default", name).unwrap()
    }

    #[tokio::test]
    async fn a_snapshot_is_the_whole_at_one_revision_and_becomes_a_store() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for encryption in [Encryption::none(), Encryption::test(&[4])] {
            let options = || Options { encryption: encryption.clone(), ..Options::default() };
            let store = Store::open(&at("store"), options()).unwrap();
            for index in 0..300 {
                let ops = vec![Op::Put(key("acme", &format!("n{index}")), Bytes::from(vec![b'x'; 2000]))];
                store.commit(Txn { guards: vec![], ops }).await.unwrap();
            }
            let snapshot = store.snapshot();
            let revision = store.revision().await.unwrap();
            // What comes while it is being read is not in it.
            let ops = vec![Op::Put(key("globex", "later"), Bytes::from_static(b"y")), Op::Delete(key("acme", "n0"))];
            store.commit(Txn { guards: vec![], ops }).await.unwrap();
            let bytes: Vec<u8> = snapshot.flatten().collect();
            drop(store);
            std::fs::write(at("file"), &bytes).unwrap();
            let contents = Contents::read(&at("file"), &encryption).unwrap();
            assert_eq!((contents.revision, contents.entries.len()), (revision, 300));
            assert_eq!(contents.tenants().keys().collect::<Vec<_>>(), [&"acme"]);

            // In the place of the store that it was taken of, which has come further.
            let error = contents.restore(&at("store"), &encryption).unwrap_err();
            assert!(error.to_string().contains("already"), "{error}");
            std::fs::remove_dir_all(at("store")).unwrap();
            let contents = Contents::read(&at("file"), &encryption).unwrap();
            let restored = contents.restore(&at("store"), &encryption).unwrap();
            let store = Store::open(&at("store"), options()).unwrap();
            assert!(restored > Revision(revision.0 + 1) && store.revision().await.unwrap() == restored);
            let prefix = Prefix::tenant(&ResourceId::new("", "configmaps"), &"acme".parse().unwrap(), None).unwrap();
            assert_eq!(store.range(&prefix, RangeOptions::default()).await.unwrap().entries.len(), 300);
            assert!(store.watch(&prefix, revision).await.is_err(), "what was seen before is not gone on from");
            drop(store);

            // Not whole, or not as it was.
            for cut in [0, 50, bytes.len() / 2, bytes.len() - 1] {
                std::fs::write(at("file"), &bytes[..cut]).unwrap();
                assert!(matches!(Contents::read(&at("file"), &encryption).unwrap_err().why, Unopened::Damaged { .. }));
            }
            let mut changed = bytes.clone();
            changed[bytes.len() / 3] ^= 4;
            std::fs::write(at("file"), &changed).unwrap();
            Contents::read(&at("file"), &encryption).unwrap_err();
            std::fs::remove_dir_all(at("store")).unwrap();
            std::fs::remove_file(at("store.seen")).unwrap();
        }
    }
}
