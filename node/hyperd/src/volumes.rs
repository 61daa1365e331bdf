//! Persistent volumes: the descriptor that the CSI driver leaves in the mount's directory, and the file system of a
//! volume that has none yet.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Name of the descriptor in the mount's directory.
pub(crate) const DESCRIPTOR: &str = "volume.hypernetes.json";
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 10;
const FORMAT_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub id: String,
    driver: String,
    pub path: PathBuf,
    #[serde(default = "ext4")]
    pub fs_type: String,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Mode {
    #[default]
    Filesystem,
    Block,
}

fn ext4() -> String {
    "ext4".into()
}

impl Descriptor {
    /// The descriptor in a directory; none when there is no such file.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(DESCRIPTOR);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::file("reading", path)(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_DESCRIPTOR_BYTES).read_to_end(&mut text).map_err(Error::file("reading", &path))?;
        let refuse = |reason: String| Error::Volume { path: path.clone(), reason };
        let descriptor: Self = serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))?;
        if descriptor.driver != "file" {
            return Err(refuse(format!("the driver {:?} is not known", descriptor.driver)));
        }
        if descriptor.fs_type != "ext4" {
            return Err(refuse(format!("the file system {:?} is not supported, only ext4", descriptor.fs_type)));
        }
        Ok(Some(descriptor))
    }

    /// Checks that the volume is a file or device below one of the allowed directories.
    pub(crate) fn check(&self, allowed: &[PathBuf]) -> Result<PathBuf> {
        let refuse = |reason: String| Error::Volume { path: self.path.clone(), reason };
        let real = self.path.canonicalize().map_err(|e| refuse(e.to_string()))?;
        let inside = allowed.iter().filter_map(|d| d.canonicalize().ok()).any(|d| real.starts_with(d));
        if !inside {
            return Err(refuse("it is not in a directory of volumes".into()));
        }
        let kind = fs::metadata(&real).map_err(|e| refuse(e.to_string()))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(refuse("it is neither a file nor a block device".into()));
        }
        Ok(real)
    }
}

/// Makes a file system on a volume that holds no data at all. `state` remembers formats that are under way, so that
/// an interrupted one is done again.
pub(crate) async fn format_if_blank(volume: &Path, state: &Path) -> Result<()> {
    let refuse = |reason: String| Error::Volume { path: volume.into(), reason };
    fs::create_dir_all(state).map_err(Error::file("making", state))?;
    let metadata = fs::metadata(volume).map_err(|e| refuse(e.to_string()))?;
    let key = format!("{}:{}:{}", volume.display(), metadata.dev(), metadata.ino());
    let marker = state.join(hex::encode(Sha256::digest(key)));
    if !marker.exists() {
        if !is_blank(volume).map_err(|e| refuse(e.to_string()))? {
            return Ok(());
        }
        File::create(&marker).and_then(|f| f.sync_all()).map_err(Error::file("writing", &marker))?;
        File::open(state).and_then(|f| f.sync_all()).map_err(Error::file("writing", state))?;
    }
    // Locked as long as this process or the one that it starts has it open: if this one is killed, that one runs on.
    let locked = File::open(&marker).map_err(Error::file("opening", &marker))?;
    locked.try_lock().map_err(|e| refuse(format!("a file system is being made on it already ({e}): try again")))?;
    tracing::info!(volume = %volume.display(), "making a file system on a blank volume");
    let run = tokio::process::Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "--"])
        .arg(volume)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin")
        .stdin(locked)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(FORMAT_TIMEOUT, run)
        .await
        .map_err(|_| refuse(format!("mkfs.ext4 did not end within {} s", FORMAT_TIMEOUT.as_secs())))?
        .map_err(|e| refuse(format!("mkfs.ext4: {e} (it is in Debian's package e2fsprogs)")))?;
    if !output.status.success() {
        let words = crate::agent::clean(&String::from_utf8_lossy(&output.stderr));
        return Err(refuse(format!("mkfs.ext4: {}: {words}", output.status)));
    }
    File::open(volume).and_then(|f| f.sync_all()).map_err(|e| refuse(e.to_string()))?;
    fs::remove_file(&marker).map_err(Error::file("removing", &marker))
}

/// Whether a file has nothing but a hole, or is empty. A device is never called blank: telling needs all of it read.
fn is_blank(volume: &Path) -> io::Result<bool> {
    let file = File::open(volume)?;
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    match lseek(&file, 0, Whence::SeekData) {
        Ok(_) => Ok(false),
        Err(Errno::ENXIO) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_blank_volumes_are_formatted() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, state) = (dir.path().join("v.raw"), dir.path().join("state"));
        File::create(&volume).unwrap().set_len(64 << 20).unwrap();
        assert!(is_blank(&volume).unwrap());
        format_if_blank(&volume, &state).await.unwrap();
        // ext4's magic number lies at 1080.
        let bytes = fs::read(&volume).unwrap();
        assert_eq!(&bytes[1080..1082], &[0x53, 0xef]);
        format_if_blank(&volume, &state).await.unwrap();
        assert!(fs::read(&volume).unwrap() == bytes);
        // An earlier process was killed while mkfs ran, which runs on.
        let metadata = fs::metadata(&volume).unwrap();
        let key = format!("{}:{}:{}", volume.display(), metadata.dev(), metadata.ino());
        let marker = File::create(state.join(hex::encode(Sha256::digest(key)))).unwrap();
        marker.lock().unwrap();
        let error = format_if_blank(&volume, &state).await.unwrap_err().to_string();
        assert!(error.contains("try again"), "{error}");
        assert!(fs::read(&volume).unwrap() == bytes);
        drop(marker);
        format_if_blank(&volume, &state).await.unwrap();
        assert!(fs::read(&volume).unwrap() != bytes, "an interrupted format is done again");
        let foreign = dir.path().join("x.raw");
        fs::write(&foreign, "not a file system").unwrap();
        format_if_blank(&foreign, &state).await.unwrap();
        assert_eq!(fs::read(&foreign).unwrap(), b"not a file system");
    }

    #[test]
    fn descriptors_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Descriptor::read(dir.path()).unwrap().is_none());
        let write = |text: &str| fs::write(dir.path().join(DESCRIPTOR), text).unwrap();
        write(r#"{"id":"1","driver":"file","path":"/etc/passwd"}"#);
        let descriptor = Descriptor::read(dir.path()).unwrap().unwrap();
        assert_eq!((descriptor.fs_type.as_str(), descriptor.mode), ("ext4", Mode::Filesystem));
        assert!(descriptor.check(&[dir.path().into()]).is_err());
        assert!(descriptor.check(&[]).is_err());
        write(r#"{"id":"1","driver":"nfs","path":"/x"}"#);
        assert!(Descriptor::read(dir.path()).is_err());
        write("{");
        assert!(Descriptor::read(dir.path()).is_err());
    }
}
