//! The directory that a volume is published at. Two files lie in it: first what was begun, so that it can be undone
//! whenever the driver dies; then, for hyperd, the descriptor.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use hypernetes_api::{TenantId, names, types::network::PodReference};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{descriptor::Descriptor, error::Failure};

const RECORD: &str = "attachment.hypernetes.json";

/// Which volume is published here, and for whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub tenant: TenantId,
    /// `metadata.name` of the Volume and of its Attachment.
    pub volume: String,
    pub pod: PodReference,
}

/// The work is blocking: to be called where that is no harm.
#[derive(Debug, Clone)]
pub(crate) struct Target(PathBuf);

impl Target {
    /// # Errors
    /// For a path that is not absolute or leads up.
    pub(crate) fn parse(path: &str) -> Result<Self, Failure> {
        let clean = Path::new(path).components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !path.starts_with('/') || !clean || path.contains('\0') {
            return Err(Failure::Invalid(format!("target_path {path:?} is not an absolute path without \"..\"")));
        }
        Ok(Self(path.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> Result<Option<Record>, Failure> {
        self.read(RECORD)
    }

    /// Remembers what is about to be done; the directory above has to be there.
    pub(crate) fn begin(&self, record: &Record) -> Result<(), Failure> {
        match fs::create_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.map_err(self.failed("making"))?,
        }
        if let Some(above) = self.0.parent() {
            sync(above).map_err(self.failed("making"))?;
        }
        self.write(RECORD, record)
    }

    pub(crate) fn publish(&self, descriptor: &Descriptor) -> Result<(), Failure> {
        self.write(names::VOLUME_DESCRIPTOR, descriptor)
    }

    /// From here on no new VM gets the volume.
    pub(crate) fn withdraw(&self) -> Result<(), Failure> {
        self.remove(names::VOLUME_DESCRIPTOR)
    }

    /// Forgets what was begun.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        self.remove(RECORD)?;
        match fs::remove_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(self.failed("removing")),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        match fs::read(self.0.join(name)) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(self.failed("reading")(error)),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| self.failed("reading")(error.into())),
        }
    }

    /// The file is there as a whole or not at all, also after a power failure.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let unfinished = self.0.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(value)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.0.join(name))?;
            sync(&self.0)
        };
        write().map_err(self.failed("writing in"))
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        for name in [format!("{name}.new"), name.to_owned()] {
            match fs::remove_file(self.0.join(name)) {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                other => other.map_err(self.failed("removing a file in"))?,
            }
        }
        Ok(())
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> Failure {
        let path = self.0.clone();
        move |source| {
            tracing::warn!(path = %path.display(), %source, "{doing} a mount's directory");
            Failure::File { doing, source }
        }
    }
}

/// Makes the names in a directory durable.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_found_and_undone() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target::parse(directory.path().join("mount").to_str().unwrap()).unwrap();
        assert_eq!(target.record().unwrap(), None);
        target.withdraw().unwrap();
        target.end().unwrap();
        let pod = PodReference { namespace: "default".into(), name: "web".into(), uid: "1".into() };
        let record = Record { tenant: "acme".parse().unwrap(), volume: "v".into(), pod };
        target.begin(&record).unwrap();
        target.begin(&record).unwrap();
        assert_eq!(target.record().unwrap(), Some(record));
        // What a crash in the middle of writing leaves.
        fs::write(target.path().join(format!("{}.new", names::VOLUME_DESCRIPTOR)), "{").unwrap();
        target.withdraw().unwrap();
        target.end().unwrap();
        assert!(!target.path().exists());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("else"), "").unwrap();
        let target = Target::parse(directory.path().to_str().unwrap()).unwrap();
        assert!(matches!(target.end(), Err(Failure::File { doing: "removing", .. })));
        assert!(directory.path().join("else").exists());
        for bad in ["", "relative", "/a/../b", "/a\0b"] {
            assert!(matches!(Target::parse(bad), Err(Failure::Invalid(_))), "{bad:?}");
        }
    }
}
