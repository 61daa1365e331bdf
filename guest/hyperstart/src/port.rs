//! The virtio serial port to hyperd, and the gRPC connections on it, one after another.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use hypernetes_guest_protocol::{PORT_NAME, session, v1::agent_server::AgentServer};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

use crate::{service::Service, zygote::Zygote};

/// How often a port is looked at that nobody has opened on the host. There is no event for that. It happens at the start
/// (of a copied VM, too) and when hyperd has ended: often at first, when somebody is about to come.
const NOBODY_YET: Duration = Duration::from_millis(4);
const NOBODY_THERE: Duration = Duration::from_millis(50);
/// So many looks are made in the shorter interval.
const EAGER_LOOKS: u32 = 500;
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Serves for ever; returns why it cannot.
pub async fn serve(zygote: Zygote) -> io::Error {
    let service = match Service::new(zygote) {
        Ok(service) => service,
        Err(error) => return error,
    };
    let path = match find().await {
        Ok(path) => path,
        Err(error) => return error,
    };
    loop {
        // Opened anew for each conversation: that the host's end was closed once stays with the descriptor, for tokio.
        let mut port = match Port::open(&path).await {
            Ok(port) => port,
            Err(error) => return error,
        };
        match session::accept(&mut port).await {
            Ok(first) => {
                let connection = Connection { first: io::Cursor::new(first), port: &mut port };
                converse(connection, service.clone()).await;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {}
            Err(error) => return error,
        }
    }
}

/// One HTTP/2 connection; ends when the host closes the port or sends what is no HTTP/2.
async fn converse(connection: Connection<'_>, service: Service) {
    let service = AgentServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
    if let Err(error) = connection.await {
        eprintln!("hyperstart: the connection to hyperd ended: {error}");
    }
}

/// `/dev/vport…` by the name that the host gave it; waits for the driver to find it.
async fn find() -> io::Result<PathBuf> {
    for _ in 0..500 {
        if let Ok(ports) = std::fs::read_dir("/sys/class/virtio-ports") {
            for port in ports.flatten() {
                let name = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
                if name.trim() == PORT_NAME {
                    return Ok(PathBuf::from("/dev").join(port.file_name()));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no virtio serial port named {PORT_NAME}")))
}

/// tokio says of a descriptor whose other end was closed once that it is ready, for ever; but the host may have come back
/// meanwhile, and then there is nothing to read and no room to write. Tried again and again that would leave no time for
/// anything else. So it counts as the end, and the port is opened anew.
struct Port(AsyncFd<File>);

impl Port {
    /// Waits until somebody has it open on the host, too: a conversation must not begin on a descriptor that tokio was
    /// told of before.
    async fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        let mut looks = 0;
        while nobody_there(&file)? {
            looks = (looks + 1).min(EAGER_LOOKS);
            tokio::time::sleep(if looks < EAGER_LOOKS { NOBODY_YET } else { NOBODY_THERE }).await;
        }
        Ok(Self(crate::output::watched(file, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)?))
    }
}

fn nobody_there(port: &File) -> io::Result<bool> {
    let mut state = [PollFd::new(port.as_fd(), PollFlags::empty())];
    poll(&mut state, PollTimeout::ZERO)?;
    Ok(state[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let closed = ready.ready().is_read_closed();
            match ready.try_io(|file| file.get_ref().read(buffer.initialize_unfilled())) {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) if closed => return Poll::Ready(Ok(())),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            let closed = ready.ready().is_write_closed();
            match ready.try_io(|file| file.get_ref().write(buffer)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) if closed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The port, behind the bytes that were read of the connection before it was known to be one.
struct Connection<'a> {
    first: io::Cursor<Vec<u8>>,
    port: &'a mut Port,
}

impl AsyncRead for Connection<'_> {
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
        Pin::new(&mut *self.port).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.port).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.port).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.port).poll_shutdown(context)
    }
}
