//! Persistent volumes: the descriptor that the CSI driver leaves in the mount's directory (`node/csi` is the other side),
//! and the file system of a volume that has none yet.
//!
//! A descriptor says which volume of which tenant is meant, and nothing of where it is: the path is made here, of names that
//! have been parsed, below the directories that the operator has named. It counts for pods of that tenant only.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use hypernetes_names::{DnsLabel, Uid};
use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    pod_dir::{Links, PodDir, open_beneath},
};

/// Name of the descriptor in the mount's directory.
pub(crate) const DESCRIPTOR: &str = "volume.hypernetes.json";
const MAX_DESCRIPTOR_BYTES: u64 = 64 << 10;
const FORMAT_TIMEOUT: Duration = Duration::from_secs(120);
/// Bits of a mode by which others than the owner may write.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// A descriptor as it lies in the directory; what it claims is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    place: Place,
    pub read_only: bool,
    pub mode: Mode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Volume {
        tenant: DnsLabel,
        volume: Uid,
    },
    /// As drivers said before they named tenants.
    Path {
        id: Uid,
        path: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Mode {
    #[default]
    Filesystem,
    Block,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default = "first")]
    version: u32,
}

fn first() -> u32 {
    1
}

/// What is written today.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Second {
    #[serde(rename = "version")]
    _version: u32,
    engine: String,
    tenant: DnsLabel,
    volume: Uid,
    read_only: bool,
    #[serde(default)]
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct First {
    id: Uid,
    driver: String,
    path: PathBuf,
    #[serde(default = "ext4")]
    fs_type: String,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    mode: Mode,
}

fn ext4() -> String {
    FILE_SYSTEM.into()
}

/// The only engine whose volumes this host opens: files below `--volumes`.
const ENGINE: &str = "file";
/// The only file system that VMs mount.
pub(crate) const FILE_SYSTEM: &str = "ext4";

fn refuse(reason: impl Into<String>) -> Error {
    Error::Volume { reason: reason.into() }
}

impl Descriptor {
    /// The descriptor in a directory of the pod; none when there is no such file.
    ///
    /// # Errors
    /// When others than root could have written it, or it cannot be understood.
    pub(crate) fn read(pod: &PodDir, directory: &Path) -> Result<Option<Self>> {
        let file = match pod.read(&directory.join(DESCRIPTOR), Links::None) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(refuse(format!("its descriptor cannot be opened: {error}"))),
        };
        let unreadable = |error: io::Error| refuse(format!("its descriptor cannot be read: {error}"));
        let metadata = file.metadata().map_err(unreadable)?;
        let above = pod.read(directory, Links::None).and_then(|above| above.metadata()).map_err(unreadable)?;
        // A pod's group (`fsGroup`) is marked on the directory, and nobody on the host is in it.
        let roots = |of: &fs::Metadata, writable: u32| {
            of.uid() == rustix::process::geteuid().as_raw() && of.mode() & writable == 0
        };
        if !metadata.is_file() || !roots(&metadata, GROUP_WRITES | OTHERS_WRITE) || !roots(&above, OTHERS_WRITE) {
            return Err(refuse("its descriptor could have been written by others than root"));
        }
        let mut text = Vec::new();
        file.take(MAX_DESCRIPTOR_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        Self::parse(&text).map(Some)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let unknown = |error: serde_json::Error| refuse(format!("its descriptor: {error}"));
        let Version { version } = serde_json::from_slice(text).map_err(unknown)?;
        let (engine, descriptor) = match version {
            1 => {
                let First { id, driver, path, fs_type, read_only, mode } =
                    serde_json::from_slice(text).map_err(unknown)?;
                if fs_type != FILE_SYSTEM {
                    return Err(refuse(format!("the file system {fs_type:?} is not supported, only {FILE_SYSTEM}")));
                }
                (driver, Self { place: Place::Path { id, path }, read_only, mode })
            }
            2 => {
                let Second { engine, tenant, volume, read_only, mode, .. } =
                    serde_json::from_slice(text).map_err(unknown)?;
                (engine, Self { place: Place::Volume { tenant, volume }, read_only, mode })
            }
            version => return Err(refuse(format!("this hyperd does not know version {version} of its descriptor"))),
        };
        if engine != ENGINE {
            return Err(refuse(format!("the engine {engine:?} is not known")));
        }
        Ok(descriptor)
    }

    /// The volume's id.
    pub(crate) fn id(&self) -> &Uid {
        match &self.place {
            Place::Volume { volume, .. } => volume,
            Place::Path { id, .. } => id,
        }
    }

    /// Where the volume is, below one of the operator's directories of volumes: `<directory>/<tenant>/<id>.raw`.
    ///
    /// # Errors
    /// When it is not a volume of this tenant, the pod's, or not there.
    pub(crate) fn locate(&self, tenant: Option<&DnsLabel>, directories: &[PathBuf]) -> Result<PathBuf> {
        let Some(tenant) = tenant else {
            return Err(refuse("volumes are for pods of a tenant, and this one is of none"));
        };
        let id = self.id();
        let below = Path::new(tenant.as_str()).join(format!("{id}.raw"));
        match &self.place {
            Place::Volume { tenant: owner, .. } if owner != tenant => {
                return Err(refuse(format!("the volume {id} is not one of the pod's tenant")));
            }
            // Whose it is can be told by the path alone.
            Place::Path { path, .. } if !directories.iter().any(|directory| *path == directory.join(&below)) => {
                return Err(refuse(format!("that the volume {id} is one of the pod's tenant cannot be verified")));
            }
            _ => {}
        }
        for directory in directories {
            let found = open_beneath(directory, &below).and_then(|place| place.metadata());
            let found = match found {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|error| refuse(format!("the volume {id} cannot be opened: {error}")))?,
            };
            if !found.is_file() && !found.file_type().is_block_device() {
                return Err(refuse(format!("the volume {id} is neither a file nor a block device")));
            }
            let directory = directory.canonicalize().map_err(|error| refuse(error.to_string()))?;
            return Ok(directory.join(below));
        }
        Err(refuse(format!("the volume {id} is not on this host")))
    }
}

/// Makes a file system on a volume that holds no data at all. `state` remembers formats that are under way, so that
/// an interrupted one is done again.
pub(crate) async fn format_if_blank(volume: &Path, state: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(Error::file("making", state))?;
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
    use std::os::unix::fs::PermissionsExt;

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

    fn pod(dir: &Path) -> (PodDir, PathBuf) {
        let pod = PodDir::new(dir, Uid::new("uid-1").unwrap());
        let mount = pod.path().join("mount");
        fs::create_dir_all(&mount).unwrap();
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)).unwrap();
        (pod, mount)
    }

    fn label(text: &str) -> DnsLabel {
        DnsLabel::new(text).unwrap()
    }

    const ID: &str = "0c3c7a1e-5c1e-4c43-9c3e-0d6a3e1c9b11";

    #[test]
    fn a_descriptor_counts_for_its_tenants_pods_only() {
        let dir = tempfile::tempdir().unwrap();
        let (acme, globex) = (label("acme"), label("globex"));
        let volumes = dir.path().join("volumes");
        for tenant in ["acme", "globex"] {
            fs::create_dir_all(volumes.join(tenant)).unwrap();
            fs::write(volumes.join(tenant).join(format!("{ID}.raw")), tenant).unwrap();
        }
        let dirs = [dir.path().join("none"), volumes.clone()];
        let of = |tenant: &str| {
            let text =
                format!(r#"{{"version":2,"engine":"file","tenant":"{tenant}","volume":"{ID}","readOnly":true}}"#);
            Descriptor::parse(text.as_bytes())
        };
        let descriptor = of("acme").unwrap();
        assert!(descriptor.read_only && descriptor.mode == Mode::Filesystem);
        let place = descriptor.locate(Some(&acme), &dirs).unwrap();
        assert_eq!(fs::read(place).unwrap(), b"acme");
        for tenant in [Some(&globex), None] {
            assert!(matches!(descriptor.locate(tenant, &dirs), Err(Error::Volume { .. })), "{tenant:?}");
        }
        assert!(descriptor.locate(Some(&acme), &dirs[..1]).is_err());
        for bad in ["..", "a/b", "", "/etc", "Acme"] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        // Neither a link nor a directory is a volume.
        let stolen = label("thief");
        fs::create_dir_all(volumes.join("thief")).unwrap();
        let place = volumes.join(format!("thief/{ID}.raw"));
        std::os::unix::fs::symlink(format!("../acme/{ID}.raw"), &place).unwrap();
        assert!(of("thief").unwrap().locate(Some(&stolen), &dirs).is_err());
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        assert!(of("thief").unwrap().locate(Some(&stolen), &dirs).is_err());
        fs::remove_dir_all(volumes.join("thief")).unwrap();
        std::os::unix::fs::symlink("acme", volumes.join("thief")).unwrap();
        assert!(of("thief").unwrap().locate(Some(&stolen), &dirs).is_err());
    }

    #[test]
    fn an_old_descriptor_counts_where_its_path_says_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let acme = label("acme");
        fs::create_dir_all(dir.path().join("acme")).unwrap();
        fs::write(dir.path().join(format!("acme/{ID}.raw")), "").unwrap();
        fs::write(dir.path().join("other.raw"), "").unwrap();
        let dirs = [dir.path().to_owned()];
        let of = |path: &str| {
            let path = dir.path().join(path);
            let text = serde_json::json!({"id": ID, "driver": "file", "path": path}).to_string();
            Descriptor::parse(text.as_bytes()).unwrap()
        };
        let own = format!("acme/{ID}.raw");
        assert!(of(&own).locate(Some(&acme), &dirs).is_ok());
        assert!(of(&own).locate(Some(&label("globex")), &dirs).is_err());
        assert!(of(&own).locate(None, &dirs).is_err());
        for path in ["other.raw", "globex/x.raw", "/etc/passwd", &format!("globex/../acme/{ID}.raw")] {
            assert!(matches!(of(path).locate(Some(&acme), &dirs), Err(Error::Volume { .. })), "{path}");
        }
    }

    #[test]
    fn only_roots_descriptors_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, mount) = pod(dir.path());
        assert!(Descriptor::read(&pod, &mount).unwrap().is_none());
        assert!(Descriptor::read(&pod, &mount.join("not/there")).unwrap().is_none());
        let path = mount.join(DESCRIPTOR);
        let good = format!(r#"{{"version":2,"engine":"file","tenant":"acme","volume":"{ID}","readOnly":false}}"#);
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write(&good);
        assert!(Descriptor::read(&pod, &mount).unwrap().is_some());
        assert!(Descriptor::read(&pod, &mount.join("a/b")).unwrap().is_none());
        for bad in [
            "{",
            "[]",
            &good.replace("file", "rbd"),
            &good.replace(":2", ":3"),
            &good.replace(ID, "../x"),
            &good.replace("false}", "false,\"path\":\"/etc/passwd\"}"),
            r#"{"id":"1","driver":"nfs","path":"/x"}"#,
            r#"{"id":"1","driver":"file","path":"/x","fsType":"xfs"}"#,
        ] {
            write(bad);
            assert!(matches!(Descriptor::read(&pod, &mount), Err(Error::Volume { .. })), "{bad}");
        }
        // What others could have written is nobody's word.
        write(&good);
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(Descriptor::read(&pod, &mount).is_err(), "{mode:o}");
        }
        write(&good);
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Descriptor::read(&pod, &mount).is_err());
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o2770)).unwrap();
        assert!(Descriptor::read(&pod, &mount).is_ok());
        fs::rename(&path, mount.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(Descriptor::read(&pod, &mount).is_err());
        if rustix::process::geteuid().is_root() {
            fs::remove_file(&path).unwrap();
            write(&good);
            std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
            assert!(Descriptor::read(&pod, &mount).is_err());
        }
    }
}
