//! A pod's own directory at the kubelet: what its mounts may name.
//!
//! Everything in it is opened beneath the directory's descriptor, so that neither a name nor a link leads out of it, into
//! another pod's or elsewhere on the host.

use std::{
    fs::File,
    io,
    path::{Component, Path, PathBuf},
};

pub(crate) use hypernetes_beneath::Links;
use hypernetes_names::Uid;
use rustix::fs::{Mode, OFlags, open};

/// `<the kubelet's directory of pods>/<uid>`; it need not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodDir {
    pods: PathBuf,
    uid: Uid,
}

impl PodDir {
    pub(crate) fn new(pods: &Path, uid: Uid) -> Self {
        Self { pods: pods.into(), uid }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.pods.join(&self.uid)
    }

    /// The path below the directory of what lies in it by its name; none when it does not.
    pub(crate) fn relative<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        let relative = path.strip_prefix(self.path()).ok()?;
        relative.components().all(|part| matches!(part, Component::Normal(_))).then_some(relative)
    }

    /// The same pod's directory where the directory of pods is without links; none when there is none.
    pub(crate) fn canonical(&self) -> Option<Self> {
        Some(Self { pods: self.pods.canonicalize().ok()?, uid: self.uid.clone() })
    }

    /// Opens what is at a path of the directory. The kubelet's atomic writer makes links within it.
    ///
    /// # Errors
    /// As openat2(2): `EXDEV` when a link leads out of the directory, `ELOOP` for any link where none is followed.
    pub(crate) fn open(&self, path: &Path, flags: OFlags, links: Links) -> io::Result<File> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "it is not in the pod's own directory");
        let relative = self.relative(path).ok_or_else(outside)?;
        let place = OFlags::PATH | OFlags::DIRECTORY;
        let pods = open(&self.pods, place | OFlags::CLOEXEC, Mode::empty())?;
        let pod = hypernetes_beneath::open(pods, self.uid.as_str().as_ref(), place, Mode::empty(), Links::None)?;
        Ok(hypernetes_beneath::open(pod, relative, flags, Mode::empty(), links)?.into())
    }

    /// Opens a file or directory to read it. What would not let itself be read at once, like a pipe, is opened all the same.
    pub(crate) fn read(&self, path: &Path, links: Links) -> io::Result<File> {
        self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, links)
    }

    pub(crate) fn is_directory(&self, path: &Path) -> bool {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY, Links::Within).is_ok()
    }
}

/// Opens a place that the operator has named, and below it, following no link, what `parts` lead to.
///
/// # Errors
/// As openat2(2).
pub(crate) fn open_beneath(base: &Path, path: &Path) -> io::Result<File> {
    let base = open(base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(hypernetes_beneath::open(base, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), Links::None)?.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_leads_out_of_a_pods_directory() {
        let pods = tempfile::tempdir().unwrap();
        let pod = PodDir::new(pods.path(), Uid::new("mine").unwrap());
        for place in ["mine/a", "yours"] {
            fs::create_dir_all(pods.path().join(place)).unwrap();
        }
        fs::write(pods.path().join("yours/secret"), "theirs").unwrap();
        fs::write(pods.path().join("mine/a/file"), "ours").unwrap();
        symlink("a/file", pod.path().join("inside")).unwrap();
        symlink("../yours/secret", pod.path().join("beside")).unwrap();
        symlink(pods.path().join("yours/secret"), pod.path().join("absolute")).unwrap();
        symlink("../../..", pod.path().join("a/up")).unwrap();
        let read = |path: &str, links| {
            let mut text = String::new();
            pod.read(&pods.path().join(path), links)?.read_to_string(&mut text)?;
            Ok::<_, io::Error>(text)
        };
        assert_eq!(read("mine/a/file", Links::None).unwrap(), "ours");
        assert_eq!(read("mine/inside", Links::Within).unwrap(), "ours");
        assert!(read("mine/inside", Links::None).is_err());
        for path in [
            "mine/beside",
            "mine/absolute",
            "mine/a/up/etc/passwd",
            "mine/../yours/secret",
            "yours/secret",
            "/etc/passwd",
            "mine/none",
        ] {
            assert!(read(path, Links::Within).is_err(), "{path}");
        }
        // The directory itself is not a link to another's.
        symlink("yours", pods.path().join("alias")).unwrap();
        let alias = PodDir::new(pods.path(), Uid::new("alias").unwrap());
        assert!(alias.read(&alias.path().join("secret"), Links::Within).is_err());
    }
}
