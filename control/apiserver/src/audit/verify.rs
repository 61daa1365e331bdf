//! Whether a log is as it was written.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::{
    chain::{Head, Line},
    files::{self, Start},
};

/// A chain that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    /// Of the first line that is kept.
    pub first: u64,
    pub lines: u64,
    /// Where it ends. Who has noted that elsewhere knows, later, that nothing before it was changed.
    pub head: Head,
}

/// The first line of a chain that is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {what}", file.display())]
pub struct Broken {
    pub file: PathBuf,
    pub line: u64,
    pub what: What,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum What {
    #[error("changed: it is no line of such a log")]
    NoLine,
    #[error("changed: it, or the line before it, is not what its hash was made of")]
    Changed,
    #[error("removed: the lines from {from} to {to} are missing before it")]
    Removed { from: u64, to: u64 },
    #[error("inserted: line {0} is there already")]
    Inserted(u64),
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// The lines of a file, without their ends. The last may be one that a process was killed while it wrote: it has no end, and is none.
fn lines(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>>> {
    let mut file = BufReader::new(File::open(path)?);
    Ok(std::iter::from_fn(move || {
        let mut line = Vec::new();
        match file.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => line.pop_if(|last| *last == b'\n').map(|_| Ok(line)),
            Err(error) => Some(Err(error)),
        }
    }))
}

/// Reads the chain of a directory to its end.
///
/// # Errors
/// The first line that was changed, removed or inserted; or why it cannot be read.
pub fn verify(directory: &Path) -> Result<Whole, VerifyError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| VerifyError::Io { path, error }
    };
    let mut whole: Option<Whole> = None;
    // What the newest file knows of the first line that was kept, and where the first line is now.
    let (mut oldest, mut first_file) = (0, None);
    for (_, path) in files::list(directory).map_err(at(directory))? {
        for (number, text) in (1..).zip(lines(&path).map_err(at(&path))?) {
            let text = text.map_err(at(&path))?;
            let broken = |what| Broken { file: path.clone(), line: number, what };
            let text = std::str::from_utf8(&text).map_err(|_| broken(What::NoLine))?;
            let line = Line::parse(text).ok_or_else(|| broken(What::NoLine))?;
            let start = if number == 1 { Some(Start::parse(text).ok_or_else(|| broken(What::NoLine))?) } else { None };
            if let Some(start) = &start {
                oldest = start.oldest;
            }
            let before = match (&whole, &start) {
                (Some(whole), _) => whole.head,
                // What came before it is no longer kept, if the files that were kept are all there.
                (None, Some(start)) => Head { next: line.sequence, hash: start.previous },
                (None, None) => return Err(broken(What::NoLine).into()),
            };
            if line.sequence > before.next {
                return Err(broken(What::Removed { from: before.next, to: line.sequence - 1 }).into());
            }
            if line.sequence < before.next {
                return Err(broken(What::Inserted(line.sequence)).into());
            }
            if !line.follows(before.hash) || start.is_some_and(|start| start.previous != before.hash) {
                return Err(broken(What::Changed).into());
            }
            first_file.get_or_insert_with(|| path.clone());
            let first = whole.as_ref().map_or(line.sequence, |whole| whole.first);
            let lines = whole.as_ref().map_or(0, |whole| whole.lines) + 1;
            whole = Some(Whole { first, lines, head: line.head() });
        }
    }
    let whole = whole.unwrap_or(Whole { first: 0, lines: 0, head: Head::START });
    match first_file.filter(|_| oldest < whole.first) {
        Some(file) => Err(Broken { file, line: 1, what: What::Removed { from: oldest, to: whole.first - 1 } }.into()),
        None => Ok(whole),
    }
}

/// Has each line of a chain seen, the oldest first.
///
/// # Errors
/// When it cannot be read.
pub fn each_line(directory: &Path, mut see: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    for (_, path) in files::list(directory)? {
        for line in lines(&path)? {
            see(&String::from_utf8_lossy(&line?))?;
        }
    }
    Ok(())
}
