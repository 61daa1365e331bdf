//! A connection whose socket is waited for where its work is done.
//!
//! A socket is told ready to the runtime that it is registered with, whose thread would be woken only to wake the other's
//! (`fairness::background`): twice the switches, and a flood would have the threads of everybody's work turn for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::fairness::background;

/// Whoever polls it after it has moved polls for all that was waited for before: a task that goes on elsewhere does.
pub(crate) struct Roaming {
    /// None: it could not be moved, and is broken.
    stream: Option<TcpStream>,
    behind: bool,
}

impl Roaming {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream), behind: background::is_behind() }
    }

    /// The stream, registered here.
    fn here(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let behind = background::is_behind();
        if behind != self.behind {
            let moved = self.stream.take().map(|stream| TcpStream::from_std(stream.into_std()?));
            self.stream = moved.transpose()?;
            self.behind = behind;
        }
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Roaming {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Roaming {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.here()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    struct Test(Arc<AtomicBool>);

    impl background::Debtor for Test {
        fn gives_way(&self, _: bool) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn it_is_read_wherever_the_work_is_done() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut far = Roaming::new(listener.accept().await.unwrap().0);
        let behind = Arc::new(AtomicBool::new(false));
        background::spawn(Test(behind.clone()), async move {
            let mut byte = [0];
            while far.read_exact(&mut byte).await.is_ok() {
                // Where it is by now: it moves between two steps.
                tokio::task::yield_now().await;
                let answer = [byte[0], u8::from(background::is_behind()), u8::from(far.behind)];
                far.write_all(&answer).await.unwrap();
            }
        });
        let mut answer = [0; 3];
        for (i, place) in [false, true, true, false, true].into_iter().enumerate() {
            behind.store(place, Ordering::Relaxed);
            near.write_all(&[i as u8]).await.unwrap();
            near.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[..2], [i as u8, u8::from(place)]);
        }
        // It was moved with the work, by what was written there.
        near.write_all(&[9]).await.unwrap();
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [9, 1, 1]);
    }
}
