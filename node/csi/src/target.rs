//! The directory that a volume is published at. Two files lie in it: first what was begun, so that it can be undone
//! whenever the driver dies; then, for hyperd, the descriptor.
//!
//! It is one of a pod's: all is opened beneath the kubelet's directory of pods, of which the driver has a descriptor, and no
//! link is followed. Whatever lies in the way, nothing elsewhere is touched.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use hypernetes_api::{TenantId, names, types::network::PodReference};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{beneath::Directory, descriptor::Descriptor, error::Failure};

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

/// The kubelet's directory of pods.
#[derive(Debug, Clone)]
pub(crate) struct Pods {
    path: Arc<Path>,
    directory: Arc<Directory>,
}

/// The work is blocking: to be called where that is no harm.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pods: Pods,
    path: PathBuf,
    /// Beneath the directory of pods: the directory above, and the name in it.
    above: PathBuf,
    name: Box<OsStr>,
}

impl Pods {
    /// # Errors
    /// As the system says.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), directory: Directory::root(path)?.into() })
    }

    /// # Errors
    /// For a path that is not one of a directory of a pod's.
    pub(crate) fn target(&self, path: &str) -> Result<Target, Failure> {
        let refused = || {
            let shown: String = path.chars().take(200).collect();
            Failure::Invalid(format!("target_path {shown:?} is not a path without \"..\" in a pod's directory"))
        };
        let relative = Path::new(path).strip_prefix(&self.path).map_err(|_| refused())?;
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_))) && !path.contains('\0');
        match (relative.parent(), relative.file_name()) {
            (Some(above), Some(name)) if plain && above != Path::new("") => Ok(Target {
                pods: self.clone(),
                path: self.path.join(relative),
                above: above.into(),
                name: name.into(),
            }),
            _ => Err(refused()),
        }
    }
}

/// None: it is not there, or no directory.
fn found<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

impl Target {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn above(&self) -> io::Result<Directory> {
        self.pods.directory.open(&self.above)
    }

    fn directory(&self) -> io::Result<Directory> {
        self.above()?.open(self.name.as_ref().as_ref())
    }

    pub(crate) fn record(&self) -> Result<Option<Record>, Failure> {
        let read = || match found(self.directory())? {
            Some(directory) => found(directory.read(RECORD)),
            None => Ok(None),
        };
        let text = read().map_err(self.failed("reading"))?;
        text.map(|text| parsed(&text)).transpose().map_err(self.failed("reading"))
    }

    /// Remembers what is about to be done; the directory above has to be there.
    pub(crate) fn begin(&self, record: &Record) -> Result<(), Failure> {
        self.above().and_then(|above| above.make(&self.name)).map_err(self.failed("making"))?;
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
        match found(self.above()).map_err(self.failed("removing"))? {
            Some(above) => above.remove_directory(&self.name).map_err(self.failed("removing")),
            None => Ok(()),
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let write = || self.directory()?.write(name, &serde_json::to_vec(value)?);
        write().map_err(self.failed("writing in"))
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        let remove = || {
            let Some(directory) = found(self.directory())? else { return Ok(()) };
            directory.remove(&format!("{name}.new"))?;
            directory.remove(name)
        };
        remove().map_err(self.failed("removing a file in"))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> Failure {
        let path = self.path.clone();
        move |source| {
            tracing::warn!(path = %path.display(), %source, "{doing} a mount's directory");
            Failure::File { doing, source }
        }
    }
}

fn parsed<T: DeserializeOwned>(text: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(text)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::descriptor::Mode;

    /// A directory with the pods' in it, where the pod `web` has a directory.
    fn pods() -> (tempfile::TempDir, Pods) {
        let directory = tempfile::tempdir().unwrap();
        let pods = Pods::open(&directory.path().join("pods")).unwrap();
        fs::create_dir(pods.path.join("web")).unwrap();
        (directory, pods)
    }

    fn target(pods: &Pods) -> Target {
        pods.target(pods.path.join("web/mount").to_str().unwrap()).unwrap()
    }

    fn record() -> Record {
        let pod = PodReference { namespace: "default".into(), name: "web".into(), uid: "1".into() };
        Record { tenant: "acme".parse().unwrap(), volume: "v".into(), pod }
    }

    fn descriptor() -> Descriptor {
        Descriptor::file(&record().tenant, uuid::Uuid::nil(), Mode::Block, false)
    }

    #[test]
    fn what_was_begun_is_found_and_undone() {
        let (_directory, pods) = pods();
        let target = target(&pods);
        assert_eq!(target.record().unwrap(), None);
        target.withdraw().unwrap();
        target.end().unwrap();
        target.begin(&record()).unwrap();
        target.begin(&record()).unwrap();
        assert_eq!(target.record().unwrap(), Some(record()));
        // What a crash in the middle of writing leaves.
        fs::write(target.path().join(format!("{}.new", names::VOLUME_DESCRIPTOR)), "{").unwrap();
        target.withdraw().unwrap();
        target.end().unwrap();
        assert!(!target.path().exists());
        // The pod's directory is gone, too.
        fs::remove_dir(pods.path.join("web")).unwrap();
        assert_eq!(target.record().unwrap(), None);
        target.withdraw().unwrap();
        target.end().unwrap();
    }

    #[test]
    fn what_is_not_ours_stays() {
        let (directory, pods) = pods();
        let target = target(&pods);
        fs::create_dir(target.path()).unwrap();
        fs::write(target.path().join("else"), "").unwrap();
        assert!(matches!(target.end(), Err(Failure::File { doing: "removing", .. })));
        assert!(target.path().join("else").exists());
        let (root, below) = (directory.path().to_str().unwrap(), pods.path.to_str().unwrap());
        let elsewhere = [format!("{root}/mount"), format!("{root}/pods-too/web/mount"), "/etc/x/y".into()];
        let up = [format!("{below}/web/../mount"), format!("{below}/../pods/web/mount"), format!("{below}/web/..")];
        let others =
            [String::new(), "relative".into(), below.into(), format!("{below}/web"), format!("{below}/web/a\0b")];
        for bad in elsewhere.into_iter().chain(up).chain(others) {
            assert!(matches!(pods.target(&bad), Err(Failure::Invalid(_))), "{bad:?}");
        }
    }

    /// Wherever a link lies, nothing is made, read, changed or removed beyond it.
    #[test]
    fn no_link_is_followed() {
        let (directory, pods) = pods();
        let outside = directory.path().join("outside");
        fs::create_dir_all(outside.join("mount")).unwrap();
        let theirs = [RECORD, names::VOLUME_DESCRIPTOR, "attachment.hypernetes.json.new"];
        let content = serde_json::to_string(&record()).unwrap();
        for file in theirs {
            fs::write(outside.join("mount").join(file), &content).unwrap();
        }
        let untouched = || {
            assert_eq!(fs::read_dir(outside.join("mount")).unwrap().count(), theirs.len());
            for file in theirs {
                assert_eq!(fs::read_to_string(outside.join("mount").join(file)).unwrap(), content, "{file}");
            }
        };
        let refused = |path: &Path| {
            let target = pods.target(path.to_str().unwrap()).unwrap();
            assert!(target.begin(&record()).is_err() && !matches!(target.record(), Ok(Some(_))), "{path:?}");
            assert!(target.publish(&descriptor()).is_err());
            let _ = (target.withdraw(), target.end());
            untouched();
        };
        // The target itself, what is above it, and the pod's directory.
        symlink(outside.join("mount"), pods.path.join("web/mount")).unwrap();
        refused(&pods.path.join("web/mount"));
        symlink(&outside, pods.path.join("web/above")).unwrap();
        refused(&pods.path.join("web/above/mount"));
        symlink(&outside, pods.path.join("other")).unwrap();
        refused(&pods.path.join("other/mount"));
        // In the target: what is written takes the link's place, and what is read is not what it leads to.
        let path = pods.path.join("web/mount-2");
        fs::create_dir(&path).unwrap();
        for file in theirs {
            symlink(outside.join("mount").join(file), path.join(file)).unwrap();
        }
        let target = pods.target(path.to_str().unwrap()).unwrap();
        assert!(target.record().is_err());
        target.begin(&record()).unwrap();
        target.publish(&descriptor()).unwrap();
        assert!(fs::symlink_metadata(path.join(names::VOLUME_DESCRIPTOR)).unwrap().is_file());
        untouched();
        target.withdraw().unwrap();
        target.end().unwrap();
        assert!(!path.exists());
        untouched();
    }
}
