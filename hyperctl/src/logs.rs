//! `logs`: a container's output, from the file that hyperd writes.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hypernetes_watch::{Watch, Watcher};
use jiff::{SignedDuration, Timestamp};

use crate::{connection::Clients, containers, cri, find};

/// A log that is followed is looked at when something happens to it or to its container, and should nobody tell after this time.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// Show the output of a container
#[derive(clap::Args)]
pub struct Logs {
    /// Go on until it ends.
    #[arg(long, short)]
    follow: bool,
    /// The last lines only.
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<usize>,
    /// What came later only: a time (2026-01-31T12:00:00Z) or how long ago (10m).
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// With the time of each line.
    #[arg(long, short)]
    timestamps: bool,
    container: String,
}

impl Logs {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        let found = find::one(clients, &self.container).await?;
        let status = containers::status(clients, &found.container.id).await?;
        if status.log_path.is_empty() {
            bail!("{} has no log: whoever made it wanted none", self.container);
        }
        let mut log = Log::new(status.log_path.into(), self.timestamps, self.since);
        log.skip_to_tail(self.tail)?;
        if self.follow {
            return follow(clients, &found.container.id, log).await;
        }
        log.print_rest()
    }
}

/// Prints all that a container says until it has ended.
pub async fn follow_all(clients: &Clients, id: &str) -> Result<()> {
    let path = containers::status(clients, id).await?.log_path;
    follow(clients, id, Log::new(path.into(), false, None)).await
}

async fn follow(clients: &Clients, id: &str, mut log: Log) -> Result<()> {
    // Both before the first look: what happens after it is told.
    let mut events = Events::of(clients, id).await;
    let mut changes = log.watch();
    loop {
        // Asked first: when it has ended, all of its output is there.
        let state = match containers::status(clients, id).await {
            Ok(status) => status.state(),
            // Somebody removed it.
            Err(error) if error.is::<tonic::Status>() => cri::ContainerState::ContainerExited,
            Err(error) => return Err(error),
        };
        log.print_rest()?;
        if state == cri::ContainerState::ContainerExited {
            return Ok(());
        }
        tokio::select! {
            () = changed(&mut changes) => {}
            () = events.next() => {}
            () = tokio::time::sleep(LOOK_AT_LEAST_EVERY) => {}
        }
    }
}

async fn changed(changes: &mut Option<Watch>) {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}

/// What happens to one container, as hyperd tells.
struct Events {
    stream: Option<tonic::Streaming<cri::ContainerEventResponse>>,
    id: String,
}

impl Events {
    async fn of(clients: &Clients, id: &str) -> Self {
        let stream = clients.runtime.clone().get_container_events(cri::GetEventsRequest {}).await;
        Self { stream: stream.ok().map(tonic::Response::into_inner), id: id.to_owned() }
    }

    /// Returns when something has happened.
    async fn next(&mut self) {
        while let Some(stream) = &mut self.stream {
            match stream.message().await {
                Ok(Some(event)) if event.container_id == self.id => return,
                Ok(Some(_)) => {}
                // hyperd has ended: whether it is back shows when it is asked.
                Ok(None) | Err(_) => self.stream = None,
            }
        }
        std::future::pending().await
    }
}

/// A log that is being read.
struct Log {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// The beginning of a line whose end is not written yet.
    unfinished: Vec<u8>,
    printer: Printer,
}

struct Printer {
    timestamps: bool,
    since: Option<Timestamp>,
    /// The next piece begins a line.
    at_start: bool,
}

impl Log {
    fn new(path: PathBuf, timestamps: bool, since: Option<Timestamp>) -> Self {
        let printer = Printer { timestamps, since, at_start: true };
        Self { path, file: None, unfinished: Vec::new(), printer }
    }

    /// The next whole line of the file; none when there is no more now. A file that was put in place of another is gone
    /// on with when the other has been read.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.path)?.map(BufReader::new);
            }
            let Some(file) = &mut self.file else { return Ok(None) };
            file.read_until(b'\n', &mut self.unfinished).with_context(|| self.path.display().to_string())?;
            if self.unfinished.ends_with(b"\n") {
                self.unfinished.pop();
                return Ok(Some(std::mem::take(&mut self.unfinished)));
            }
            let here = file.get_ref().metadata()?.ino();
            match std::fs::metadata(&self.path) {
                Ok(there) if there.ino() != here => {
                    // Rotated: what was written between the look and the exchange is in the old one.
                    let more = file.read_until(b'\n', &mut self.unfinished)?;
                    if more == 0 {
                        self.file = None;
                        self.unfinished.clear();
                    }
                }
                _ => return Ok(None),
            }
        }
    }

    /// Of its directory; none where the host lets its user watch no more.
    fn watch(&self) -> Option<Watch> {
        Watcher::shared().and_then(|watcher| watcher.growth(self.path.parent().unwrap_or(&self.path))).ok()
    }

    fn print_rest(&mut self) -> Result<()> {
        while let Some(line) = self.next()? {
            self.printer.print(&line)?;
        }
        Ok(())
    }

    /// Prints the last so many lines of what is there, and goes on from there.
    fn skip_to_tail(&mut self, lines: Option<usize>) -> Result<()> {
        let Some(count) = lines else { return Ok(()) };
        let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
        // The pieces of one long line count as one.
        let mut whole = 0;
        while let Some(line) = self.next()? {
            whole += usize::from(is_whole(&line));
            kept.push_back(line);
            while whole > count {
                let first = kept.pop_front().unwrap_or_default();
                whole -= usize::from(is_whole(&first));
            }
        }
        kept.iter().try_for_each(|line| self.printer.print(line))
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// A line of a log in CRI's format: `2026-01-31T12:00:00.000000000Z stdout F text`.
struct Entry<'a> {
    time: &'a str,
    stderr: bool,
    /// Ends a line of the output.
    whole: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let whole = tags.split(|byte| *byte == b':').next()? == b"F";
    Some(Entry { time: std::str::from_utf8(time).ok()?, stderr, whole, text })
}

fn is_whole(line: &[u8]) -> bool {
    parse(line).is_none_or(|entry| entry.whole)
}

impl Printer {
    fn print(&mut self, line: &[u8]) -> Result<()> {
        // Not ours: shown as it is.
        let entry = parse(line).unwrap_or(Entry { time: "", stderr: false, whole: true, text: line });
        if let Some(since) = self.since
            && entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return Ok(());
        }
        let mut text = Vec::with_capacity(entry.text.len() + 40);
        if self.timestamps && self.at_start && !entry.time.is_empty() {
            text.extend_from_slice(entry.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(entry.text);
        if entry.whole {
            text.push(b'\n');
        }
        self.at_start = entry.whole;
        if entry.stderr {
            std::io::stderr().write_all(&text)?;
        } else {
            let mut out = std::io::stdout();
            out.write_all(&text)?;
            out.flush()?;
        }
        Ok(())
    }
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago = text.parse::<SignedDuration>().map_err(|_| format!("{text:?} is neither a time nor how long ago"))?;
    Timestamp::now().checked_sub(ago.abs()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_in_cris_format() {
        let entry = parse(b"2026-01-31T12:00:00Z stderr P:x  two spaces").unwrap();
        assert!(entry.stderr && !entry.whole);
        assert_eq!(entry.text, b" two spaces");
        assert!(parse(b"2026-01-31T12:00:00Z stdout F ").unwrap().text.is_empty());
        assert!(parse(b"hello").is_none());
    }

    #[test]
    fn the_tail_counts_whole_lines_and_a_rotated_log_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = |tag: &str, text: &str| format!("2026-01-31T12:00:00Z stdout {tag} {text}\n");
        std::fs::write(&path, [line("F", "one"), line("P", "tw"), line("F", "o"), line("F", "three")].concat())
            .unwrap();
        let mut log = Log::new(path.clone(), false, None);
        let mut kept = Vec::new();
        // As `skip_to_tail(Some(2))` leaves it.
        while let Some(line) = log.next().unwrap() {
            kept.push(line);
        }
        assert_eq!(kept.len(), 4);
        assert_eq!(kept.iter().filter(|line| is_whole(line)).count(), 3);
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        assert!(log.next().unwrap().is_none());
        std::fs::write(&path, line("F", "four")).unwrap();
        assert!(log.next().unwrap().unwrap().ends_with(b"four"));
        // Half a line is waited for.
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-31T12:00:00Z stdout F fi").unwrap();
        assert!(log.next().unwrap().is_none());
        file.write_all(b"ve\n").unwrap();
        assert!(log.next().unwrap().unwrap().ends_with(b" five"));
    }

    #[test]
    fn since() {
        let ago = parse_since("10m").unwrap();
        let seconds = Timestamp::now().duration_since(ago).as_secs();
        assert!((600..610).contains(&seconds));
        assert_eq!(parse_since("2026-01-31T12:00:00Z").unwrap().to_string(), "2026-01-31T12:00:00Z");
        assert!(parse_since("yesterday").is_err());
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
        }
    }
}
