//! TCP segments as they arrive in a network namespace.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, setsockopt, socket,
        sockopt::{ReceiveTimeout, ReuseAddr, SendTimeout},
    },
    time::TimeVal,
};

/// Does something in a network namespace.
pub fn inside<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(netns).unwrap();
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// Every TCP segment that is for this host.
pub struct Capture(OwnedFd);

/// Of a segment, what tells secrets.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub from_port: u16,
    pub to_port: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub syn: bool,
}

impl Capture {
    pub fn start() -> Self {
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).unwrap();
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
        Self(socket)
    }

    /// The next segment that begins a connection and that is the one.
    pub fn syn(&self, is: impl Fn(&Segment) -> bool) -> Segment {
        let mut bytes = [0; 2048];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()).expect("a segment arrives");
            let header = usize::from(bytes[0] & 15) * 4;
            let tcp = &bytes[header..length];
            let short = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
            let long = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
            let segment = Segment {
                from_port: short(0),
                to_port: short(2),
                sequence: long(4),
                acknowledged: long(8),
                syn: tcp[13] & 2 != 0,
            };
            if segment.syn && is(&segment) {
                return segment;
            }
        }
    }
}

/// Opens a connection from a port, and gives what the other side's answer was.
pub fn connect(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<Segment> {
    let capture = Capture::start();
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    setsockopt(&socket, SendTimeout, &TimeVal::new(10, 0))?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(from))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(capture.syn(|segment| segment.from_port == to.port() && segment.to_port == from.port()))
}
