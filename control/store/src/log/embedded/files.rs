//! The directory of a log: which files there are, and how one is opened and read.
//!
//! ```text
//! checkpoint-a, checkpoint-b   the whole, in turns
//! log-0, log-1, …              segments of the log, used again when a checkpoint has what is in them
//! ../<name>.seen               how far the log has been, so that an older copy is not taken for it
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Unopened,
    header::{Found, Header, SIZE, StoreId},
    medium::{Blob, Medium},
};
use crate::Encryption;
use crate::Revision;

#[derive(Clone)]
pub(super) struct Files {
    pub medium: Arc<dyn Medium>,
    pub directory: PathBuf,
    pub encryption: Encryption,
}

pub(super) const CHECKPOINTS: [&str; 2] = ["checkpoint-a", "checkpoint-b"];

pub(super) fn segment_name(slot: u32) -> String {
    format!("log-{slot}")
}

impl Files {
    pub fn open(&self, name: &str, create: bool) -> io::Result<Box<dyn Blob>> {
        self.medium.open(&self.directory.join(name), create)
    }

    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.medium.remove(&self.directory.join(name))
    }

    /// Removes a segment's file, as well as can be: one that stays is removed at the next start.
    pub fn discard_segment(&self, slot: u32) {
        if let Err(error) = self.remove(&segment_name(slot)) {
            tracing::warn!(%error, "removing a segment of the store's log");
        }
    }

    /// The slots that have a segment's file.
    pub fn slots(&self) -> io::Result<Vec<u32>> {
        let names = self.medium.names(&self.directory)?;
        let mut slots: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix("log-").and_then(|slot| slot.parse().ok())).collect();
        slots.sort_unstable();
        Ok(slots)
    }

    pub fn damaged(&self, name: &str, at: u64, what: impl Into<String>) -> Unopened {
        Unopened::Damaged { file: self.directory.join(name).display().to_string(), at, what: what.into() }
    }

    pub fn seen_path(&self) -> PathBuf {
        let mut path = self.directory.as_os_str().to_owned();
        path.push(".seen");
        path.into()
    }

    /// Which store was here, and how far it had come at least; none: nothing is known.
    pub fn seen(&self) -> io::Result<Option<Seen>> {
        let path = self.seen_path();
        let parent = path.parent().unwrap_or(Path::new("."));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !self.medium.names(parent)?.contains(&name) {
            return Ok(None);
        }
        let blob = self.medium.open(&path, false)?;
        let mut text = vec![0; (blob.len()?.min(4096)) as usize];
        blob.read_at(&mut text, 0)?;
        Ok(Seen::parse(&String::from_utf8_lossy(&text)))
    }

    /// Remembers how far it has come, as well as can be.
    pub fn remember(&self, store: StoreId, revision: Revision) {
        let path = self.seen_path();
        let mut making = path.as_os_str().to_owned();
        making.push(".new");
        let making = PathBuf::from(making);
        let _ = self.medium.remove(&making);
        let text = Seen { store, revision }.to_string();
        let written = self.medium.open(&making, true).and_then(|blob| {
            blob.write_at(text.as_bytes(), 0)?;
            blob.sync()
        });
        if let Err(error) = written.and_then(|()| self.medium.rename(&making, &path)) {
            tracing::warn!(%error, path = %path.display(), "remembering how far the store is");
        }
    }
}

/// What is remembered beside the directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub store: StoreId,
    pub revision: Revision,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.store.0 {
            write!(f, "{byte:02x}")?;
        }
        writeln!(f, " {}", self.revision)
    }
}

impl Seen {
    fn parse(text: &str) -> Option<Self> {
        let (store, revision) = text.trim().split_once(' ')?;
        let store = u128::from_str_radix(store, 16).ok()?.to_be_bytes();
        Some(Self { store: StoreId(store), revision: Revision(revision.parse().ok()?) })
    }
}

/// The header of a file.
pub(super) fn header(blob: &dyn Blob) -> io::Result<Found> {
    if blob.len()? < SIZE {
        return Ok(Found::Nothing);
    }
    let mut bytes = [0; SIZE as usize];
    blob.read_at(&mut bytes, 0)?;
    Ok(Header::read(&bytes))
}
