//! One chain in files: bounded in size and number, the oldest goes first.
//!
//! A file is called by the sequence of its first line, which says what it follows and which is the oldest file that is kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::chain::{Hash, Head, Line};

pub const API_VERSION: &str = "audit.hypernetes.io/v1";
pub const START: &str = "ChainStart";
/// No line is longer.
pub const MAX_LINE: usize = 1 << 20;

/// How much of a chain is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    pub file_bytes: u64,
    pub files: usize,
}

/// The files of a chain by the sequence of their first lines, the oldest first.
pub fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let first = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".log"));
        if let Some(first) = first.and_then(|digits| digits.parse().ok()) {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

/// A chain that is written to.
pub struct Chain {
    directory: PathBuf,
    keep: Keep,
    head: Head,
    /// The newest file, and how long it is.
    current: Option<(PathBuf, u64)>,
}

impl Chain {
    /// Goes on where the last process ended; a line that it has not finished is cut off.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: &Path, keep: Keep) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut chain = Self { directory: directory.to_owned(), keep, head: Head::START, current: None };
        let Some((first, path)) = list(directory)?.pop() else { return Ok(chain) };
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(2 * MAX_LINE as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < tail.len() {
            file.set_len(from + whole as u64)?;
        }
        let last = tail[..whole].strip_suffix(b"\n").unwrap_or_default().rsplit(|byte| *byte == b'\n').next();
        let last = last.and_then(|line| std::str::from_utf8(line).ok()).and_then(Line::parse);
        match last {
            Some(line) => {
                chain.head = line.head();
                chain.current = Some((path, from + whole as u64));
            }
            // Whatever this is, it is left for `verify` to tell, and followed by a file of its own.
            None => chain.head.next = first.saturating_add(1),
        }
        Ok(chain)
    }

    #[cfg(test)]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Appends lines of these contents, or nothing.
    ///
    /// # Errors
    /// When they cannot be written; it may be tried again.
    pub fn append(&mut self, objects: &[impl AsRef<str>]) -> io::Result<()> {
        let begins = self.current.as_ref().is_none_or(|(_, length)| *length >= self.keep.file_bytes);
        let mut head = self.head;
        let mut text = String::new();
        let mut too_many = Vec::new();
        if begins {
            let mut files = list(&self.directory)?;
            let kept = files.split_off((files.len() + 1).saturating_sub(self.keep.files.max(2)));
            too_many = files;
            let oldest = kept.first().map_or(head.next, |(first, _)| *first);
            let start =
                json!({"kind": START, "apiVersion": API_VERSION, "previous": head.hash.to_string(), "oldest": oldest});
            head.seal(&mut text, &start.to_string());
        }
        for object in objects {
            head.seal(&mut text, object.as_ref());
        }
        let (path, length) = match &self.current {
            Some((path, length)) if !begins => (path.clone(), *length),
            _ => (self.directory.join(format!("audit-{:016}.log", self.head.next)), 0),
        };
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        if let Err(error) = file.write_all(text.as_bytes()) {
            return Err(self.undo(&file, length, error));
        }
        self.current = Some((path, length + text.len() as u64));
        self.head = head;
        // Only now nothing misses them.
        for (_, path) in too_many {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "removing an old file of the audit log");
            }
        }
        Ok(())
    }

    /// What was written of lines that were not written whole is none.
    fn undo(&mut self, file: &File, length: u64, error: io::Error) -> io::Error {
        if file.set_len(length).is_err() {
            // The next lines come into a file of their own.
            self.current = None;
        }
        error
    }
}

/// What a file's first line says.
pub struct Start {
    /// What it follows.
    pub previous: Hash,
    /// The first line that was kept when the file was begun.
    pub oldest: u64,
}

impl Start {
    pub fn parse(line: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let start = value["kind"] == START && value["apiVersion"] == API_VERSION;
        let previous = value["previous"].as_str().and_then(Hash::parse).filter(|_| start)?;
        Some(Self { previous, oldest: value["oldest"].as_u64()? })
    }
}
