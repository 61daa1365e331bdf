//! The virtio serial port to hyperd: one stream for the VM's whole life, and the conversations on it, one after another.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hypernetes_guest_protocol::PORT_NAME;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

use crate::{conversation::converse, service::Service};

/// How often a port is looked at that nobody has opened on the host. There is no event for that. It happens at the start
/// (of a copied VM, too) and when hyperd has ended: often at first, when somebody is about to come.
const NOBODY_YET: Duration = Duration::from_millis(4);
const NOBODY_THERE: Duration = Duration::from_millis(50);
/// So many looks are made in the shorter interval.
const EAGER_LOOKS: u32 = 500;

/// Serves for ever; returns why it cannot.
pub async fn serve(path: &Path, service: Service) -> io::Error {
    loop {
        // Opened anew for each conversation: that the host's end was closed once stays with the descriptor, for tokio.
        let mut port = match Port::open(path).await {
            Ok(port) => port,
            Err(error) => return error,
        };
        match converse(&mut port, service.clone()).await {
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {}
            Err(error) => return error,
            Ok(()) => {}
        }
    }
}

/// `/dev/vport…` by the name that the host gave it; none: there is none yet.
pub fn find() -> Option<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    let named = |port: &std::fs::DirEntry| {
        std::fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
    };
    ports.flatten().find(named).map(|port| PathBuf::from("/dev").join(port.file_name()))
}

/// tokio says of a descriptor whose other end was closed once that it is ready, for ever; but the host may have come back
/// meanwhile, and then there is nothing to read and no room to write. Tried again and again that would leave no time for
/// anything else. So it counts as the end, and the port is opened anew.
struct Port(AsyncFd<File>);

impl Port {
    /// Waits until somebody has it open on the host, too, and has begun to speak: a conversation must not begin on a
    /// descriptor that tokio was told of before.
    ///
    /// QEMU does not look at what the host sends while the port is closed in the guest, and looks again only when its main
    /// loop turns, which the port's opening is no reason for. The loop of a guest that is at rest may not turn for hours. A
    /// timer that runs out in the guest turns it: so the port is looked at until the first words have come.
    async fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        let mut looks = Looks::default();
        while nobody_there(&file)? {
            tokio::time::sleep(looks.pause()).await;
        }
        let port =
            Self(crate::descriptor::watched(file, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)?);
        while tokio::time::timeout(looks.pause(), port.0.readable()).await.is_err() {}
        Ok(port)
    }
}

/// How often a port was looked at.
#[derive(Default)]
struct Looks(u32);

impl Looks {
    /// How long it is until the next one.
    fn pause(&mut self) -> Duration {
        self.0 = (self.0 + 1).min(EAGER_LOOKS);
        if self.0 < EAGER_LOOKS { NOBODY_YET } else { NOBODY_THERE }
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
