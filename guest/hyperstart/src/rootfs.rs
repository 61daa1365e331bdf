//! Paths inside a container's root: followed as the container would, never out of it.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt},
        },
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};

/// What a path has to be when it is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Nothing,
    Directory,
    /// With these permission bits, as far as it has to be made; a group that its parent hands down stays.
    DirectoryOf(u32),
    /// An empty file to mount another upon.
    File,
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT)
}

/// A root directory, held open.
pub struct Root(OwnedFd);

impl Root {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// Opens a path with flags; symbolic links and `..` stay inside.
    pub fn open_inside(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        loop {
            match openat2(&self.0, relative, how(flags)) {
                // A rename was under way somewhere; the kernel asks to try again.
                Err(Errno::EAGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    /// A handle on a path, made where it is missing, parents included.
    pub fn locate(&self, path: &Path, make: Make) -> io::Result<OwnedFd> {
        match self.open_inside(path, OFlag::O_PATH) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) && make != Make::Nothing => {}
            result => return result,
        }
        let mut here = PathBuf::from("/");
        let components: Vec<&OsStr> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        for (index, name) in components.iter().enumerate() {
            let parent = self.open_inside(&here, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            here.push(name);
            if self.open_inside(&here, OFlag::O_PATH).is_ok() {
                continue;
            }
            let last = index + 1 == components.len();
            let made = if last && make == Make::File {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
                nix::fcntl::openat(&parent, *name, flags, Mode::from_bits_truncate(0o644)).map(drop)
            } else {
                mkdirat(&parent, *name, Mode::from_bits_truncate(0o755))
            };
            match (made, make) {
                (Ok(()), Make::DirectoryOf(mode)) => {
                    let directory = self.open_inside(&here, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
                    let handed_down = std::fs::metadata(handle_path(&directory))?.mode() & 0o2000;
                    let mode = std::fs::Permissions::from_mode(mode & 0o777 | handed_down);
                    std::fs::set_permissions(handle_path(&directory), mode)?;
                }
                (Ok(()) | Err(Errno::EEXIST), _) => {}
                (Err(error), _) => return Err(error.into()),
            }
        }
        self.open_inside(path, OFlag::O_PATH)
    }

    /// At most `most` bytes of a file, the last ones when it is longer.
    pub fn read_tail(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        // O_NONBLOCK: opening a pipe that the container left there would wait for ever.
        let mut file = std::fs::File::from(self.open_inside(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A path that a mount can be made on while the handle is open.
pub fn handle_path(handle: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// A relative path without `..`, as hyperd may name files.
pub fn plain(path: &str) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let normal = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    (normal && !path.as_os_str().is_empty()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_root() {
        let outside = std::env::temp_dir().join(format!("hyperstart-test-{}", std::process::id()));
        let root = outside.join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(outside.join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        std::os::unix::fs::symlink("../../../secret", root.join("etc/up")).unwrap();
        std::os::unix::fs::symlink("/secret", root.join("etc/absolute")).unwrap();
        let handle = Root::open(&root).unwrap();
        for path in ["/etc/up", "/etc/absolute", "/../../secret", "secret"] {
            assert_eq!(handle.read_tail(Path::new(path), 100).unwrap(), b"inside", "{path}");
        }
        assert_eq!(handle.read_tail(Path::new("/secret"), 4).unwrap(), b"side");
        handle.locate(Path::new("/a/b/c"), Make::Directory).unwrap();
        handle.locate(Path::new("/etc/new/file"), Make::File).unwrap();
        assert!(root.join("a/b/c").is_dir() && root.join("etc/new/file").is_file());
        handle.locate(Path::new("/a/open/wide"), Make::DirectoryOf(0o777)).unwrap();
        for path in ["a/open", "a/open/wide"] {
            assert_eq!(std::fs::metadata(root.join(path)).unwrap().mode() & 0o7777, 0o777, "{path}");
        }
        assert!(handle.locate(Path::new("/none"), Make::Nothing).is_err());
        assert!(handle.read_tail(Path::new("/etc"), 10).is_err());
        std::fs::remove_dir_all(outside).unwrap();
        for bad in ["", "/abs", "a/../b", ".."] {
            assert!(plain(bad).is_none(), "{bad}");
        }
    }
}
