//! A VM that stands still, to be forked: its copies have what it has translated, and all of its memory, until they write.

use std::{
    fs::{self, File},
    io::{self, IoSlice},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
    sync::Arc,
};

use hypernetes_fork::{MAX_DESCRIPTORS, Place, Places, Request};
use nix::{
    libc,
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, setsockopt, socketpair, sockopt,
    },
};
use tokio::{io::Interest, net::UnixDatagram};

use super::{filter, temporary::Temporary};
use crate::{
    cgroup::Group,
    launch::{Failure, not_kept},
    process::Process,
    words,
};

/// Of one request: it has a filter in it.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// The end that copies are asked for by.
pub struct Requests {
    /// Of messages (`SOCK_SEQPACKET`), which is as good as one of datagrams but for who is at its other end.
    socket: UnixDatagram,
    /// One question at a time.
    turn: tokio::sync::Mutex<()>,
}

/// A running VMM that is stopped for good.
pub struct Original {
    requests: Requests,
    /// Ends with this.
    vm: Temporary,
    filter: Vec<u8>,
}

/// What a copy is to be.
pub struct Copy {
    pub directory: PathBuf,
    /// Both of the user that it runs as.
    pub uid: u32,
    pub group: Group,
    /// Descriptors, with the numbers that the original has others by.
    pub descriptors: Vec<(OwnedFd, i32)>,
}

impl Requests {
    /// Both ends; the second is for the original.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        setsockopt(&ours, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
        let ours = std::os::unix::net::UnixDatagram::from(ours);
        ours.set_nonblocking(true)?;
        Ok((Self { socket: UnixDatagram::from_std(ours)?, turn: tokio::sync::Mutex::default() }, theirs))
    }

    /// Gives the copy's pid.
    async fn ask(&self, message: &[u8], descriptors: &[RawFd]) -> io::Result<u32> {
        let _turn = self.turn.lock().await;
        let send = || {
            let (parts, control) = ([IoSlice::new(message)], [ControlMessage::ScmRights(descriptors)]);
            Ok(sendmsg::<()>(self.socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None)?)
        };
        self.socket.async_io(Interest::WRITABLE, send).await?;
        let mut answer = [0; 4];
        match self.socket.recv(&mut answer).await? {
            4 => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        match i32::from_le_bytes(answer) {
            pid @ 1.. => Ok(pid.cast_unsigned()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

impl Original {
    /// Of a VM that is stopped.
    pub fn new(vm: Temporary, requests: Requests) -> io::Result<Self> {
        Ok(Self { requests, vm, filter: filter::program().map_err(io::Error::other)? })
    }

    /// Memory that it has to itself, bytes: what its copies share.
    pub fn bytes(&self) -> u64 {
        let pid = crate::Vm::record(&self.vm.0).pid;
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kib = |field: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
            line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        kib("Anonymous:") << 10
    }

    /// Ends it; its copies go on.
    pub async fn end(&self) {
        let _ = crate::Vm::kill(&self.vm.0).await;
    }

    /// Makes a copy. It is stopped, and a child of this process.
    pub async fn copy(self: &Arc<Self>, copy: Copy) -> Result<Process, Failure> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let this = self.clone();
        // To its end, even if nobody waits for it any more: a copy that nobody knows of would run for ever.
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = send.send(this.copy_here(copy).await) {
                unwanted.kill().await;
            }
        });
        receive.await.map_err(|e| e.to_string())?
    }

    async fn copy_here(&self, copy: Copy) -> Result<Process, Failure> {
        let log = words::create(&copy.directory)?;
        let mut places = vec![Place::Number(libc::STDERR_FILENO)];
        let mut descriptors: Vec<OwnedFd> = vec![log.into()];
        for (descriptor, number) in copy.descriptors {
            places.push(Place::Number(number));
            descriptors.push(descriptor);
        }
        for file in copy.group.join {
            places.push(Place::Join);
            descriptors.push(File::options().write(true).open(file)?.into());
        }
        if let Some(directory) = copy.group.directory {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            places.push(Place::Group);
            descriptors.push(File::options().read(true).custom_flags(flags).open(directory)?.into());
        }
        let places = Places::new(&places).ok_or_else(|| format!("more than {MAX_DESCRIPTORS} descriptors"))?;
        let message = Request { uid: copy.uid, gid: copy.uid, places, filter: &self.filter }.encode();
        let numbers: Vec<RawFd> = descriptors.iter().map(|descriptor| descriptor.as_fd().as_raw_fd()).collect();
        let pid = self.requests.ask(&message, &numbers).await.map_err(|e| format!("forking its original: {e}"))?;
        let process = Process::keep(pid, copy.directory.join("pid")).await.map(Process::reaped_here);
        process.map_err(|error| not_kept(&error, &copy.directory))
    }
}
