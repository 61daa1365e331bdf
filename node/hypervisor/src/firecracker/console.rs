//! What the guest writes to its serial port, and Firecracker to its log: a pipe with a name that the VMM itself has open in
//! both directions. What does not fit, Firecracker drops: a guest that writes for ever fills a pipe, and no disk.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    libc,
    sys::stat::Mode,
    unistd::{Uid, chown, mkfifo},
};

/// The most that is kept of it.
const KEPT: usize = 16 << 10;
/// A pipe's room, and then some: somebody may be writing.
const MOST: u64 = 1 << 20;

fn path(directory: &Path) -> PathBuf {
    directory.join("console")
}

/// Makes the VM's. Its end is what the VMM is to have as its standard output.
pub fn make(directory: &Path, uid: u32) -> io::Result<OwnedFd> {
    let path = path(directory);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // The VMM opens it anew, as its own user.
    chown(&path, Some(Uid::from_raw(uid)), None)?;
    Ok(open(&path)?.into())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Takes what is there, and puts it behind what was there before. That the VM is gone is fine.
pub fn read(directory: &Path, text: &mut String) {
    let mut bytes = Vec::new();
    if let Ok(pipe) = open(&path(directory)) {
        // It ends with an error: there is no more now.
        let _ = pipe.take(MOST).read_to_end(&mut bytes);
    }
    text.push_str(&String::from_utf8_lossy(&bytes));
    let excess = text.len().saturating_sub(KEPT);
    let cut = (excess..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.drain(..cut);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_fits_is_kept_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let uid = Uid::effective().as_raw();
        let mut pipe = File::from(make(directory.path(), uid).unwrap());
        let mut text = String::new();
        read(directory.path(), &mut text);
        assert_eq!(text, "");
        pipe.write_all(b"first\n").unwrap();
        read(directory.path(), &mut text);
        pipe.write_all(b"second\n").unwrap();
        read(directory.path(), &mut text);
        assert_eq!(text, "first\nsecond\n");
        // As a VMM does it.
        let flood = "é".repeat(40_000);
        assert!(pipe.write(flood.as_bytes()).unwrap() < flood.len());
        assert_eq!(pipe.write(b"x").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        read(directory.path(), &mut text);
        assert!(text.len() <= KEPT && text.ends_with('é'));
        read(&directory.path().join("gone"), &mut text);
    }
}
