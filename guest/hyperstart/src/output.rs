//! Output of a process, kept until hyperd has acknowledged it, so that a hyperd that was killed loses none.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{io::Interest, sync::Notify};

use crate::descriptor::ProcessEnd;

/// Bytes of one stream that are kept unacknowledged. A process that writes more waits, as on any full pipe.
const CAPACITY: usize = 256 << 10;
const READ: usize = 32 << 10;

/// One stream of a process.
#[derive(Default)]
pub struct Stream {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    kept: VecDeque<u8>,
    /// Offset of the first kept byte.
    start: u64,
    ended: bool,
}

/// A part of a stream.
pub struct Part {
    pub offset: u64,
    pub data: Vec<u8>,
    pub end: bool,
}

impl Stream {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What follows an offset; waits until there is something, or the end.
    pub async fn next(&self, offset: u64, most: usize) -> Part {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state();
                // What was acknowledged is gone; a client that asks for it gets what follows it.
                let offset = offset.max(state.start);
                let skip = usize::try_from(offset - state.start).unwrap_or(usize::MAX).min(state.kept.len());
                let data: Vec<u8> = state.kept.range(skip..).take(most).copied().collect();
                let end = state.ended && skip + data.len() == state.kept.len();
                if !data.is_empty() || end {
                    return Part { offset, data, end };
                }
            }
            changed.await;
        }
    }

    /// Everything before the offset may be forgotten.
    pub fn acknowledge(&self, offset: u64) {
        let mut state = self.state();
        let count = usize::try_from(offset.saturating_sub(state.start)).unwrap_or(usize::MAX).min(state.kept.len());
        state.kept.drain(..count);
        state.start += count as u64;
        drop(state);
        self.changed.notify_waiters();
    }

    fn put(&self, data: &[u8]) {
        self.state().kept.extend(data);
        self.changed.notify_waiters();
    }

    fn end(&self) {
        self.state().ended = true;
        self.changed.notify_waiters();
    }

    async fn room(&self) -> usize {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let room = CAPACITY.saturating_sub(self.state().kept.len());
            if room > 0 {
                return room.min(READ);
            }
            changed.await;
        }
    }

    /// Reads a pipe or terminal into the stream until it ends.
    pub fn fill_from(self: &Arc<Self>, source: OwnedFd) {
        let stream = self.clone();
        tokio::spawn(async move {
            if let Err(error) = stream.copy(source).await
                // What a terminal says when its last user is gone.
                && error.raw_os_error() != Some(nix::libc::EIO)
            {
                eprintln!("hyperstart: reading output: {error}");
            }
            stream.end();
        });
    }

    async fn copy(&self, source: OwnedFd) -> io::Result<()> {
        let source = ProcessEnd::new(source, Interest::READABLE)?;
        let mut buffer = vec![0; READ];
        loop {
            buffer.resize(self.room().await, 0);
            match source.read(&mut buffer).await? {
                0 => return Ok(()),
                read => self.put(&buffer[..read]),
            }
        }
    }

    /// A process that was never started has no output.
    pub fn ended() -> Arc<Self> {
        let stream = Arc::new(Self::default());
        stream.end();
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_acknowledged_can_be_read_again() {
        let stream = Arc::new(Stream::default());
        stream.put(b"hello world");
        assert_eq!(stream.next(0, 5).await.data, b"hello");
        assert_eq!(stream.next(0, 100).await.data, b"hello world");
        stream.acknowledge(6);
        let part = stream.next(0, 100).await;
        assert_eq!((part.offset, part.data.as_slice()), (6, &b"world"[..]));
        stream.end();
        assert!(stream.next(11, 100).await.end);
    }

    #[tokio::test]
    async fn a_process_waits_when_nobody_reads() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let stream = Arc::new(Stream::default());
        stream.fill_from(read);
        let writer = std::thread::spawn(move || {
            let mut total = 0;
            while total < 2 * CAPACITY {
                total += nix::unistd::write(&write, &[b'x'; 4096]).unwrap();
            }
        });
        let mut offset = 0;
        loop {
            let part = stream.next(offset, 10_000).await;
            assert_eq!(part.offset, offset);
            assert!(stream.state().kept.len() <= CAPACITY);
            offset += part.data.len() as u64;
            stream.acknowledge(offset);
            if part.end {
                break;
            }
        }
        writer.join().unwrap();
        assert_eq!(offset as usize, 2 * CAPACITY);
    }
}
