//! The one way in which root opens what somebody else has named: beneath a directory that is open, by openat2(2), so that
//! neither `..` nor a link leads out of it, also while others rename what is in it.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, Result},
};

/// openat2(2) asks to be called again when something is renamed meanwhile.
const LOOKUPS: usize = 64;

/// What links on the way are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// An error (`ELOOP`), in any part of the path; but the last one is itself opened by `OFlags::PATH | OFlags::NOFOLLOW`.
    None,
    /// Followed, as long as they are relative and stay beneath the directory.
    Within,
}

/// Opens what is at a path beneath a directory; at none, the directory itself. The descriptor is closed at exec. `mode` is of what `OFlags::CREATE`
/// makes.
///
/// # Errors
/// As openat2(2): `EXDEV` for what leads out of the directory, `ELOOP` for a link where none is followed; `EAGAIN` when somebody
/// does not stop to rename.
pub fn open(directory: impl AsFd, path: &Path, flags: OFlags, mode: Mode, links: Links) -> Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let resolve = match links {
        Links::None => beneath | ResolveFlags::NO_SYMLINKS,
        Links::Within => beneath,
    };
    for _ in 0..LOOKUPS {
        match openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Read,
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    fn read(directory: &File, path: &str, links: Links) -> Result<String> {
        let mut text = String::new();
        let mut file = File::from(open(directory, path.as_ref(), OFlags::RDONLY, Mode::empty(), links)?);
        file.read_to_string(&mut text).map_err(|error| Errno::from_io_error(&error).unwrap())?;
        Ok(text)
    }

    #[test]
    fn nothing_leads_out() {
        let place = tempfile::tempdir().unwrap();
        let inside = place.path().join("inside");
        fs::create_dir_all(inside.join("a")).unwrap();
        fs::write(place.path().join("secret"), "theirs").unwrap();
        fs::write(inside.join("a/file"), "ours").unwrap();
        symlink("a/file", inside.join("link")).unwrap();
        symlink("../secret", inside.join("beside")).unwrap();
        symlink(place.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        let directory = File::open(&inside).unwrap();
        for links in [Links::None, Links::Within] {
            assert_eq!(read(&directory, "a/../a/file", links).unwrap(), "ours");
            for path in ["../secret", "a/../../secret", "beside", "absolute", "magic/etc/passwd", "/etc/passwd"] {
                let error = read(&directory, path, links).unwrap_err();
                assert!([Errno::XDEV, Errno::LOOP].contains(&error), "{path}: {error}");
            }
        }
        assert_eq!(read(&directory, "link", Links::Within).unwrap(), "ours");
        assert_eq!(read(&directory, "link", Links::None).unwrap_err(), Errno::LOOP);
        let link =
            open(&directory, "link".as_ref(), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), Links::None).unwrap();
        assert_eq!(rustix::fs::readlinkat(link, c"", Vec::new()).unwrap().as_c_str(), c"a/file");
        assert_eq!(
            open(&directory, "link".as_ref(), OFlags::PATH, Mode::empty(), Links::None).unwrap_err(),
            Errno::LOOP
        );
        // Without a path, the directory.
        assert_eq!(read(&directory, "", Links::None).unwrap_err(), Errno::ISDIR);
    }

    #[test]
    fn what_is_renamed_meanwhile_is_found() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("a/b")).unwrap();
        fs::write(place.path().join("a/file"), "ours").unwrap();
        let directory = File::open(place.path()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, other) = (place.path().join("x"), place.path().join("y"));
                fs::create_dir(&one).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&one, &other).unwrap();
                    fs::rename(&other, &one).unwrap();
                }
            });
            for _ in 0..2000 {
                assert_eq!(read(&directory, "a/b/../file", Links::None), Ok("ours".into()));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
