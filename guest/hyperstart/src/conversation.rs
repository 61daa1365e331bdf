//! The channel to hyperd, whichever the VMM gives, and what is said on it: gRPC, behind a preface.

use std::{
    io::{self, Read},
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use hypernetes_guest_protocol::{PORT_NAME, session, v1::agent_server::AgentServer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{port, service::Service, vsock, zygote::Zygote};

const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// How often drivers are given time to find the channel, and how much.
const LOOKS: u32 = 500;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

enum Channel {
    Port(PathBuf),
    Vsock,
}

/// Serves for ever; returns why it cannot.
pub async fn serve(zygote: Zygote) -> io::Error {
    let service = match Service::new(zygote) {
        Ok(service) => service,
        Err(error) => return error,
    };
    match find().await {
        Ok(Channel::Port(path)) => port::serve(&path, service).await,
        Ok(Channel::Vsock) => vsock::serve(service).await,
        Err(error) => error,
    }
}

async fn find() -> io::Result<Channel> {
    for _ in 0..LOOKS {
        if let Some(path) = port::find() {
            return Ok(Channel::Port(path));
        }
        if vsock::is_there() {
            return Ok(Channel::Vsock);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let what = format!("there is neither a virtio serial port named {PORT_NAME} nor a vsock device");
    Err(io::Error::new(io::ErrorKind::NotFound, what))
}

/// One HTTP/2 connection; ends when the host closes the stream or sends what is no HTTP/2.
///
/// # Errors
/// When the stream ends before anybody has begun one.
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, service: Service) -> io::Result<()> {
    let first = io::Cursor::new(session::accept(stream).await?);
    let service = AgentServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .serve_connection(TokioIo::new(Connection { first, stream }), TowerToHyperService::new(service));
    if let Err(error) = connection.await {
        eprintln!("hyperstart: the connection to hyperd ended: {error}");
    }
    Ok(())
}

/// A stream, behind the bytes that were read of the connection before it was known to be one.
struct Connection<'a, S> {
    first: io::Cursor<Vec<u8>>,
    stream: &'a mut S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.first.read(buffer.initialize_unfilled())?;
        if read > 0 {
            buffer.advance(read);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
