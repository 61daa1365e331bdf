//! Where log lines go: to standard error, and nowhere when that cannot be written to.
//!
//! Roles log to files, and a disk gets full: what cannot be written is counted, and the count is the first line that can
//! be written again.

use std::{
    fmt,
    io::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use tracing_subscriber::fmt::MakeWriter;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that this process could not write.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes a line to standard error, or counts it. Never fails, and never panics as `eprintln!` does.
pub fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(Lossy(io::stderr()), "{text}");
}

/// Makes a [`Lossy`] standard error for each line.
pub(crate) struct ToStandardError;

impl MakeWriter<'_> for ToStandardError {
    type Writer = Lossy<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        Lossy(io::stderr())
    }
}

/// A writer to which every write succeeds. A line is one write.
pub(crate) struct Lossy<W>(pub W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dropped = dropped();
        let written = if dropped == 0 {
            self.0.write_all(line)
        } else {
            let first = format!("{dropped} log lines could not be written\n");
            self.0.write_all(first.as_bytes()).and_then(|()| {
                DROPPED.fetch_sub(dropped, Ordering::Relaxed);
                self.0.write_all(line)
            })
        };
        if written.is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Disk {
        full: bool,
        text: Vec<u8>,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full { Err(io::ErrorKind::StorageFull.into()) } else { self.text.write(bytes) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_later() {
        let mut disk = Disk { full: false, text: Vec::new() };
        let mut log = |full: bool, line: &str| {
            disk.full = full;
            Lossy(&mut disk).write_all(line.as_bytes()).unwrap();
            String::from_utf8_lossy(&disk.text).into_owned()
        };
        assert_eq!(log(false, "one\n"), "one\n");
        log(true, "two\n");
        assert_eq!(log(true, "three\n"), "one\n");
        assert_eq!(dropped(), 2);
        assert_eq!(log(false, "four\n"), "one\n2 log lines could not be written\nfour\n");
        assert_eq!(dropped(), 0);
    }
}
