//! What of the original's descriptors a copy must not share.
//!
//! A copy has all descriptors of the original, and what is behind them is one for both. Files are read at positions that are
//! given, so both may. An event counter would wake whichever comes first, and a connection speak with two tongues.

use std::ffi::c_int;

use super::system::{self, Decimal, Result, syscall};

/// Highest number that is looked at, and one more: QEMU's limit in the jail.
const MAX_NUMBER: usize = 1024;
const EVENT_COUNTER: &[u8] = b"anon_inode:[eventfd]";
const SOCKET: &[u8] = b"socket:";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shared,
    EventCounter,
    Socket,
}

/// The descriptors of a process, by kind.
pub struct Descriptors([Kind; MAX_NUMBER]);

impl Descriptors {
    /// Looks at them. `process` is a descriptor of `/proc/self`.
    pub fn of(process: c_int) -> Result<Self> {
        let mut kinds = [Kind::Shared; MAX_NUMBER];
        let directory = system::open_at(process, c"fd")?;
        let listed = system::entries(directory, |name| {
            let number = std::str::from_utf8(name).ok().and_then(|digits| digits.parse::<usize>().ok());
            if let Some((number, kind)) = number.and_then(|number| Some((number, kinds.get_mut(number)?))) {
                *kind = kind_of(process, number as u32);
            }
        });
        system::close(directory);
        listed.map(|()| Self(kinds))
    }

    /// In a copy: gives it its own of all but those numbers.
    pub fn renew(&self, but: impl Fn(c_int) -> bool) -> Result<()> {
        for (number, kind) in (0..).zip(&self.0) {
            if but(number) {
                continue;
            }
            match kind {
                Kind::Shared => {}
                Kind::EventCounter => {
                    // One that has counted wakes whoever waits for it: better once too often than once too few.
                    // SAFETY: numbers only.
                    let counter = unsafe { syscall!(libc::SYS_eventfd2, 1, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) }?;
                    move_to(number, counter as c_int)?;
                }
                Kind::Socket => {
                    // The other end is gone.
                    let mut pair: [c_int; 2] = [0; 2];
                    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                    // SAFETY: the kernel writes two numbers.
                    unsafe { syscall!(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) }?;
                    system::close(pair[1]);
                    move_to(number, pair[0])?;
                }
            }
        }
        Ok(())
    }
}

/// Gives a descriptor another number, instead of the one that has it.
pub fn move_to(number: c_int, from: c_int) -> Result<()> {
    system::replace(number, from)?;
    if number != from {
        system::close(from);
    }
    Ok(())
}

fn kind_of(process: c_int, number: u32) -> Kind {
    let mut target = [0u8; 64];
    let path = Decimal::new(b"fd/", number);
    // SAFETY: the path ends with a zero; the kernel writes no more than the buffer holds.
    let read =
        unsafe { syscall!(libc::SYS_readlinkat, process, path.as_c_str().as_ptr(), target.as_mut_ptr(), target.len()) };
    let target = target.get(..read.unwrap_or(0)).unwrap_or_default();
    if target.starts_with(EVENT_COUNTER) {
        Kind::EventCounter
    } else if target.starts_with(SOCKET) {
        Kind::Socket
    } else {
        Kind::Shared
    }
}
