//! A stream whose other end has to read what is written to it, and which lets others have their turn meanwhile.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// So much is written before others have a turn: what the kernel has room for takes milliseconds to encrypt.
const AT_ONCE: usize = 128 << 10;

/// Fails with `TimedOut` when nothing could be written for as long as the patience lasts.
pub(crate) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Written since others had a turn.
    written: usize,
}

impl<S> Patient<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None, written: 0 }
    }

    /// Pending: others are to have a turn.
    fn turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.written < AT_ONCE {
            return Poll::Ready(());
        }
        self.written = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn count(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => self.written += bytes,
            // They have theirs now.
            _ => self.written = 0,
        }
    }

    fn or_late<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        waiting.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.turn(cx));
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(&written);
        self.or_late(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.turn(cx));
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.count(&written);
        self.or_late(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.or_late(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_not_written_to_for_ever() {
        let (near, _far) = tokio::io::duplex(16);
        let error = Patient::new(near, Duration::from_secs(300)).write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn others_have_a_turn_though_there_is_room() {
        let (near, _far) = tokio::io::duplex(1 << 20);
        let (mut near, text) = (Patient::new(near, Duration::from_secs(300)), vec![0; 16 << 10]);
        let mut turns = 0;
        for _ in 0..32 {
            while futures::poll!(std::pin::pin!(near.write(&text))).is_pending() {
                turns += 1;
            }
        }
        assert_eq!(turns, 3, "in half a MiB");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_gets_everything() {
        let (near, mut far) = tokio::io::duplex(16);
        let reader = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(299)).await;
                tokio::io::AsyncReadExt::read_exact(&mut far, &mut [0; 10]).await.unwrap();
            }
        });
        Patient::new(near, Duration::from_secs(300)).write_all(&[0; 100]).await.unwrap();
        reader.await.unwrap();
    }
}
