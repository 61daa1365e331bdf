//! What is done to files: attributes and content.

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use hypernetes_guest_protocol::{MAX_HOST_PATH_DATA, v1};
use rustix::{
    buffer::spare_capacity,
    fs::{
        AtFlags, CWD, FallocateFlags, FileType, OFlags, Stat, chmodat, chownat, fallocate, fdatasync, fstat, fsync,
        ftruncate, openat, utimensat,
    },
    io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2, retry_on_intr},
};

use crate::{
    attributes::{owner, permissions, times},
    handles::{File, Opened},
    path::Relative,
    server::Server,
};

type Answer = Result<v1::HostPathReply, Errno>;

/// The name by which the kernel opens again what a descriptor is open on, and nothing else.
fn itself(descriptor: impl AsFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl Server {
    pub(crate) fn stat(&self, path: Relative<'_>, handle: Option<&v1::HostPathHandle>) -> Result<Stat, Errno> {
        match handle.and_then(|handle| self.handles.lock().get(handle.number)) {
            Some(opened) => fstat(&opened.file),
            None => fstat(&self.find(path)?),
        }
    }

    pub(crate) fn change(&self, path: Relative<'_>, change: &v1::HostPathChange) -> Result<Stat, Errno> {
        let open = change.handle.as_ref().map(|handle| self.file(path, handle)).transpose()?;
        let place = if open.is_none() { Some(self.find(path)?) } else { None };
        let target = match (&open, &place) {
            (Some(open), _) => open.file.as_fd(),
            (None, Some(place)) => place.as_fd(),
            (None, None) => return Err(Errno::BADF),
        };
        let kind = kind(&fstat(target)?);
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = owner(change.uid, change.gid)?;
            chownat(target, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            if kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            chmodat(CWD, itself(target), permissions(mode, kind), AtFlags::empty())?;
        }
        if let Some(size) = change.size {
            match &open {
                Some(open) if open.write => ftruncate(&open.file, size)?,
                _ => ftruncate(reopen(target, kind, true)?, size)?,
            }
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let times = times(change.accessed.as_ref(), change.modified.as_ref());
            utimensat(target, "", &times, AtFlags::EMPTY_PATH)?;
        }
        fstat(target)
    }

    /// Opens a regular file, and nothing else: another kind of file does not even notice.
    pub(crate) fn open_file(&self, path: Relative<'_>, write: bool) -> Result<OwnedFd, Errno> {
        let place = self.find(path)?;
        reopen(&place, kind(&fstat(&place)?), write)
    }

    pub(crate) fn keep(&self, number: u64, file: OwnedFd, write: bool) -> Opened {
        let opened = Opened { file: Arc::new(File::new(file)), write };
        self.handles.lock().insert(number, opened.clone());
        opened
    }

    pub(crate) fn open(&self, path: Relative<'_>, handle: Option<&v1::HostPathHandle>) -> Result<Stat, Errno> {
        let handle = handle.ok_or(Errno::INVAL)?;
        let file = self.open_file(path, handle.write)?;
        let stat = fstat(&file)?;
        self.keep(handle.number, file, handle.write);
        Ok(stat)
    }

    /// What the guest has open; opened again if the descriptor is gone.
    fn file(&self, path: Relative<'_>, handle: &v1::HostPathHandle) -> Result<Opened, Errno> {
        let known = self.handles.lock().get(handle.number);
        if let Some(opened) = known.filter(|opened| opened.write || !handle.write) {
            return Ok(opened);
        }
        let file = self.open_file(path, handle.write).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => Errno::STALE,
            other => other,
        })?;
        if self.inode(&fstat(&file)?) != handle.inode {
            return Err(Errno::STALE);
        }
        Ok(self.keep(handle.number, file, handle.write))
    }

    pub(crate) fn read(&self, path: Relative<'_>, read: &v1::HostPathRead) -> Answer {
        let opened = self.file(path, read.handle.as_ref().ok_or(Errno::BADF)?)?;
        let size = (read.size as usize).min(MAX_HOST_PATH_DATA);
        let mut data = Vec::with_capacity(size);
        while data.len() < size {
            let offset = read.offset.checked_add(data.len() as u64).ok_or(Errno::INVAL)?;
            // The allocation may be larger than was asked for.
            match retry_on_intr(|| pread(&opened.file, spare_capacity(&mut data), offset)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) if !data.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        data.truncate(size);
        Ok(v1::HostPathReply { data: data.into(), ..Default::default() })
    }

    pub(crate) fn write(&self, path: Relative<'_>, write: &v1::HostPathWrite, again: bool) -> Answer {
        let handle = v1::HostPathHandle { write: true, ..*write.handle.as_ref().ok_or(Errno::BADF)? };
        if write.data.len() > MAX_HOST_PATH_DATA {
            return Err(Errno::INVAL);
        }
        let opened = self.file(path, &handle)?;
        let all = write.data.len();
        if write.append && again && self.is_there(&opened, write)? {
            return Ok(written(all));
        }
        let mut count = 0;
        while count < all {
            let rest = &write.data[count..];
            let offset = write.offset.checked_add(count as u64).ok_or(Errno::FBIG)?;
            let result = retry_on_intr(|| match write.append {
                true => pwritev2(&opened.file, &[IoSlice::new(rest)], offset, ReadWriteFlags::APPEND),
                false => pwrite(&opened.file, rest, offset),
            });
            match result {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written(count))
    }

    /// Whether an append whose answer was lost was done: its data is where the guest saw the end.
    fn is_there(&self, opened: &Opened, write: &v1::HostPathWrite) -> Result<bool, Errno> {
        let readable = reopen(&*opened.file, FileType::RegularFile, false)?;
        let mut there = vec![0; write.data.len()];
        let count = retry_on_intr(|| pread(&readable, &mut there[..], write.offset))?;
        Ok(there[..count] == write.data[..])
    }

    pub(crate) fn sync(&self, path: Relative<'_>, sync: &v1::HostPathSync) -> Answer {
        match &sync.handle {
            Some(handle) if sync.data_only => fdatasync(&self.file(path, handle)?.file)?,
            Some(handle) => fsync(&self.file(path, handle)?.file)?,
            None => fsync(self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?,
        }
        Ok(v1::HostPathReply::default())
    }

    pub(crate) fn allocate(&self, path: Relative<'_>, allocate: &v1::HostPathAllocate) -> Answer {
        let handle = v1::HostPathHandle { write: true, ..*allocate.handle.as_ref().ok_or(Errno::BADF)? };
        let mode = FallocateFlags::from_bits_retain(allocate.mode);
        if !(FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE).contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        fallocate(&self.file(path, &handle)?.file, mode, allocate.offset, allocate.length)?;
        Ok(v1::HostPathReply::default())
    }
}

fn written(count: usize) -> v1::HostPathReply {
    v1::HostPathReply { written: u32::try_from(count).unwrap_or(0), ..Default::default() }
}

/// Opens what a descriptor is open on for reading or writing, if it is a regular file.
fn reopen(place: impl AsFd, kind: FileType, write: bool) -> Result<OwnedFd, Errno> {
    match kind {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        FileType::Symlink => return Err(Errno::STALE),
        // A pipe or socket is the guest kernel's to open; a device is nobody's.
        _ => return Err(Errno::NXIO),
    }
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    openat(CWD, itself(place), access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Server::NO_MODE)
}
