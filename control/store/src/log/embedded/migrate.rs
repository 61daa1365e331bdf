//! What the versions before wrote: one redb file, with the table `entries` of the newest versions and the table `meta`.

use std::{io, path::Path};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::Unopened;
use crate::{Key, Revision, entry::Record};

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

/// All that is in such a file; none: there is no file.
///
/// # Errors
/// When it is something else, is of a newer version, or cannot be read.
pub(super) fn read(path: &Path) -> Result<Option<(Revision, Vec<Record>)>, Unopened> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Its process was killed before it wrote anything.
        Ok(file) if file.len() == 0 => return Ok(None),
        other => _ = other?,
    }
    let database = Database::open(path).map_err(redb::Error::from)?;
    check(&database)?;
    let revision = Revision(meta(&database, REVISION)?.unwrap_or(0));
    Ok(Some((revision, load(&database)?)))
}

/// The file is not needed any more, nor the room that was kept beside it.
pub(super) fn remove(path: &Path) {
    let mut reserve = path.as_os_str().to_owned();
    reserve.push(".reserve");
    for path in [path, Path::new(&reserve)] {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "removing what has been taken over");
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
