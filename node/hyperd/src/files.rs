//! File sets: config maps, secrets, tokens and the like, copied from the kubelet's directories into the guest, and
//! copied again whenever the kubelet changes them.

use std::{
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hypernetes_guest_protocol::v1;
use hypernetes_watch::Watcher;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    error::{Error, Result},
    pod_dir::{Links, PodDir},
};

/// Bounds of one set. A config map or secret is at most 1 MiB, a projected volume may hold several.
const MAX_SET_BYTES: usize = 16 << 20;
const MAX_SET_FILES: usize = 4096;
const MAX_DEPTH: usize = 16;
/// Name of the only file in a set that is made of one file.
pub(crate) const SINGLE: &str = "file";
/// What the kubelet's atomic writer is about to rename to `..data`.
const SWAPPED_IN: &str = "..data_tmp";
/// The kubelet changes several things at a time; one copy is enough for them.
const SETTLE: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(2);

/// Where a set comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct FileSetSource {
    /// Its name in the guest.
    pub set: String,
    pub path: PathBuf,
    /// Who root is in the guest, for a pod with a user namespace.
    #[serde(default)]
    pub owner: u32,
}

impl FileSetSource {
    pub(crate) fn new(path: &Path) -> Self {
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        Self { set: format!("files-{}", hex::encode(&digest[..8])), path: path.into(), owner: 0 }
    }
}

/// Reads a set. Relative links within it stay links: the kubelet's atomic writer changes a set by one of them
/// (`..data`), and so does the guest. Other links are followed, but never out of the pod's directory.
pub(crate) fn read_set(source: &Path, pod: &PodDir) -> Result<Vec<v1::File>> {
    let mut reader = Reader { pod, files: Vec::new(), bytes: 0 };
    let opened = reader.open(source)?;
    if opened.1.is_dir() {
        reader.directory(&opened.0, source, "", 0)?;
    } else {
        reader.entry(source, SINGLE.into(), 0)?;
    }
    Ok(reader.files)
}

/// A link's target that does not leave the directory that the link lies in.
fn is_within(target: &Path) -> bool {
    target.to_str().is_some() && target.components().all(|c| matches!(c, Component::Normal(_)))
}

struct Reader<'p> {
    pod: &'p PodDir,
    files: Vec<v1::File>,
    bytes: usize,
}

impl Reader<'_> {
    /// What is read is what was looked at.
    fn open(&self, path: &Path) -> Result<(fs::File, fs::Metadata)> {
        let opened = self.pod.read(path, Links::Within).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((metadata, file)) => Ok((file, metadata)),
            Err(error) if matches!(error.raw_os_error(), Some(libc) if libc == Errno::EXDEV as i32) => {
                Err(Error::FailedPrecondition(format!("{} leads out of the pod's directory", path.display())))
            }
            Err(error) => Err(Error::file("reading", path)(error)),
        }
    }

    fn directory(&mut self, opened: &fs::File, directory: &Path, prefix: &str, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::FailedPrecondition(format!("{} is nested too deeply", directory.display())));
        }
        let failed = |error: rustix::io::Errno| Error::file("reading", directory)(error.into());
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(opened).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_owned());
            self.count(directory, names.len())?;
        }
        names.sort();
        for name in names {
            let Some(name) = name.to_str().ok().filter(|name| !matches!(*name, "." | ".." | SWAPPED_IN)) else {
                continue;
            };
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            match rustix::fs::readlinkat(opened, name, Vec::new()) {
                Ok(target) if depth == 0 && is_within(Path::new(OsStr::from_bytes(target.as_bytes()))) => {
                    self.link(path, Path::new(OsStr::from_bytes(target.as_bytes())))?;
                }
                _ => self.entry(&directory.join(name), path, depth)?,
            }
        }
        Ok(())
    }

    fn link(&mut self, path: String, target: &Path) -> Result<()> {
        self.count(Path::new(&path), 0)?;
        self.files.push(v1::File { path, symlink_target: target.display().to_string(), ..Default::default() });
        Ok(())
    }

    fn count(&self, path: &Path, more: usize) -> Result<()> {
        if self.files.len() + more < MAX_SET_FILES {
            return Ok(());
        }
        Err(Error::FailedPrecondition(format!("{} is one file of more than {MAX_SET_FILES}", path.display())))
    }

    fn entry(&mut self, from: &Path, path: String, depth: usize) -> Result<()> {
        self.count(from, 0)?;
        let (opened, metadata) = self.open(from)?;
        let mut file = v1::File {
            path: path.clone(),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            ..Default::default()
        };
        if metadata.is_dir() {
            file.directory = true;
            self.files.push(file);
            return self.directory(&opened, from, &path, depth + 1);
        }
        if !metadata.is_file() {
            return Err(Error::FailedPrecondition(format!("{} is not a file", from.display())));
        }
        let too_large = || Error::FailedPrecondition(format!("{} is larger than 16 MiB in all", from.display()));
        let room = (MAX_SET_BYTES - self.bytes) as u64;
        let read = opened.take(room + 1).read_to_end(&mut file.data).map_err(Error::file("reading", from))?;
        if read as u64 > room {
            return Err(too_large());
        }
        self.bytes += read;
        self.files.push(file);
        Ok(())
    }
}

/// Copies a set now, and until `cancel` whenever it changes.
pub(crate) async fn put_and_follow(
    watcher: &Arc<Watcher>,
    source: FileSetSource,
    pod: PodDir,
    agent: Agent,
    cancel: CancellationToken,
) -> Result<()> {
    // The watch comes first: a change during the copy is seen then.
    let directory = if source.path.is_dir() { Some(source.path.as_path()) } else { source.path.parent() };
    let mut watch = match directory {
        Some(directory) => watcher.entries(directory).map_err(Error::file("watching", directory))?,
        None => return Err(Error::InvalidArgument(format!("{} has no directory", source.path.display()))),
    };
    put(&source, &pod, &agent).await?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = watch.changed() => {}
            }
            tokio::time::sleep(SETTLE).await;
            while let Err(error) = put(&source, &pod, &agent).await {
                // Its owner is being removed: nothing to do any more.
                if !source.path.exists() {
                    return;
                }
                tracing::warn!(path = %source.path.display(), %error, "copying changed files into the pod failed");
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    });
    Ok(())
}

async fn put(source: &FileSetSource, pod: &PodDir, agent: &Agent) -> Result<()> {
    let (path, pod) = (source.path.clone(), pod.clone());
    let mut files = tokio::task::spawn_blocking(move || read_set(&path, &pod))
        .await
        .map_err(|e| Error::FailedPrecondition(e.to_string()))??;
    for file in &mut files {
        file.uid = file.uid.saturating_add(source.owner);
        file.gid = file.gid.saturating_add(source.owner);
    }
    Ok(agent.put_files(&source.set, files).await?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn pod() -> (tempfile::TempDir, PodDir) {
        let pods = tempfile::tempdir().unwrap();
        let pod = PodDir::new(pods.path(), hypernetes_names::Uid::new("uid-1").unwrap());
        fs::create_dir(pod.path()).unwrap();
        (pods, pod)
    }

    /// A directory as the kubelet's atomic writer leaves it.
    fn atomic(dir: &Path, version: &str, value: &str) {
        let data = dir.join(format!("..{version}"));
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("key"), value).unwrap();
        symlink(format!("..{version}"), dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        if !dir.join("key").exists() {
            symlink("..data/key", dir.join("key")).unwrap();
        }
    }

    #[test]
    fn atomic_directories_stay_as_they_are() {
        let (_pods, pod) = pod();
        atomic(&pod.path(), "1", "a");
        let files = read_set(&pod.path(), &pod).unwrap();
        let seen: Vec<_> =
            files.iter().map(|f| (f.path.as_str(), f.symlink_target.as_str(), f.data.as_slice())).collect();
        let expected: [(&str, &str, &[u8]); 4] =
            [("..1", "", b""), ("..1/key", "", b"a"), ("..data", "..1", b""), ("key", "..data/key", b"")];
        assert_eq!(seen, expected);
        let files = read_set(&pod.path().join("key"), &pod).unwrap();
        assert_eq!((files[0].path.as_str(), files[0].data.as_slice()), (SINGLE, &b"a"[..]));
    }

    #[test]
    fn links_out_of_the_pod_are_refused() {
        let (pods, pod) = pod();
        std::fs::create_dir(pods.path().join("other")).unwrap();
        std::fs::write(pods.path().join("other/secret"), "theirs").unwrap();
        let other = pods.path().join("other");
        for (target, name) in [
            (Path::new("/etc/passwd"), "x"),
            (Path::new("../other/secret"), "x"),
            (&other, "x"),
            (Path::new("../other"), "x"),
        ] {
            symlink(target, pod.path().join(name)).unwrap();
            let read = read_set(&pod.path(), &pod);
            assert!(matches!(read, Err(Error::FailedPrecondition(_))), "{target:?}: {read:?}");
            std::fs::remove_file(pod.path().join(name)).unwrap();
        }
        // Another pod's, or the host's, is none of this one's however it is named.
        for path in [&other, Path::new("/etc")] {
            assert!(read_set(path, &pod).is_err());
        }
    }

    #[tokio::test]
    async fn swaps_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        atomic(dir.path(), "1", "a");
        let mut watch = Watcher::shared().unwrap().entries(dir.path()).unwrap();
        atomic(dir.path(), "2", "b");
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.unwrap();
    }
}
