//! Descriptors whose readiness is waited for: any, and those whose other side is a process's.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::aside::aside;

/// A descriptor that tokio tells the readiness of.
pub fn watched<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[allow(unsafe_code)]
    // SAFETY: callers hand over owners of one descriptor (`OwnedFd`, `File`), which neither close it nor change it
    // before they are dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// This side of a pipe or terminal whose other side is a process's.
///
/// Whoever reads, writes or closes a pipe takes its lock, `O_NONBLOCK` or not, and a process may hold that for as long as it
/// likes: while it fills the pipe from a socket or from a path of the host (splice(2), sendfile(2)). So each is done aside;
/// only readiness, which needs no lock, is waited for on the agent's thread.
pub struct ProcessEnd(Option<Arc<AsyncFd<OwnedFd>>>);

impl ProcessEnd {
    /// To be called in the runtime.
    pub fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self(Some(Arc::new(watched(fd, interest)?))))
    }

    /// Reads at most as much as the buffer is long; 0 at the end.
    pub async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let Some(fd) = &self.0 else { return Ok(0) };
        loop {
            let mut ready = fd.readable().await?;
            let (from, mut space) = (fd.clone(), std::mem::take(buffer));
            let read = aside(move || {
                let read = nix::unistd::read(from.get_ref().as_fd(), &mut space);
                (space, read)
            });
            let (space, read) = read.await.map_err(io::Error::other)?;
            *buffer = space;
            match read {
                Err(nix::Error::EAGAIN) => ready.clear_ready(),
                other => return Ok(other?),
            }
        }
    }

    /// Writes all, as fast as it is read.
    pub async fn write_all(&self, mut data: bytes::Bytes) -> io::Result<()> {
        let Some(fd) = &self.0 else { return Err(io::ErrorKind::BrokenPipe.into()) };
        while !data.is_empty() {
            let mut ready = fd.writable().await?;
            let (to, part) = (fd.clone(), data.clone());
            let written =
                aside(move || nix::unistd::write(to.get_ref().as_fd(), &part)).await.map_err(io::Error::other)?;
            match written {
                Err(nix::Error::EAGAIN) => ready.clear_ready(),
                other => drop(data.split_to(other?)),
            }
        }
        Ok(())
    }
}

impl Drop for ProcessEnd {
    fn drop(&mut self) {
        let fd = self.0.take();
        tokio::task::spawn_blocking(move || drop(fd));
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsRawFd, os::unix::net::UnixStream, time::Duration};

    use nix::libc;

    use super::*;

    /// Waits for five bytes of `from` with the lock of the pipe `to`.
    fn splice(from: &impl AsFd, to: &impl AsFd) -> isize {
        let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
        #[allow(unsafe_code)]
        // SAFETY: both descriptors are open, and the call has no other pointers than two that are null.
        unsafe {
            libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), 5, 0)
        }
    }

    /// The pipe's lock is held by who splices from a socket that nothing comes from.
    #[tokio::test]
    async fn a_process_that_holds_a_pipes_lock_stops_nothing_else() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let (socket, mut silent) = UnixStream::pair().unwrap();
        silent.write_all(b"first").unwrap();
        let (says, first) = std::sync::mpsc::channel();
        let splices = std::thread::spawn(move || {
            let mut moved = vec![splice(&socket, &write)];
            says.send(nix::unistd::gettid()).unwrap();
            while moved.last() != Some(&0) {
                moved.push(splice(&socket, &write));
            }
            moved
        });
        // What it does next is to wait for the socket.
        let status = format!("/proc/self/task/{}/status", first.recv().unwrap());
        while !std::fs::read_to_string(&status).unwrap().contains("State:\tS") {
            std::thread::yield_now();
        }
        let end = ProcessEnd::new(read, Interest::READABLE).unwrap();
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 100];
            let mut all: Vec<u8> = Vec::new();
            loop {
                match end.read(&mut buffer).await.unwrap() {
                    0 => return all,
                    read => all.extend(&buffer[..read]),
                }
            }
        });
        // This thread goes on, whoever waits for the lock.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        silent.write_all(b"later").unwrap();
        drop(silent);
        assert_eq!(reading.await.unwrap(), b"firstlater");
        assert_eq!(splices.join().unwrap(), [5, 5, 0]);
    }
}
