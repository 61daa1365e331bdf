//! The thread that takes requests, and the copying.

use std::{
    ffi::{c_int, c_void},
    ptr,
};

use super::{
    become_copy::become_copy,
    clone::fork,
    descriptors::Descriptors,
    request::{MAX_BYTES, MAX_DESCRIPTORS, Place, Request},
    system::{self, Errno, Result, syscall},
    threads::{self, Parked},
};

#[derive(Debug)]
pub enum ServeError {
    /// `/proc/self` cannot be opened.
    Proc(std::io::Error),
    Signal(Errno),
    Thread(std::io::Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Proc(error) => write!(f, "opening /proc/self: {error}"),
            Self::Signal(Errno(number)) => write!(f, "installing a signal's handler: error {number}"),
            Self::Thread(error) => write!(f, "starting a thread: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// What the serving thread knows.
#[derive(Clone, Copy)]
struct Server {
    /// A socket of messages: [`Request`]s come, pids go. When its other end is gone, this process ends.
    requests: c_int,
    /// `/proc/self`, open: later there may be no `/proc`.
    process: c_int,
}

/// Begins to serve requests that come by that descriptor, by a thread of its own. It does not return before it is ready.
pub fn serve(requests: c_int) -> std::result::Result<(), ServeError> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a path that ends with a zero.
    let process = unsafe { libc::open(c"/proc/self".as_ptr(), flags) };
    if process < 0 {
        return Err(ServeError::Proc(std::io::Error::last_os_error()));
    }
    threads::prepare().map_err(ServeError::Signal)?;
    // Signals are for the program's threads: this one must not be stopped in what it does.
    // SAFETY: the sets are valid, and the old one is restored for this thread.
    let spawned = unsafe {
        let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        let server = Server { requests, process };
        let spawned = std::thread::Builder::new().name("fork".into()).spawn(move || server.run());
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, ptr::null_mut());
        spawned
    };
    spawned.map(drop).map_err(ServeError::Thread)
}

impl Server {
    fn run(self) {
        // From here on nothing is allocated. The buffer is too large for this thread's stack to be touched for nothing.
        let mut buffer = [0u8; MAX_BYTES];
        loop {
            let mut received = [-1; MAX_DESCRIPTORS];
            let (length, count) = match receive(self.requests, &mut buffer, &mut received) {
                Ok((0, _)) => system::exit(0),
                Ok(read) => read,
                Err(Errno(libc::EINTR)) => continue,
                Err(_) => system::exit(1),
            };
            let received = received.get(..count).unwrap_or_default();
            let answer = match Request::decode(buffer.get(..length).unwrap_or_default()) {
                Ok(request) if request.places.as_slice().len() == count => self.copy(&request, received),
                _ => Err(Errno(libc::EBADMSG)),
            };
            received.iter().copied().for_each(system::close);
            let answer: i32 = answer.unwrap_or_else(|Errno(number)| -number);
            // Who asked may be gone; then the next read says so.
            let _ = system::write(self.requests, &answer.to_le_bytes());
        }
    }

    /// Gives the copy's pid.
    fn copy(self, request: &Request<'_>, received: &[c_int]) -> Result<i32> {
        let descriptors = Descriptors::of(self.process)?;
        let parked = Parked::all(self.process)?;
        let group = request.places.as_slice().iter().zip(received).find(|(place, _)| **place == Place::Group);
        match fork(group.map(|(_, descriptor)| *descriptor))? {
            0 => {
                let own = [self.requests, self.process];
                // SAFETY: this is the copy, with one thread.
                unsafe { become_copy(request, received, &own, &descriptors, parked) }
            }
            pid => Ok(pid),
        }
    }
}

/// One message, and what came with it: lengths of both.
fn receive(socket: c_int, buffer: &mut [u8], descriptors: &mut [c_int; MAX_DESCRIPTORS]) -> Result<(usize, usize)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; 32];
    // SAFETY: a header of zeros is one with nothing; it is given one part and one buffer that live until the call returns. The
    // macros of cmsg(3) read what the kernel wrote there.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast::<c_void>();
        header.msg_controllen = size_of_val(&control);
        let length = syscall!(libc::SYS_recvmsg, socket, &raw mut header, libc::MSG_CMSG_CLOEXEC)?;
        let mut count = 0;
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        if !message.is_null() && (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
            let bytes = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            let numbers = libc::CMSG_DATA(message).cast::<c_int>();
            for index in 0..bytes / size_of::<c_int>() {
                let number = numbers.add(index).read_unaligned();
                match descriptors.get_mut(index) {
                    Some(place) => *place = number,
                    None => system::close(number),
                }
                count += 1;
            }
        }
        Ok((length, count.min(MAX_DESCRIPTORS)))
    }
}
