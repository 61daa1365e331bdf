//! Directories that are opened beneath another, by system calls that follow no link and lead nowhere up.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use hypernetes_beneath::Links;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fsync, mkdirat, openat, renameat, unlinkat},
    io::Errno,
};

const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// Largest file that is read: the driver's own are a few hundred bytes.
const MAX_READ: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl Directory {
    /// Where all begins: a path of the operator's. It is made where it is not there.
    ///
    /// # Errors
    /// As the system says, all methods alike.
    pub(crate) fn root(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self(openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    fn beneath(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(PRIVATE_FILE) } else { Mode::empty() };
        Ok(hypernetes_beneath::open(&self.0, path, flags | OFlags::NOFOLLOW, mode, Links::None)?)
    }

    pub(crate) fn open(&self, path: &Path) -> io::Result<Self> {
        self.beneath(path, OFlags::DIRECTORY).map(Self)
    }

    /// Makes a directory for root alone, durably; one that is there stays.
    pub(crate) fn make(&self, name: &OsStr) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::from_raw_mode(PRIVATE_DIRECTORY)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        fsync(&self.0)?;
        self.open(name.as_ref())
    }

    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        // What is no file, as a pipe, is not waited for.
        let file = File::from(self.beneath(name.as_ref(), OFlags::NONBLOCK)?);
        let mut text = Vec::new();
        file.take(MAX_READ + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_READ { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
    }

    /// The file is there as a whole or not at all, also after a power failure.
    pub(crate) fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let unfinished = format!("{name}.new");
        self.remove(&unfinished)?;
        let mut file = File::from(self.beneath(unfinished.as_ref(), OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?);
        file.write_all(text)?;
        file.sync_all()?;
        renameat(&self.0, &unfinished, &self.0, name)?;
        Ok(fsync(&self.0)?)
    }

    /// Removes a file, or a link itself; what is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty directory; what is not there is no error.
    pub(crate) fn remove_directory(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
