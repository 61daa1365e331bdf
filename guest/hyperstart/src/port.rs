//! The virtio serial port to hyperd, and the gRPC connections on it, one after another.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

use crate::service::Service;

/// How often a port is looked at that nobody has opened on the host. There is no event for that. It happens at the start
/// (of a copied VM, too) and when hyperd has ended: often at first, when somebody is about to come.
const NOBODY_YET: Duration = Duration::from_millis(4);
const NOBODY_THERE: Duration = Duration::from_millis(50);
/// So many looks are made in the shorter interval.
const EAGER_LOOKS: u32 = 500;
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Serves for ever; returns why it cannot.
pub async fn serve() -> io::Error {
    let service = match Service::new() {
        Ok(service) => service,
        Err(error) => return error,
    };
    let path = match find().await {
        Ok(path) => path,
        Err(error) => return error,
    };
    let mut looks = 0;
    loop {
        // Opened anew for each conversation: that the host's end was closed once stays with the descriptor, for tokio.
        let mut port = match Port::open(&path) {
            Ok(port) => port,
            Err(error) => return error,
        };
        match session::accept(&mut port).await {
            Ok(first) => {
                looks = 0;
                let connection = Connection { first: io::Cursor::new(first), port: &mut port };
                converse(connection, service.clone()).await;
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                drop(port);
                looks = (looks + 1).min(EAGER_LOOKS);
                tokio::time::sleep(if looks < EAGER_LOOKS { NOBODY_YET } else { NOBODY_THERE }).await;
            }
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

struct Port(AsyncFd<File>);

impl Port {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        Ok(Self(crate::output::watched(file, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)?))
    }
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            match ready.try_io(|file| file.get_ref().read(buffer.initialize_unfilled())) {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = ready.try_io(|file| file.get_ref().write(buffer)) {
                return Poll::Ready(result);
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
