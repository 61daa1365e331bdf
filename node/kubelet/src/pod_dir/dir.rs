//! The directory of one pod, and all that is done in it.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use hypernetes_api::PathComponent;
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, fchmod, fstat, fsync, ftruncate, mkdirat, readlinkat, renameat, symlinkat,
        unlinkat,
    },
    io::Errno,
    mount::{MountFlags, mount},
};

use super::{
    descriptor::{PRIVATE, beneath, descriptor_path, list, own, remove, unmounted, write_all},
    place::Place,
};

const READABLE: u32 = 0o755;
/// Largest file that is read back: the kubelet's own records.
const MAX_READ: usize = 1 << 20;

/// A directory that belongs to one pod. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodDir {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) path: Arc<Path>,
}

impl PodDir {
    /// The absolute path, for what other processes are told; nothing is opened by it here.
    pub fn path(&self, place: &Place) -> PathBuf {
        self.path.join(place.as_path())
    }

    /// As [`PodDir::path`], of the pod's directory itself.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// Makes a directory and those above it, for root alone.
    ///
    /// # Errors
    /// As the system says, all methods alike.
    pub fn make_dir(&self, place: &Place) -> io::Result<()> {
        self.make_dirs(place.as_path(), PRIVATE).map(drop)
    }

    /// As [`PodDir::make_dir`], what is made being everybody's to read: the runtime copies it so into the VM.
    pub fn make_readable_dir(&self, place: &Place) -> io::Result<()> {
        self.make_dirs(place.as_path(), READABLE).map(drop)
    }

    /// Whether there is such a directory.
    pub fn has_dir(&self, place: &Place) -> io::Result<bool> {
        match beneath(&self.directory, place.as_path(), OFlags::DIRECTORY, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a file system in memory of at most so many bytes at a directory, which is made; one that is there stays.
    pub fn make_memory(&self, place: &Place, bytes: u64, options: MountFlags) -> io::Result<()> {
        let (above, _) = place.split();
        let above = self.make_dirs(above, PRIVATE)?;
        let directory = self.make_dirs(place.as_path(), PRIVATE)?;
        if fstat(&directory)?.st_dev != fstat(&above)?.st_dev {
            return Ok(());
        }
        let settings = CString::new(format!("mode=0700,size={bytes}"))?;
        Ok(mount("tmpfs", descriptor_path(&directory), "tmpfs", options, settings.as_c_str())?)
    }

    /// Takes a file system in memory away, with all that is in it; a directory that has none stays as it is.
    pub fn drop_memory(&self, place: &Place) -> io::Result<()> {
        let (above, name) = place.split();
        let above = match beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match beneath(&above, Path::new(name), OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
            directory => unmounted(&above, name, directory?).map(drop),
        }
    }

    /// What is made has `mode` whatever the process's mask.
    fn make_dirs(&self, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        let mut at = PathBuf::new();
        let mut directory = beneath(&self.directory, Path::new("."), OFlags::DIRECTORY, Mode::empty())?;
        for name in path {
            at.push(name);
            let made = match mkdirat(&directory, name, Mode::from_raw_mode(PRIVATE)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            directory = beneath(&self.directory, &at, OFlags::DIRECTORY, Mode::empty())?;
            if made {
                fchmod(&directory, Mode::from_raw_mode(mode))?;
            }
        }
        Ok(directory)
    }

    /// Writes a file anew; directories above it that are not there are everybody's to read. `mode` and `group` are the
    /// file's, whatever the process's mask.
    pub fn write(&self, place: &Place, content: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
        let (above, name) = place.split();
        let above = self.make_dirs(above, READABLE)?;
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = beneath(&above, Path::new(name), flags, Mode::from_raw_mode(0o600))?;
        if !FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        ftruncate(&file, 0)?;
        write_all(&file, content)?;
        own(&file, mode, group)
    }

    /// Puts a file of root's in the place of another: the file is there as a whole or not at all, also after a power
    /// failure.
    pub fn replace(&self, place: &Place, content: &[u8]) -> io::Result<()> {
        let (above, name) = place.split();
        let above = self.make_dirs(above, PRIVATE)?;
        let mut unfinished = name.to_owned();
        unfinished.push(".new");
        match unlinkat(&above, &unfinished, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = beneath(&above, Path::new(&unfinished), flags, Mode::from_raw_mode(0o600))?;
        write_all(&file, content)?;
        fsync(&file)?;
        renameat(&above, &unfinished, &above, name)?;
        Ok(fsync(&above)?)
    }

    /// What a file holds; none where there is no such file.
    pub fn read(&self, place: &Place) -> io::Result<Option<Vec<u8>>> {
        let file = match beneath(&self.directory, place.as_path(), OFlags::NONBLOCK, Mode::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            other => other?,
        };
        let mut text = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match rustix::io::read(&file, &mut buffer) {
                Ok(0) => return Ok(Some(text)),
                Ok(read) if text.len() + read > MAX_READ => return Err(io::ErrorKind::FileTooLarge.into()),
                Ok(read) => text.extend(&buffer[..read]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A file for reading, which is not followed where it is a link.
    pub fn open(&self, place: &Place) -> io::Result<OwnedFd> {
        beneath(&self.directory, place.as_path(), OFlags::NONBLOCK, Mode::empty())
    }

    /// Makes `place` a link with the text `to`, in one step. The directory has to be there.
    pub fn link(&self, place: &Place, to: &Path) -> io::Result<()> {
        let (above, name) = place.split();
        let above = beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty())?;
        match unlinkat(&above, "..new", AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        symlinkat(to, &above, "..new")?;
        Ok(renameat(&above, "..new", &above, name)?)
    }

    /// The text of a link; none where there is no link.
    pub fn read_link(&self, place: &Place) -> io::Result<Option<PathBuf>> {
        let (above, name) = place.split();
        let above = match beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match readlinkat(&above, name, Vec::new()) {
            Ok(text) => Ok(Some(OsString::from(OsStr::from_bytes(text.to_bytes())).into())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Names in a directory; none where there is no such directory.
    pub fn names(&self, place: &Place) -> io::Result<Vec<PathComponent>> {
        let directory = match beneath(&self.directory, place.as_path(), OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        Ok(list(&directory)?.iter().filter_map(|name| PathComponent::new(name.to_str()?).ok()).collect())
    }

    /// Removes whatever is there, with all that is in it; nothing there is no error.
    pub fn remove(&self, place: &Place) -> io::Result<()> {
        let (above, name) = place.split();
        match beneath(&self.directory, above, OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            above => remove(&above?, name),
        }
    }

    /// Gives a directory a mode and a group; what is no directory stays as it is.
    pub fn share(&self, place: &Place, mode: u32, group: Option<u32>) -> io::Result<()> {
        match beneath(&self.directory, place.as_path(), OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
            directory => own(&directory?, mode, group),
        }
    }
}
