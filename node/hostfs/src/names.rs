//! What is done to names in directories.

use hypernetes_guest_protocol::v1;
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Stat, fstat, fstatfs, linkat, mkdirat, mknodat,
        openat, readlinkat, renameat_with, seek, statat, symlinkat, unlinkat,
    },
    io::Errno,
};

use crate::{
    attributes::{give, permissions},
    path::Relative,
    server::{Place, Server},
};

/// Entries of a directory come in parts of this many bytes, as the kernel packs them.
const LIST_BYTES: usize = 32 << 10;
/// Longest target of a symbolic link.
const MAX_TARGET: usize = 4095;

type Answer = Result<v1::HostPathReply, Errno>;

fn done() -> Answer {
    Ok(v1::HostPathReply::default())
}

impl Server {
    pub(crate) fn read_link(&self, path: Relative<'_>) -> Answer {
        let place = self.find(path)?;
        let target = readlinkat(&place, "", Vec::new())?;
        Ok(v1::HostPathReply { data: target.into_bytes().into(), ..Default::default() })
    }

    pub(crate) fn make(&self, path: Relative<'_>, make: &v1::HostPathMake, again: bool) -> Result<Stat, Errno> {
        let (parent, name) = self.parent(path)?;
        let kind = FileType::from_raw_mode(make.mode);
        let mode = permissions(make.mode, kind);
        let made = match kind {
            FileType::RegularFile => return self.make_file(path, (&parent, name), make, again),
            FileType::Directory => mkdirat(&parent, name, mode),
            FileType::Symlink if make.target.is_empty() || make.target.contains(&0) => Err(Errno::INVAL),
            FileType::Symlink if make.target.len() > MAX_TARGET => Err(Errno::NAMETOOLONG),
            FileType::Symlink => symlinkat(&make.target[..], &parent, name),
            FileType::Socket | FileType::Fifo => mknodat(&parent, name, kind, mode, 0),
            // A device would be the host's.
            _ => Err(Errno::PERM),
        };
        match made {
            Ok(()) => {}
            // The one that was made the first time, whose answer was lost.
            Err(Errno::EXIST) if again && self.is_as_made(path, kind, make) => {}
            Err(error) => return Err(error),
        }
        let place = self.find(path)?;
        if FileType::from_raw_mode(fstat(&place)?.st_mode) != kind {
            return Err(Errno::STALE);
        }
        give(&place, fstat(&parent)?.st_mode, make.uid, make.gid)?;
        fstat(&place)
    }

    fn is_as_made(&self, path: Relative<'_>, kind: FileType, make: &v1::HostPathMake) -> bool {
        let same = || -> Result<bool, Errno> {
            let place = self.find(path)?;
            Ok(FileType::from_raw_mode(fstat(&place)?.st_mode) == kind
                && (kind != FileType::Symlink || readlinkat(&place, "", Vec::new())?.to_bytes() == make.target))
        };
        same().unwrap_or(false)
    }

    fn make_file(
        &self,
        path: Relative<'_>,
        (parent, name): (&Place<'_>, &[u8]),
        make: &v1::HostPathMake,
        again: bool,
    ) -> Result<Stat, Errno> {
        let write = make.open.as_ref().is_some_and(|handle| handle.write);
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, name, flags, permissions(make.mode, FileType::RegularFile)) {
            Ok(file) => {
                give(&file, fstat(parent)?.st_mode, make.uid, make.gid)?;
                let stat = fstat(&file)?;
                if let Some(handle) = &make.open {
                    self.keep(handle.number, file, write);
                }
                Ok(stat)
            }
            Err(Errno::EXIST) if !make.exclusive || again => {
                let opened = self.open_file(path, write || make.truncate)?;
                if make.truncate {
                    rustix::fs::ftruncate(&opened, 0)?;
                }
                let stat = fstat(&opened)?;
                if let Some(handle) = &make.open {
                    self.keep(handle.number, opened, write || make.truncate);
                }
                Ok(stat)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn remove(&self, path: Relative<'_>, directory: bool, again: bool) -> Answer {
        let (parent, name) = self.parent(path)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(&parent, name, flags) {
            Err(Errno::NOENT) if again => done(),
            result => result.and_then(|()| done()),
        }
    }

    pub(crate) fn rename(&self, path: Relative<'_>, wanted: &v1::HostPathMove, again: bool) -> Answer {
        let (from, old) = self.parent(path)?;
        let (to, new) = self.parent(Relative::new(&wanted.to)?)?;
        let flags = match (wanted.keep, wanted.exchange) {
            (true, true) => return Err(Errno::INVAL),
            (true, false) => RenameFlags::NOREPLACE,
            // Done twice it would be undone.
            (false, true) if again => return Err(Errno::IO),
            (false, true) => RenameFlags::EXCHANGE,
            (false, false) => RenameFlags::empty(),
        };
        match renameat_with(&from, old, &to, new, flags) {
            Err(Errno::NOENT) if again && statat(&to, new, AtFlags::SYMLINK_NOFOLLOW).is_ok() => done(),
            result => result.and_then(|()| done()),
        }
    }

    pub(crate) fn link(&self, path: Relative<'_>, to: Relative<'_>, again: bool) -> Result<Stat, Errno> {
        let (from, old) = self.parent(path)?;
        let (parent, new) = self.parent(to)?;
        let there = || statat(&parent, new, AtFlags::SYMLINK_NOFOLLOW);
        match linkat(&from, old, &parent, new, AtFlags::empty()) {
            Err(Errno::EXIST) if again => {
                let (old, new) = (statat(&from, old, AtFlags::SYMLINK_NOFOLLOW)?, there()?);
                if (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino) { Ok(new) } else { Err(Errno::EXIST) }
            }
            result => result.and_then(|()| there()),
        }
    }

    /// A part of a directory; an empty one is the end.
    pub(crate) fn list(&self, path: Relative<'_>, cookie: u64) -> Answer {
        let directory = self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let stat = fstat(&directory)?;
        if cookie != 0 {
            seek(&directory, SeekFrom::Start(cookie))?;
        }
        let mut buffer = Vec::with_capacity(LIST_BYTES);
        let mut raw = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry?;
            entries.push(v1::HostPathEntry {
                name: entry.file_name().to_bytes().to_vec(),
                inode: self.inode_in(&stat, entry.ino()),
                r#type: match entry.file_type() {
                    FileType::Unknown => 0,
                    known => known.as_raw_mode(),
                },
                cookie: entry.next_entry_cookie(),
            });
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(v1::HostPathReply { entries, ..Default::default() })
    }

    pub(crate) fn space(&self, path: Relative<'_>) -> Answer {
        let stat = fstatfs(&self.find(path)?)?;
        let small = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
        let space = v1::HostPathSpaceReply {
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            block_size: small(stat.f_bsize),
            name_length: small(stat.f_namelen),
        };
        Ok(v1::HostPathReply { space_reply: Some(space), ..Default::default() })
    }

    /// The file's mode is not looked at where it is only opened.
    pub(crate) const NO_MODE: Mode = Mode::empty();
}
