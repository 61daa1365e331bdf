//! Container logs in the CRI format: `<RFC 3339 time, ns> <stdout|stderr> <P|F> <line>`.
//!
//! Beside each log a small position file says up to which offset of the guest's output the log is complete, and how
//! long the log was then. It is written after the log; a restarted hyperd cuts what lies beyond it and asks the guest
//! for the output from there, so that no line is lost or doubled. Both lie in the page cache: they survive the death
//! of hyperd, and the host's own death takes the VM and its output along anyway.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::log_budget::LogShare;

/// Longest content of one log line; longer ones are cut into partial (`P`) lines, as other runtimes do.
const MAX_LINE: usize = 16 << 10;
/// Room for the position, so that it is always overwritten whole.
const POSITION_BYTES: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    stdout: u64,
    stderr: u64,
    /// Identity and length of the log file.
    inode: u64,
    length: u64,
}

/// Writes one container's log. What cannot be written stays with the caller, who gives it again until [`LogWriter::settle`] says
/// that it is lost: a full disk holds up no container for long, and the log goes on when there is room.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    position_path: PathBuf,
    /// None as long as they could not be opened.
    files: Option<Files>,
    position: Position,
    /// Bytes of a line whose end has not come yet; the position does not include them.
    pending: [Vec<u8>; 2],
    /// The log is rotated at this length, so that a container fills no disk when nobody else rotates.
    max_bytes: u64,
    /// What the log takes of its tenant's.
    share: Option<Arc<LogShare>>,
    /// Bytes of output that could not be written since something could.
    lost: u64,
}

#[derive(Debug)]
struct Files {
    log: File,
    position: File,
}

impl LogWriter {
    /// Goes on where a log was left. The log itself is opened as soon as that is possible.
    pub(crate) fn open(path: &Path, position_path: &Path, max_bytes: u64) -> Self {
        let position = std::fs::read(position_path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut writer = Self {
            path: path.into(),
            position_path: position_path.into(),
            files: None,
            position: position.unwrap_or_default(),
            pending: [vec![], vec![]],
            max_bytes,
            share: None,
            lost: 0,
        };
        // It is tried again by what is written.
        let _ = writer.files();
        writer
    }

    /// What is written is the tenant's, which may have only so much.
    pub(crate) fn charged_to(mut self, share: Option<Arc<LogShare>>) -> Self {
        self.share = share;
        self.recount();
        self
    }

    /// Files have come or gone.
    fn recount(&self) {
        if let Some(share) = &self.share {
            share.set(bytes(&self.path));
        }
    }

    fn files(&mut self) -> io::Result<&mut Files> {
        if self.files.is_none() {
            create(&self.path)?;
            let log = open_log(&self.path)?;
            let metadata = log.metadata()?;
            if metadata.ino() == self.position.inode && metadata.len() > self.position.length {
                log.set_len(self.position.length)?;
            }
            (self.position.inode, self.position.length) = (metadata.ino(), log.metadata()?.len());
            let position =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.position_path)?;
            save(&position, &self.position)?;
            self.files = Some(Files { log, position });
            self.recount();
        }
        self.files.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether an attempt to write has settled the matter: what was given is in the log, or it is lost, because it was the last
    /// attempt or the ones before have failed already. `end` is the offset in the stream up to which it goes.
    pub(crate) fn settle(
        &mut self,
        written: io::Result<()>,
        stream: Stream,
        end: u64,
        last_attempt: bool,
        container: &str,
    ) -> bool {
        match written {
            Ok(()) if self.lost > 0 => {
                let lost = std::mem::take(&mut self.lost);
                tracing::warn!(container, lost, "the log is written again; bytes of output were lost");
                true
            }
            Ok(()) => true,
            Err(error) if last_attempt || self.lost > 0 => {
                if self.lost == 0 {
                    tracing::warn!(container, %error, "the log cannot be written: output is lost");
                }
                self.lose(stream, end);
                true
            }
            Err(_) => false,
        }
    }

    /// Gives up what a stream has up to an offset and is not in the log: somebody waits for it to be taken.
    fn lose(&mut self, stream: Stream, end: u64) {
        let position = match stream {
            Stream::Stdout => &mut self.position.stdout,
            Stream::Stderr => &mut self.position.stderr,
        };
        self.lost = self.lost.saturating_add(end.saturating_sub(*position));
        *position = end.max(*position);
        self.pending[stream as usize].clear();
    }

    /// Offsets of stdout and stderr up to which everything is in the log.
    pub(crate) fn durable(&self) -> (u64, u64) {
        (self.position.stdout, self.position.stderr)
    }

    /// Offset of the next byte expected of a stream.
    pub(crate) fn next(&self, stream: Stream) -> u64 {
        let durable = [self.position.stdout, self.position.stderr][stream as usize];
        durable + self.pending[stream as usize].len() as u64
    }

    /// Takes output of the container; complete lines are in the log when this returns.
    pub(crate) fn append(&mut self, stream: Stream, data: &[u8], now: jiff::Timestamp) -> io::Result<()> {
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        pending.extend_from_slice(data);
        let mut lines = Vec::new();
        let mut taken = 0;
        loop {
            let rest = &pending[taken..];
            let window = &rest[..rest.len().min(MAX_LINE + 1)];
            if let Some(end) = window.iter().position(|b| *b == b'\n') {
                format_line(&mut lines, now, stream, "F", &rest[..end]);
                taken += end + 1;
            } else if rest.len() > MAX_LINE {
                format_line(&mut lines, now, stream, "P", &rest[..MAX_LINE]);
                taken += MAX_LINE;
            } else {
                break;
            }
        }
        let outcome = self.commit(stream, &lines, taken);
        if outcome.is_ok() {
            pending.drain(..taken);
        } else {
            // The caller gives the same data again.
            pending.truncate(pending.len() - data.len());
        }
        self.pending[stream as usize] = pending;
        outcome
    }

    /// Writes what has no line end, when none will come.
    pub(crate) fn finish(&mut self, stream: Stream, now: jiff::Timestamp) -> io::Result<()> {
        let pending = self.pending[stream as usize].clone();
        if pending.is_empty() {
            return Ok(());
        }
        let mut line = Vec::new();
        format_line(&mut line, now, stream, "F", &pending);
        self.commit(stream, &line, pending.len())?;
        self.pending[stream as usize].clear();
        Ok(())
    }

    /// The stream goes on at a later offset: the guest has lost what is between.
    pub(crate) fn skip_to(&mut self, stream: Stream, offset: u64, now: jiff::Timestamp) -> io::Result<()> {
        self.finish(stream, now)?;
        match stream {
            Stream::Stdout => self.position.stdout = offset,
            Stream::Stderr => self.position.stderr = offset,
        }
        self.save_position()
    }

    /// Forgets what is not in the log yet: it is going to be read from the guest again.
    pub(crate) fn rewind(&mut self) -> (u64, u64) {
        self.pending = [vec![], vec![]];
        self.durable()
    }

    /// Opens the path anew after somebody renamed the file.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let log = open_log(&self.path)?;
        let metadata = log.metadata()?;
        self.files()?.log = log;
        (self.position.inode, self.position.length) = (metadata.ino(), metadata.len());
        self.recount();
        self.save_position()
    }

    fn commit(&mut self, stream: Stream, lines: &[u8], taken: usize) -> io::Result<()> {
        if taken == 0 {
            return Ok(());
        }
        // Its length is known when it is open.
        self.files()?;
        if self.position.length > 0 && self.position.length + lines.len() as u64 > self.max_bytes {
            std::fs::rename(&self.path, rotated(&self.path))?;
            self.reopen()?;
        }
        if let Some(share) = &self.share {
            share.take(lines.len() as u64)?;
        }
        self.put(stream, lines, taken).inspect_err(|_| self.recount())
    }

    /// Writes lines and the position after them, or neither.
    fn put(&mut self, stream: Stream, lines: &[u8], taken: usize) -> io::Result<()> {
        let before = self.position;
        let files = self.files()?;
        if let Err(error) = files.log.write_all(lines) {
            // No half lines: they would be doubled by the next attempt.
            let _ = files.log.set_len(before.length);
            return Err(error);
        }
        self.position.length += lines.len() as u64;
        match stream {
            Stream::Stdout => self.position.stdout += taken as u64,
            Stream::Stderr => self.position.stderr += taken as u64,
        }
        self.save_position().inspect_err(|_| {
            // As if it had not been written: it is going to be.
            self.position = before;
            if let Some(files) = &self.files {
                let _ = files.log.set_len(before.length);
            }
        })
    }

    fn save_position(&mut self) -> io::Result<()> {
        let position = self.position;
        save(&self.files()?.position, &position)
    }
}

fn save(file: &File, position: &Position) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(position)?;
    bytes.resize(POSITION_BYTES, b' ');
    file.write_all_at(&bytes, 0)
}

fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Bytes of a log with what was rotated of it.
pub(crate) fn bytes(path: &Path) -> u64 {
    let length = |path: &Path| std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
    length(path).saturating_add(length(&rotated(path)))
}

/// Removes a log with what was rotated of it.
pub(crate) fn remove(path: &Path) {
    for path in [path.to_owned(), rotated(path)] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a log was left behind");
            }
            _ => {}
        }
    }
}

/// Makes an empty log, if there is none: readers look for it as soon as the container has started.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let directory = |path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    path.parent().map_or(Ok(()), directory)?;
    open_log(path).map(drop)
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
}

fn format_line(to: &mut Vec<u8>, now: jiff::Timestamp, stream: Stream, tag: &str, content: &[u8]) {
    // RFC3339Nano; always nine digits, so that lines sort.
    to.extend_from_slice(now.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(stream.name().as_bytes());
    to.push(b' ');
    to.extend_from_slice(tag.as_bytes());
    to.push(b' ');
    to.extend_from_slice(content);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_budget::LogBudgets;

    fn now() -> jiff::Timestamp {
        jiff::Timestamp::new(1_700_000_000, 1_000).unwrap()
    }

    fn contents(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_tagged_and_wait_for_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let (log, position) = (dir.path().join("pod/0.log"), dir.path().join("p"));
        let mut writer = LogWriter::open(&log, &position, 1 << 20);
        writer.append(Stream::Stdout, b"one\ntw", now()).unwrap();
        writer.append(Stream::Stderr, b"oops\n", now()).unwrap();
        assert_eq!(writer.durable(), (4, 5));
        assert_eq!(writer.next(Stream::Stdout), 6);
        writer.append(Stream::Stdout, b"o", now()).unwrap();
        writer.finish(Stream::Stdout, now()).unwrap();
        assert_eq!(contents(&log), ["stdout F one", "stderr F oops", "stdout F two"]);
        assert!(std::fs::read_to_string(&log).unwrap().starts_with("2023-11-14T22:13:20.000001000Z stdout F one\n"));
    }

    #[test]
    fn long_lines_are_cut_into_partial_ones() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let mut writer = LogWriter::open(&log, &dir.path().join("p"), 1 << 20);
        writer.append(Stream::Stdout, &[b'a'; MAX_LINE], now()).unwrap();
        assert_eq!(writer.durable().0, 0);
        writer.append(Stream::Stdout, b"b\n", now()).unwrap();
        let lines = contents(&log);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), "stdout P ".len() + MAX_LINE);
        assert_eq!(lines[1], "stdout F b");
    }

    #[test]
    fn a_crash_between_log_and_position_neither_loses_nor_doubles() {
        let dir = tempfile::tempdir().unwrap();
        let (log, position) = (dir.path().join("0.log"), dir.path().join("p"));
        let mut writer = LogWriter::open(&log, &position, 1 << 20);
        writer.append(Stream::Stdout, b"one\nhalf", now()).unwrap();
        let saved = std::fs::read(&position).unwrap();
        writer.append(Stream::Stdout, b"\ntwo\n", now()).unwrap();
        drop(writer);
        std::fs::write(&position, saved).unwrap();
        let mut writer = LogWriter::open(&log, &position, 1 << 20);
        assert_eq!(writer.durable(), (4, 0));
        writer.append(Stream::Stdout, b"half\ntwo\n", now()).unwrap();
        assert_eq!(contents(&log), ["stdout F one", "stdout F half", "stdout F two"]);
    }

    #[test]
    fn growth_is_bounded_and_reopening_follows_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let mut writer = LogWriter::open(&log, &dir.path().join("p"), 4096);
        for _ in 0..1000 {
            writer.append(Stream::Stdout, b"0123456789012345678901234567890123456789\n", now()).unwrap();
        }
        assert!(std::fs::metadata(&log).unwrap().len() <= 4096);
        assert!(std::fs::metadata(rotated(&log)).unwrap().len() <= 4096);
        std::fs::rename(&log, dir.path().join("old")).unwrap();
        writer.reopen().unwrap();
        writer.append(Stream::Stdout, b"new\n", now()).unwrap();
        assert_eq!(contents(&log), ["stdout F new"]);
    }

    #[test]
    fn a_tenants_logs_are_no_larger_together_than_they_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let budgets = LogBudgets::new(4096);
        let share = |tenant: &str| {
            let annotations = [(crate::TENANT_ANNOTATION.to_owned(), tenant.to_owned())].into();
            budgets.share(&k8s_cri::v1::PodSandboxConfig { annotations, ..Default::default() })
        };
        let path = |name: &str| dir.path().join(name);
        let open = |name: &str, tenant: &str| {
            LogWriter::open(&path(&format!("{name}.log")), &path(&format!("{name}.position")), 1000)
                .charged_to(share(tenant))
        };
        // Who writes without end fills what two files may hold; others of the tenant get the rest, and lose what is more.
        let (mut loud, mut late, mut other) = (open("a", "acme"), open("b", "acme"), open("c", "globex"));
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        for _ in 0..100 {
            loud.append(Stream::Stdout, &line, now()).unwrap();
        }
        let mut rest = open("d", "acme");
        let mut refused = None;
        for writer in [&mut late, &mut rest] {
            for _ in 0..20 {
                let (written, end) = (writer.append(Stream::Stdout, &line, now()), writer.next(Stream::Stdout) + 100);
                if let Err(error) = &written {
                    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
                    refused = Some(error.to_string());
                }
                writer.settle(written, Stream::Stdout, end, true, "c");
            }
        }
        let all = || ["a", "b", "d"].iter().map(|name| bytes(&path(&format!("{name}.log")))).sum::<u64>();
        assert!(refused.is_some_and(|why| why.contains("may have 4096")) && rest.lost > 0);
        assert!((3900..=4096).contains(&all()), "{}", all());
        other.append(Stream::Stdout, &line, now()).unwrap();
        // When a container is gone there is room again; and a log that is found is counted.
        drop(loud);
        rest.append(Stream::Stdout, &line, now()).unwrap();
        drop(late);
        let _again = open("a", "acme");
        let (left, held) = (share("acme").unwrap(), ["a", "d"].map(|name| bytes(&path(&format!("{name}.log")))));
        left.take(4096 - held.iter().sum::<u64>()).unwrap();
        assert!(left.take(1).is_err());
    }

    /// What cannot be written is lost when somebody says so, and what comes after it is written as soon as that is possible.
    #[test]
    fn a_log_that_cannot_be_written_goes_on_when_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let (log, position) = (dir.path().join("pod/0.log"), dir.path().join("p"));
        // Its directory cannot be made.
        std::fs::write(dir.path().join("pod"), "in the way").unwrap();
        let mut writer = LogWriter::open(&log, &position, 1 << 20);
        assert!(writer.append(Stream::Stdout, b"one\n", now()).is_err());
        assert_eq!(writer.next(Stream::Stdout), 0, "it may be given again");
        assert!(writer.append(Stream::Stdout, b"one\n", now()).is_err());
        let full = || Err(io::ErrorKind::StorageFull.into());
        assert!(!writer.settle(full(), Stream::Stdout, 4, false, "c"));
        assert!(writer.settle(full(), Stream::Stdout, 4, true, "c"));
        assert_eq!((writer.next(Stream::Stdout), writer.durable()), (4, (4, 0)));
        std::fs::remove_file(dir.path().join("pod")).unwrap();
        writer.append(Stream::Stdout, b"two\n", now()).unwrap();
        assert!(writer.lost == 4 && writer.settle(Ok(()), Stream::Stdout, 8, false, "c") && writer.lost == 0);
        assert_eq!(contents(&log), ["stdout F two"]);
        // A position that cannot be saved leaves nothing in the log that would be doubled.
        writer.files.as_mut().unwrap().position = File::open("/dev/full").unwrap();
        assert!(writer.append(Stream::Stdout, b"three\n", now()).is_err());
        assert_eq!(contents(&log), ["stdout F two"]);
        writer.files.as_mut().unwrap().position = OpenOptions::new().write(true).open(&position).unwrap();
        writer.append(Stream::Stdout, b"three\n", now()).unwrap();
        // Nor does a full disk.
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut writer.files.as_mut().unwrap().log, full);
        assert!(writer.append(Stream::Stdout, b"four\n", now()).is_err());
        writer.files.as_mut().unwrap().log = file;
        writer.append(Stream::Stdout, b"four\n", now()).unwrap();
        assert_eq!(contents(&log), ["stdout F two", "stdout F three", "stdout F four"]);
    }
}
