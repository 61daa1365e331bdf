//! The file: table `entries` of the newest versions, table `meta` with the revision.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::memory::Batch;
use crate::{Entry, Key, Revision, TxnError};

/// Value: create revision and mod revision, 8 bytes big-endian each, then the value itself.
const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const HEADER: usize = 16;
/// Reads are served from memory, so redb needs only what a commit touches.
const CACHE_BYTES: usize = 4 << 20;

pub(super) struct Disk {
    path: PathBuf,
    /// None after a failed write: redb must be opened anew before it writes again.
    database: Option<Database>,
}

impl Disk {
    /// The file's content as it was last committed.
    pub fn open(path: &Path) -> Result<(Self, Revision, Vec<Entry>), String> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| e.to_string())?;
        }
        // redb would make the file with the process's umask; it holds secrets.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|e| e.to_string())?;
        let database = open_database(path).map_err(|e| e.to_string())?;
        let (revision, entries) = load(&database).map_err(|e| e.to_string())?;
        Ok((Self { path: path.to_owned(), database: Some(database) }, revision, entries))
    }

    /// Durable when it returns `Ok`; nothing has changed when it returns `Err`.
    pub fn write(&mut self, batch: &Batch) -> Result<(), TxnError> {
        if self.database.is_none() {
            self.database = Some(open_database(&self.path).map_err(|e| classify(&e.into()))?);
        }
        let Some(database) = &self.database else { return Err(TxnError::Io("the store is closed".into())) };
        let result = commit(database, batch);
        result.map_err(|error| {
            self.database = None;
            classify(&error)
        })
    }
}

fn open_database(path: &Path) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

fn load(database: &Database) -> Result<(Revision, Vec<Entry>), redb::Error> {
    let txn = database.begin_read()?;
    let revision = match txn.open_table(META) {
        Ok(meta) => meta.get(REVISION)?.map_or(0, |r| r.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((Revision(0), Vec::new())),
        Err(error) => return Err(error.into()),
    };
    let mut entries = Vec::new();
    for row in txn.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        let bytes = value.value();
        let number = |range: std::ops::Range<usize>| {
            bytes.get(range).and_then(|b| b.try_into().ok()).map(|b| Revision(u64::from_be_bytes(b)))
        };
        match (Key::parse(key.value()), number(0..8), number(8..HEADER)) {
            (Some(key), Some(create_revision), Some(mod_revision)) => entries.push(Entry {
                key,
                value: Bytes::copy_from_slice(&bytes[HEADER..]),
                create_revision,
                mod_revision,
            }),
            _ => return Err(redb::Error::Corrupted(format!("the entry {:?} is malformed", key.value()))),
        }
    }
    Ok((Revision(revision), entries))
}

fn commit(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut entries = txn.open_table(ENTRIES)?;
        let mut row = Vec::new();
        for (key, now) in batch.newest() {
            match now {
                Some(entry) => {
                    row.clear();
                    row.extend_from_slice(&entry.create_revision.0.to_be_bytes());
                    row.extend_from_slice(&entry.mod_revision.0.to_be_bytes());
                    row.extend_from_slice(&entry.value);
                    entries.insert(key.as_str(), row.as_slice())?;
                }
                None => drop(entries.remove(key.as_str())?),
            }
        }
        txn.open_table(META)?.insert(REVISION, batch.revision().0)?;
    }
    txn.commit()?;
    Ok(())
}

fn classify(error: &redb::Error) -> TxnError {
    match error {
        redb::Error::Io(e)
            if matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            ) =>
        {
            TxnError::NoSpace(e.to_string())
        }
        other => TxnError::Io(other.to_string()),
    }
}
