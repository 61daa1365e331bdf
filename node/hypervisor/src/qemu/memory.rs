//! Files in memory that never change again.
//!
//! QEMU opens a VM's memory for writing, by name, even where it maps it privately; and it runs as a user of its own. A file
//! that it may open so could be changed by a VMM that was broken out of, and with it every copy. A sealed memfd cannot be
//! changed by anybody, has no name, and is gone with its last user.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::ftruncate,
};

/// The mappings of a process that has ended may outlive it by a moment.
const SEAL_ATTEMPTS: u32 = 200;
const SEAL_PAUSE: Duration = Duration::from_millis(5);

pub fn create(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&fd, i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?)?;
    Ok(fd)
}

/// From now on nobody can change the file, not even through descriptors that are open.
///
/// # Errors
/// When somebody still has it mapped for writing.
pub async fn seal(fd: &OwnedFd) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    for _ in 1..SEAL_ATTEMPTS {
        match fcntl(fd, FcntlArg::F_ADD_SEALS(seals)) {
            Err(nix::Error::EBUSY) => tokio::time::sleep(SEAL_PAUSE).await,
            other => return Ok(other.map(drop)?),
        }
    }
    Ok(fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop)?)
}

/// The file opened anew, with a position of its own.
pub fn reader(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.into())
}

/// Memory that the file takes.
pub fn used_bytes(fd: &OwnedFd) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(File::from(fd.try_clone()?).metadata()?.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn what_is_sealed_stays_as_it_is() {
        let fd = create("test", 0).unwrap();
        let mut writer = File::from(fd.try_clone().unwrap());
        writer.write_all(b"kept").unwrap();
        seal(&fd).await.unwrap();
        assert!(writer.write_all(b"more").is_err());
        assert!(ftruncate(&fd, 0).is_err());
        for _ in 0..2 {
            let mut text = String::new();
            File::from(reader(&fd).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "kept");
        }
        assert_eq!(used_bytes(&fd).unwrap(), 4096);
    }
}
