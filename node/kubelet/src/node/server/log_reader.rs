//! Reading CRI logs: `<time> <stdout|stderr> <P|F> <text>`.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
};

use bytes::Bytes;
use hypernetes_api::{DnsLabel, PathComponent};
use hypernetes_watch::{Watch, Watcher};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader},
    sync::{broadcast, mpsc},
    time::Duration,
};

use crate::pod_dir::{Place, PodDir};

/// Whoever follows a log is woken by what happens to it. Should nobody tell, it is looked at after this time.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(5);
const MAX_LINE: u64 = 1 << 20;

/// `PodLogOptions`, what of them is known.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub tail: Option<usize>,
    pub timestamps: bool,
    pub since: Option<jiff::Timestamp>,
    pub limit_bytes: Option<usize>,
}

/// Where a container's log is: beneath its pod's directory of logs.
pub struct LogPlace {
    pub logs: PodDir,
    /// The container's.
    pub directory: DnsLabel,
    pub name: PathComponent,
}

impl LogPlace {
    /// # Errors
    /// As the system says; `NotFound` when it is gone.
    pub fn open(&self) -> io::Result<File> {
        self.logs.open(&Place::of(self.directory.clone()).then(self.name.clone())).map(File::from)
    }

    /// # Errors
    /// When the host lets its user watch no more.
    pub fn watch(&self) -> io::Result<Watch> {
        let directory = self.logs.open(&Place::of(self.directory.clone()))?;
        Watcher::shared()?.growth(format!("/proc/self/fd/{}", directory.as_raw_fd()).as_ref())
    }
}

/// How a log is followed, which goes on while `running` says so.
pub struct Follow<R, O> {
    pub running: R,
    /// Opens what is in the log's place now: a log that grows large is put aside.
    pub reopen: O,
    /// Of the log's directory; none where the host lets its user watch no more.
    pub changes: Option<Watch>,
    /// Ids of containers that something has happened to.
    pub events: broadcast::Receiver<String>,
    /// The log's container.
    pub id: String,
}

struct Line<'a> {
    time: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    parts.next()?;
    let tag = parts.next()?;
    Some(Line { time, partial: tag.starts_with(b"P"), text: parts.next().unwrap_or_default() })
}

impl<R: AsyncFn() -> bool, O: Fn() -> Option<File>> Follow<R, O> {
    /// The file that has been put in the place of this one.
    async fn replacement(&self, file: &tokio::fs::File) -> io::Result<Option<File>> {
        let Some(there) = (self.reopen)() else { return Ok(None) };
        let (here, new) = (file.metadata().await?, there.metadata()?);
        Ok(((here.dev(), here.ino()) != (new.dev(), new.ino())).then_some(there))
    }

    async fn woken(&mut self) {
        let its_own = async {
            loop {
                match self.events.recv().await {
                    Ok(id) if id != self.id => {}
                    // Nobody knows whose those were that have been missed.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let changed = async {
            match &mut self.changes {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = its_own => {}
            () = tokio::time::sleep(LOOK_AT_LEAST_EVERY) => {}
        }
    }
}

/// Sends a log's lines until its end; one that is followed has none while its container runs.
pub async fn send<R: AsyncFn() -> bool, O: Fn() -> Option<File>>(
    log: File,
    options: Options,
    mut follow: Option<Follow<R, O>>,
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
) -> io::Result<()> {
    let mut file = BufReader::new(tokio::fs::File::from_std(log));
    if let Some(tail) = options.tail {
        let start = tail_offset(&mut file, tail).await?;
        file.seek(std::io::SeekFrom::Start(start)).await?;
    }
    let (mut left, mut fresh) = (options.limit_bytes.unwrap_or(usize::MAX), true);
    let mut line = Vec::new();
    let (mut last_look, mut replacement) = (false, None);
    loop {
        let read = (&mut file).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if read == 0 || line.last() != Some(&b'\n') {
            let Some(follow) = &mut follow else { return Ok(()) };
            // What was written before the exchange has been read with the look after it.
            if let Some(new) = replacement.take() {
                file = BufReader::new(tokio::fs::File::from_std(new));
                line.clear();
                continue;
            }
            replacement = follow.replacement(file.get_ref()).await?;
            if replacement.is_some() {
                continue;
            }
            if last_look {
                return Ok(());
            }
            // What was written before it ended is read once more.
            last_look = !(follow.running)().await;
            if !last_look {
                tokio::select! {
                    () = follow.woken() => {}
                    () = sender.closed() => return Ok(()),
                }
            }
            continue;
        }
        line.pop();
        if let Some(parsed) = parse(&line) {
            let early =
                options.since.is_some_and(|since| parsed.time.parse::<jiff::Timestamp>().is_ok_and(|at| at < since));
            if !early {
                let mut out = Vec::with_capacity(parsed.text.len() + 40);
                if options.timestamps && fresh {
                    out.extend(parsed.time.as_bytes());
                    out.push(b' ');
                }
                out.extend(parsed.text);
                if !parsed.partial {
                    out.push(b'\n');
                }
                fresh = !parsed.partial;
                out.truncate(left);
                left -= out.len();
                if sender.send(Ok(out.into())).await.is_err() || left == 0 {
                    return Ok(());
                }
            }
        }
        line.clear();
    }
}

/// Where the last `count` lines begin.
async fn tail_offset(file: &mut BufReader<tokio::fs::File>, count: usize) -> io::Result<u64> {
    let mut starts = std::collections::VecDeque::new();
    let (mut offset, mut line, mut fresh) = (0, Vec::new(), true);
    loop {
        line.clear();
        let read = file.read_until(b'\n', &mut line).await?;
        if read == 0 {
            break;
        }
        if fresh {
            starts.push_back(offset);
            if starts.len() > count {
                starts.pop_front();
            }
        }
        fresh = !parse(&line).is_some_and(|line| line.partial);
        offset += read as u64;
    }
    Ok(if count == 0 { offset } else { starts.front().copied().unwrap_or(0) })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a log is written as the runtime does")]
mod tests {
    use std::{
        fs::OpenOptions,
        io::Write,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F \n2026-01-01T00:00:03Z stdout F four\n";

    /// Nobody follows.
    type Nobody = Follow<fn() -> std::future::Ready<bool>, fn() -> Option<File>>;

    async fn read(options: Options) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(100);
        send(File::open(path).unwrap(), options, None::<Nobody>, sender).await.unwrap();
        let mut text = String::new();
        while let Some(part) = receiver.recv().await {
            text.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
        }
        text
    }

    #[tokio::test]
    async fn logs_are_read_as_asked() {
        assert_eq!(read(Options::default()).await, "one\ntwo\n\nfour\n");
        assert_eq!(read(Options { tail: Some(2), ..Default::default() }).await, "\nfour\n");
        assert_eq!(read(Options { tail: Some(3), ..Default::default() }).await, "two\n\nfour\n");
        assert_eq!(read(Options { tail: Some(0), ..Default::default() }).await, "");
        assert_eq!(read(Options { limit_bytes: Some(5), ..Default::default() }).await, "one\nt");
        let since = "2026-01-01T00:00:02Z".parse().ok();
        assert_eq!(
            read(Options { since, timestamps: true, ..Default::default() }).await,
            "2026-01-01T00:00:02Z \n2026-01-01T00:00:03Z four\n"
        );
    }

    #[tokio::test]
    async fn a_log_is_followed_over_its_rotation_until_its_container_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let running = Arc::new(AtomicBool::new(true));
        let (events, received) = broadcast::channel(1);
        let (asked, place) = (running.clone(), path.clone());
        let follow = Follow {
            running: async move || asked.load(Ordering::Relaxed),
            reopen: move || File::open(&place).ok(),
            changes: Some(Watcher::shared().unwrap().growth(directory.path()).unwrap()),
            events: received,
            id: "c".into(),
        };
        let (sender, mut receiver) = mpsc::channel(1);
        let options = Options { tail: Some(1), ..Default::default() };
        let file = File::open(&path).unwrap();
        let followed = tokio::spawn(async move { send(file, options, Some(follow), sender).await });
        let mut next = async || receiver.recv().await.map(|part| String::from_utf8(part.unwrap().into()).unwrap());
        assert_eq!(next().await.as_deref(), Some("four\n"));
        let line = |text: &str| format!("2026-01-01T00:00:04Z stdout F {text}\n");
        let mut log = OpenOptions::new().append(true).open(&path).unwrap();
        log.write_all(line("five").as_bytes()).unwrap();
        assert_eq!(next().await.as_deref(), Some("five\n"));
        // Put aside while something is still written to it.
        std::fs::rename(&path, directory.path().join("0.log.1")).unwrap();
        log.write_all(line("six").as_bytes()).unwrap();
        std::fs::write(&path, line("seven")).unwrap();
        assert_eq!((next().await.as_deref(), next().await.as_deref()), (Some("six\n"), Some("seven\n")));
        running.store(false, Ordering::Relaxed);
        for id in ["another", "c"] {
            events.send(id.into()).unwrap();
        }
        assert_eq!(next().await, None);
        followed.await.unwrap().unwrap();
    }
}
