//! System calls, without what the C library does beside them: it may be in any state in here.

use std::ffi::CStr;

use libc::{c_int, c_long};

/// An error's number, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Result<T> = std::result::Result<T, Errno>;

/// One system call.
///
/// # Safety
/// As the call itself.
pub unsafe fn call(number: c_long, arguments: [usize; 6]) -> Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the caller's promise; the kernel changes the registers that are named and no others.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    // Errors are the numbers from -4095 on.
    match result {
        -4095..=-1 => Err(Errno(-(result as i32))),
        value => Ok(value as usize),
    }
}

/// `syscall!(SYS_x, a, b…)`: unsafe, as [`call`].
macro_rules! syscall {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        let given = [$($argument as usize),*];
        let mut arguments = [0usize; 6];
        arguments[..given.len()].copy_from_slice(&given);
        $crate::system::call($number, arguments)
    }};
}
pub(crate) use syscall;

pub fn thread_id() -> i32 {
    // SAFETY: it has no arguments and always succeeds.
    unsafe { call(libc::SYS_gettid, [0; 6]) }.map_or(0, |id| id as i32)
}

pub fn process_id() -> i32 {
    // SAFETY: as above.
    unsafe { call(libc::SYS_getpid, [0; 6]) }.map_or(0, |id| id as i32)
}

pub fn close(descriptor: c_int) {
    // SAFETY: whoever calls has done with it.
    let _ = unsafe { syscall!(libc::SYS_close, descriptor) };
}

/// dup3(2) with `O_CLOEXEC`.
pub fn replace(number: c_int, by: c_int) -> Result<()> {
    if number == by {
        return Ok(());
    }
    // SAFETY: numbers only.
    unsafe { syscall!(libc::SYS_dup3, by, number, libc::O_CLOEXEC) }.map(drop)
}

/// Opens something below a directory, for reading.
pub fn open_at(directory: c_int, path: &CStr) -> Result<c_int> {
    // SAFETY: the path ends with a zero, and lives until the call returns.
    unsafe { syscall!(libc::SYS_openat, directory, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }
        .map(|fd| fd as c_int)
}

pub fn write(descriptor: c_int, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads as many bytes as there are.
    unsafe { syscall!(libc::SYS_write, descriptor, bytes.as_ptr(), bytes.len()) }
}

/// Calls with the name of each entry of an open directory.
pub fn entries(directory: c_int, mut found: impl FnMut(&[u8])) -> Result<()> {
    // `struct linux_dirent64`: inode and offset, the entry's length, its type, its name.
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let mut buffer = [0u8; 2048];
    loop {
        // SAFETY: the kernel writes no more than the buffer holds.
        let read = unsafe { syscall!(libc::SYS_getdents64, directory, buffer.as_mut_ptr(), buffer.len()) }?;
        let mut rest = buffer.get(..read).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some(&[low, high]) = rest.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let name = rest.get(NAME_AT..length).unwrap_or_default();
            found(name.split(|byte| *byte == 0).next().unwrap_or_default());
            rest = rest.get(length.max(1)..).unwrap_or_default();
        }
    }
}

/// Waits for ever; signals that are not blocked are served.
pub fn pause() -> ! {
    loop {
        // SAFETY: it has no arguments.
        let _ = unsafe { call(libc::SYS_pause, [0; 6]) };
    }
}

/// Ends the process, all threads.
pub fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: numbers only; it does not return.
        let _ = unsafe { syscall!(libc::SYS_exit_group, code) };
    }
}

/// Decimal digits, for names below `/proc`.
pub struct Decimal {
    text: [u8; 24],
    length: usize,
}

impl Decimal {
    /// The prefix has at most eight bytes.
    pub fn new(prefix: &[u8], mut number: u32) -> Self {
        let mut digits = [0; 10];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let prefix = &prefix[..prefix.len().min(8)];
        let digits = &digits[first..];
        let length = prefix.len() + digits.len();
        let mut text = [0; 24];
        text[..prefix.len()].copy_from_slice(prefix);
        text[prefix.len()..length].copy_from_slice(digits);
        Self { text, length }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }

    pub fn as_c_str(&self) -> &CStr {
        // There is room for more than prefix and digits, and it is zero.
        CStr::from_bytes_until_nul(&self.text).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names() {
        for number in [0, 7, 10, 1023, u32::MAX] {
            assert_eq!(Decimal::new(b"fd/", number).as_bytes(), format!("fd/{number}").as_bytes());
        }
        assert_eq!(Decimal::new(b"", 42).as_c_str(), c"42");
    }

    #[test]
    fn errors_have_their_numbers() {
        assert_eq!(open_at(libc::AT_FDCWD, c"/no/such/file"), Err(Errno(libc::ENOENT)));
        assert_eq!(replace(1000, 999), Err(Errno(libc::EBADF)));
    }
}
