//! A directory in which each pod has one of its own.

use std::{ffi::OsString, io, os::fd::OwnedFd, path::Path, sync::Arc};

use hypernetes_api::Uid;
use rustix::{
    fs::{CWD, Mode, OFlags, fchmod, mkdirat, openat},
    io::Errno,
};

use super::{
    descriptor::{PRIVATE, beneath, list, remove},
    dir::PodDir,
    place::Name,
};

/// A directory of the kubelet's in which each pod has one of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodDirs {
    directory: Arc<OwnedFd>,
    path: Arc<Path>,
}

impl PodDirs {
    /// `path` is the operator's, not a tenant's. It is made where it is not there, and made private.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "the path is the operator's own")]
        std::fs::create_dir_all(path)?;
        let directory = openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        fchmod(&directory, Mode::from_raw_mode(PRIVATE))?;
        Ok(Self { directory: directory.into(), path: path.into() })
    }

    /// The handle for what lies together below a further name, as a tenant's logs do.
    ///
    /// # Errors
    /// As the system says.
    pub fn below(&self, name: impl Name) -> io::Result<Self> {
        let made = self.make(name)?;
        Ok(Self { directory: made.directory, path: made.path })
    }

    /// As [`PodDirs::below`], if it is there.
    ///
    /// # Errors
    /// As the system says.
    pub fn find_below(&self, name: impl Name) -> io::Result<Option<Self>> {
        Ok(self.find(name)?.map(|found| Self { directory: found.directory, path: found.path }))
    }

    /// A pod's directory, made where it is not there.
    ///
    /// # Errors
    /// As the system says.
    pub fn make(&self, name: impl Name) -> io::Result<PodDir> {
        match mkdirat(&self.directory, name.component(), Mode::from_raw_mode(PRIVATE)) {
            Err(Errno::EXIST) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let made = self.open_one(name)?;
        // An earlier version made it for everybody.
        fchmod(&made.directory, Mode::from_raw_mode(PRIVATE))?;
        Ok(made)
    }

    /// A pod's directory, if it has one.
    ///
    /// # Errors
    /// As the system says.
    pub fn find(&self, name: impl Name) -> io::Result<Option<PodDir>> {
        match self.open_one(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn open_one(&self, name: impl Name) -> io::Result<PodDir> {
        let directory = beneath(&self.directory, name.component(), OFlags::DIRECTORY, Mode::empty())?;
        Ok(PodDir { directory: directory.into(), path: self.path.join(name.component()).into() })
    }

    /// Names of all that is here.
    ///
    /// # Errors
    /// As the system says.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        list(&beneath(&self.directory, Path::new("."), OFlags::DIRECTORY, Mode::empty())?)
    }

    /// The pods that have a directory.
    ///
    /// # Errors
    /// As the system says.
    pub fn uids(&self) -> io::Result<Vec<Uid>> {
        Ok(self.names()?.iter().filter_map(|name| Uid::new(name.to_str()?).ok()).collect())
    }

    /// Removes a pod's directory with all that is in it; one that is not there is no error.
    ///
    /// # Errors
    /// As the system says.
    pub fn remove(&self, name: impl Name) -> io::Result<()> {
        remove(&self.directory, name.component().as_os_str())
    }
}
