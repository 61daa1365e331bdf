//! The files below the log, as little of them as it needs: tests put disks that fail and machines that lose power in their place.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

use nix::errno::Errno;

/// A directory of files.
pub(super) trait Medium: Send + Sync + 'static {
    /// Opens a file to read and write; with `create` it is made, mode 0600, if it is not there. The content is as it is on
    /// the disk, and not as a kernel whose write failed remembers it.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn Blob>>;

    /// Makes a directory of mode 0700, if it is not there.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Names of a directory's files.
    fn names(&self, directory: &Path) -> io::Result<Vec<String>>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// A file.
pub(super) trait Blob: Send {
    fn len(&self) -> io::Result<u64>;

    /// All of `out`.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// All of `data`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// What was written is durable when it returns. After an error nothing is known.
    fn sync(&self) -> io::Result<()>;

    /// Takes room on the disk until `len`; what is written there later needs no more.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// Whether there was no room, and nothing else is wrong.
pub(super) fn is_full(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| matches!(Errno::from_raw(code), Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG))
}

/// Written at a time where a file is filled with zeros.
const PIECE: usize = 1 << 20;

/// Writes zeros from `from` until `to`: what is written there later needs no more room, and no more than itself to be durable.
pub(super) fn fill(blob: &dyn Blob, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        let piece = zeros.len().min((to - at) as usize);
        blob.write_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

/// The file system.
pub(super) struct Disk;

impl Medium for Disk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn Blob>> {
        let file = OpenOptions::new().create(create).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        file.sync_data()?;
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(Box::new(file))
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(directory)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl Blob for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let length = i64::try_from(len).map_err(io::Error::other)?;
        Ok(nix::fcntl::posix_fallocate(self, 0, length)?)
    }
}
