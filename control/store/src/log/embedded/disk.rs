//! The file: table `entries` of the newest versions, table `meta` with the revision, what the file is, and its format.
//!
//! A format is raised when a program that knows only the one before would misread the file, and opening a file of an
//! earlier format then writes it anew, in the first transaction: whatever ends the process, the file is of one format or
//! of the other.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    Unopened,
    medium::{Backend, Medium, OpenFile, Outcome},
};
use crate::{
    Key, Revision,
    entry::Record,
    log::batch::{Batch, Growth},
    mvcc::Applied,
};

/// Value: create revision and mod revision, 8 bytes big-endian each, then the value itself.
const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// That it is a store, and no other program's database: [`OURS`].
const MAGIC: &str = "magic";
const OURS: u64 = u64::from_be_bytes(*b"hypernet");
/// The version of all this. Files of before there were any have none, and no magic, and are of version 1.
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
const HEADER: usize = 16;
/// Reads are served from memory, so redb needs only what a commit touches.
const CACHE_BYTES: usize = 4 << 20;
/// After there was no room: when to look again, if there seems to be no more than there was.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes that must have become free for an earlier look.
const WORTH_A_LOOK: u64 = 256 << 10;

pub(super) struct Disk {
    path: PathBuf,
    open_file: OpenFile,
    medium: Arc<Medium>,
    reserve: u64,
    /// None after a write was refused: redb must be opened anew before it writes again.
    database: Option<Database>,
    /// When there was no room, and how much was free then.
    full: Option<(Instant, u64)>,
    /// Something was deleted since the file was last compacted.
    holes: bool,
}

/// Why a batch was not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// There is no room. Nothing of it is in the file.
    Refused(String),
    /// Whether it is in the file is unknown, and nothing more may be written by this process.
    Doubtful(String),
}

impl Disk {
    /// The file's content as it was last committed.
    pub fn open(path: &Path, open_file: OpenFile, reserve: u64) -> Result<(Self, Revision, Vec<Record>), Unopened> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(redb::Error::Io)?;
        }
        let medium = Medium::new(path, reserve);
        let (path, full, holes) = (path.to_owned(), None, true);
        let mut disk = Self { path, open_file, medium, reserve, database: None, full, holes };
        let database = disk.database()?;
        check(database)?;
        let (revision, entries) = (revision(database)?, load(database)?);
        Ok((disk, revision, entries))
    }

    fn database(&mut self) -> Result<&mut Database, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                self.medium.begin(0);
                let file = (self.open_file)(&self.path)?;
                let backend = Backend::new(file, self.medium.clone());
                Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?
            }
        };
        Ok(self.database.insert(database))
    }

    /// Whether there is any use in writing what takes more room. After it did not fit this is so when more has become
    /// free, or after a while: a try that fails costs opening the file anew.
    pub fn may_grow(&mut self) -> bool {
        if self.full.is_none() && self.medium.fill_reserve() {
            return true;
        }
        let due = |(when, free): (Instant, u64)| when.elapsed() > RETRY || self.free() > free + WORTH_A_LOOK;
        if !self.full.is_none_or(due) {
            return false;
        }
        let whole = self.medium.fill_reserve() || (self.compact() && self.medium.fill_reserve());
        if !whole {
            self.full = Some((Instant::now(), self.free()));
        }
        whole
    }

    /// Bytes that are free on the file's disk.
    fn free(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.path).map_or(0, |s| s.blocks_available() * s.fragment_size())
    }

    /// Gives what deletions have left back to the disk. True: there was something.
    fn compact(&mut self) -> bool {
        if !std::mem::take(&mut self.holes) {
            return false;
        }
        self.medium.begin(0);
        let compacted = self.database().ok().and_then(|database| database.compact().ok());
        if self.medium.outcome() != Outcome::Fine {
            self.database = None;
        }
        compacted == Some(true)
    }

    /// Durable when it returns `Ok`. `durable` is the revision of what was written before.
    pub fn write(&mut self, batch: &Batch, durable: Revision) -> Result<(), WriteError> {
        // A compaction may have failed in a way that leaves everything open.
        if self.medium.outcome() == Outcome::Doubtful {
            return Err(WriteError::Doubtful("the disk has failed".into()));
        }
        if self.database.is_none() {
            let found = self.database().and_then(|database| revision(database));
            match found {
                Ok(found) if found == durable => {}
                Ok(found) => return Err(WriteError::Doubtful(format!("the file is at {found}, not at {durable}"))),
                Err(error) if self.medium.outcome() == Outcome::Refused => {
                    self.database = None;
                    return Err(WriteError::Refused(error.to_string()));
                }
                Err(error) => return Err(WriteError::Doubtful(error.to_string())),
            }
        }
        self.medium.begin(match batch.growth() {
            Growth::None => 0,
            Growth::Small => self.reserve / 2,
            Growth::Large => self.reserve,
        });
        let result = self.database().and_then(|database| commit(database, batch));
        let outcome = self.medium.outcome();
        match result {
            Ok(()) => {
                if batch.growth() == Growth::Large {
                    self.full = None;
                }
                self.holes |= batch.changes().iter().any(|change| change.now.is_none());
                Ok(())
            }
            Err(error) if outcome == Outcome::Refused => {
                self.database = None;
                self.full = Some((Instant::now(), self.free()));
                Err(WriteError::Refused(error.to_string()))
            }
            Err(error) => Err(WriteError::Doubtful(error.to_string())),
        }
    }
}

impl From<redb::Error> for Unopened {
    fn from(error: redb::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A number of the table `meta`.
fn meta(database: &Database, name: &str) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(name)?.map(|value| value.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn revision(database: &Database) -> Result<Revision, redb::Error> {
    Ok(Revision(meta(database, REVISION)?.unwrap_or(0)))
}

/// Whether the file is one that this program knows how to read.
fn check(database: &Database) -> Result<(), Unopened> {
    let ours = match meta(database, MAGIC)? {
        Some(magic) => magic == OURS,
        None => meta(database, REVISION)?.is_some() || is_empty(database)?,
    };
    if !ours {
        return Err(Unopened::Foreign);
    }
    match meta(database, FORMAT)?.unwrap_or(FORMAT_VERSION) {
        found if found > FORMAT_VERSION => Err(Unopened::Newer { found, known: FORMAT_VERSION }),
        _ => Ok(()),
    }
}

fn is_empty(database: &Database) -> Result<bool, redb::Error> {
    Ok(database.begin_read()?.list_tables()?.next().is_none())
}

fn load(database: &Database) -> Result<Vec<Record>, redb::Error> {
    let txn = database.begin_read()?;
    let table = match txn.open_table(ENTRIES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut entries = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let bytes = value.value();
        let number = |range: std::ops::Range<usize>| {
            bytes.get(range).and_then(|b| b.try_into().ok()).map(|b| Revision(u64::from_be_bytes(b)))
        };
        match (Key::parse(key.value()), number(0..8), number(8..HEADER)) {
            (Some(key), Some(create_revision), Some(mod_revision)) => entries.push(Record {
                key,
                value: Bytes::copy_from_slice(&bytes[HEADER..]),
                create_revision,
                mod_revision,
            }),
            _ => return Err(redb::Error::Corrupted(format!("the entry {:?} is malformed", key.value()))),
        }
    }
    Ok(entries)
}

fn commit(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut entries = txn.open_table(ENTRIES)?;
        let mut row = Vec::new();
        for Applied { key, now, .. } in batch.changes() {
            match now {
                Some(record) => {
                    row.clear();
                    row.extend_from_slice(&record.create_revision.0.to_be_bytes());
                    row.extend_from_slice(&record.mod_revision.0.to_be_bytes());
                    row.extend_from_slice(&record.value);
                    entries.insert(key.as_str(), row.as_slice())?;
                }
                None => drop(entries.remove(key.as_str())?),
            }
        }
        let mut meta = txn.open_table(META)?;
        meta.insert(MAGIC, OURS)?;
        meta.insert(FORMAT, FORMAT_VERSION)?;
        meta.insert(REVISION, batch.revision().0)?;
    }
    txn.commit()?;
    Ok(())
}
