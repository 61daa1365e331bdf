//! Reading CRI logs: `<time> <stdout|stderr> <P|F> <text>`.

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader},
    sync::mpsc,
    time::Duration,
};

/// How often a followed log is looked at for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
const MAX_LINE: u64 = 1 << 20;

/// `PodLogOptions`, what of them is known.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub follow: bool,
    pub tail: Option<usize>,
    pub timestamps: bool,
    pub since: Option<jiff::Timestamp>,
    pub limit_bytes: Option<usize>,
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

/// Sends a log's lines until its end; while `running` says so, a followed log has none.
pub async fn send<F: Future<Output = bool> + Send>(
    log: std::fs::File,
    options: Options,
    running: impl Fn() -> F,
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> std::io::Result<()> {
    let mut file = BufReader::new(tokio::fs::File::from_std(log));
    if let Some(tail) = options.tail {
        let start = tail_offset(&mut file, tail).await?;
        file.seek(std::io::SeekFrom::Start(start)).await?;
    }
    let (mut left, mut fresh) = (options.limit_bytes.unwrap_or(usize::MAX), true);
    let mut line = Vec::new();
    let mut last_look = false;
    loop {
        let read = (&mut file).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if read == 0 || line.last() != Some(&b'\n') {
            if !options.follow || last_look {
                return Ok(());
            }
            // What was written before it ended is read once more.
            last_look = !running().await;
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_EVERY) => continue,
                () = sender.closed() => return Ok(()),
            }
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
async fn tail_offset(file: &mut BufReader<tokio::fs::File>, count: usize) -> std::io::Result<u64> {
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
    use super::*;

    async fn read(options: Options) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let log = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F \n2026-01-01T00:00:03Z stdout F four\n";
        std::fs::write(&path, log).unwrap();
        let (sender, mut receiver) = mpsc::channel(100);
        send(std::fs::File::open(path).unwrap(), options, || async { false }, sender).await.unwrap();
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
        assert_eq!(read(Options { follow: true, tail: Some(1), ..Default::default() }).await, "four\n");
    }
}
