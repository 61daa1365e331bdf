//! Installing the filters of system calls that hyperd has compiled.

use std::io;

use hypernetes_guest_protocol::v1;
use nix::libc;

/// The kernel's limit for one program.
const MAX_INSTRUCTIONS: usize = 4096;
const INSTRUCTION_BYTES: usize = 8;

/// Installs filters for this thread, one upon the other. Needs `no_new_privs` or CAP_SYS_ADMIN.
pub fn install(filters: &[v1::SeccompFilter]) -> io::Result<()> {
    for filter in filters {
        let mut program = decode(&filter.program)?;
        let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let description = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
        #[allow(unsafe_code)]
        // SAFETY: the kernel reads `len` instructions at `filter`, which live until the call returns.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&description))
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> io::Result<Vec<libc::sock_filter>> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(INSTRUCTION_BYTES) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is not a program"));
    }
    if bytes.len() / INSTRUCTION_BYTES > MAX_INSTRUCTIONS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the program is too long"));
    }
    let instruction = |b: &[u8]| libc::sock_filter {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    Ok(bytes.chunks_exact(INSTRUCTION_BYTES).map(instruction).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_back() {
        let program = decode(&[0x06, 0, 1, 2, 0, 0, 0xff, 0x7f]).unwrap();
        assert_eq!((program[0].code, program[0].jt, program[0].jf, program[0].k), (6, 1, 2, 0x7fff_0000));
        assert!(decode(&[]).is_err() && decode(&[0; 7]).is_err() && decode(&vec![0; 8 * 4097]).is_err());
    }
}
