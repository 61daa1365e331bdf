//! What hyperd remembers when it is killed: one small JSON file per sandbox and per container.
//!
//! A record is replaced in one step, so that whoever reads it next finds the old or the new one. Nothing is forced to the
//! disk: a record says something of processes on this host, and outlives these, but not the host, whose end is theirs
//! (docs/decisions/0018). CRI configurations are kept in protobuf (base64), the one encoding of them
//! that stays readable when the contract grows.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{DiskSlot, DiskSource, VmRecord};
use k8s_cri::v1 as cri;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{cni::PodNetwork, files::FileSetSource, host_paths::HostPath};

/// Largest record that is read back.
const MAX_RECORD_BYTES: u64 = 8 << 20;
/// Extension of a file that is being written.
pub(crate) const UNFINISHED: &str = "new";

/// Life of a sandbox: `Starting` → `Ready` → `NotReady` → `Stopped`; each may be skipped, none is gone back to. A `Ready`
/// one may be `Hibernated`, and become `Ready` again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub(crate) enum SandboxState {
    /// Being made; found at start of hyperd, it is rolled back.
    Starting,
    Ready,
    /// Its VM is on the disk, with its memory. `vm` is what it was, and no process.
    Hibernated,
    /// The VM died or its agent stopped answering; network and VM may still be there.
    NotReady {
        reason: String,
    },
    /// Nothing is left but the record.
    Stopped {
        reason: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub id: String,
    #[serde(with = "protobuf")]
    pub config: cri::PodSandboxConfig,
    pub runtime_handler: String,
    /// Unix time, ns.
    pub created_at: i64,
    pub state: SandboxState,
    pub vm: Option<VmRecord>,
    /// The network's answer; none: the pod has its loopback only.
    pub network: Option<PodNetwork>,
    /// Whether CNI DEL is owed.
    pub network_added: bool,
    pub boot_id: String,
    /// Version of the contract that the agent speaks.
    #[serde(default)]
    pub protocol_version: u32,
    pub agent_version: String,
    pub kernel_release: String,
}

/// Life of a container: `Creating` → `Created` → `Starting` → `Running` → `Exited`; a start that fails goes to `Exited`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub(crate) enum ContainerState {
    /// Being made, and shown to nobody; found at the start of hyperd, it is undone.
    Creating,
    Created,
    /// The agent has been, or is about to be, told.
    Starting,
    Running {
        started_at: i64,
    },
    Exited(Exit),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Unix time, ns; 0: never started.
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    #[serde(with = "protobuf")]
    pub config: cri::ContainerConfig,
    /// The first process; execs are made from it.
    #[serde(with = "protobuf")]
    pub process: v1::Process,
    /// `sha256:…`
    pub image_id: String,
    /// Reference with digest, else the id.
    pub image_ref: String,
    /// A tag of the image, else what the container asked for.
    pub image_name: String,
    /// e.g. `SIGQUIT`, of the image; empty: SIGTERM.
    pub stop_signal: String,
    pub created_at: i64,
    pub state: ContainerState,
    /// What this container has in the VM's slots; several containers may share one.
    pub disks: BTreeMap<DiskSlot, DiskSource>,
    pub file_sets: Vec<FileSetSource>,
    #[serde(default)]
    pub host_paths: Vec<HostPath>,
    pub termination_log: Option<TerminationLog>,
    pub log_path: Option<PathBuf>,
    /// Who the first process runs as, as the guest has found out; an older one does not say.
    #[serde(default)]
    pub user: Option<ProcessUser>,
    /// Of the first process, in the guest.
    #[serde(default)]
    pub guest_pid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessUser {
    pub uid: u32,
    pub gid: u32,
    /// The primary one included.
    pub groups: Vec<u32>,
}

/// A file that the container may write and the kubelet reads after its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminationLog {
    pub host_path: PathBuf,
    pub container_path: String,
}

mod protobuf {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<M: prost::Message, S: Serializer>(message: &M, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(message.encode_to_vec()))
    }

    pub(super) fn deserialize<'de, M: prost::Message + Default, D: Deserializer<'de>>(from: D) -> Result<M, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice()).map_err(D::Error::custom)
    }
}

/// The directory that holds the records.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    sandboxes: PathBuf,
    containers: PathBuf,
}

impl Records {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let records = Self { sandboxes: root.join("sandboxes"), containers: root.join("containers") };
        for directory in [&records.sandboxes, &records.containers] {
            // Environments hold secrets.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        Ok(records)
    }

    pub(crate) fn load(&self) -> io::Result<(Vec<SandboxRecord>, Vec<ContainerRecord>)> {
        Ok((load_all(&self.sandboxes)?, load_all(&self.containers)?))
    }

    pub(crate) fn save_sandbox(&self, record: &SandboxRecord) -> io::Result<()> {
        save(&self.sandboxes, &record.id, record)
    }

    pub(crate) fn save_container(&self, record: &ContainerRecord) -> io::Result<()> {
        save(&self.containers, &record.id, record)
    }

    pub(crate) fn remove_sandbox(&self, id: &str) -> io::Result<()> {
        remove(&self.sandboxes.join(format!("{id}.json")))
    }

    pub(crate) fn remove_container(&self, id: &str) -> io::Result<()> {
        remove(&self.log_position(id))?;
        remove(&self.containers.join(format!("{id}.json")))
    }

    /// Where the log writer remembers how far it came.
    pub(crate) fn log_position(&self, container_id: &str) -> PathBuf {
        self.containers.join(format!("{container_id}.log-position"))
    }
}

fn save<T: Serialize>(directory: &Path, id: &str, record: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(record)?;
    write_atomically(&directory.join(format!("{id}.json")), &bytes)
}

/// Replaces a file: a reader sees the old or the new content, also after this process was killed.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(UNFINISHED);
    let write = || {
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(remove(&temporary)))
}

/// Removes a file; that it is gone already is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads every `*.json`; one that cannot be understood is put aside, so that it harms nobody else.
fn load_all<T: DeserializeOwned>(directory: &Path) -> io::Result<Vec<T>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => {}
            // Killed before it was in its place; the old one holds, or there never was one.
            Some(UNFINISHED) => {
                remove(&path)?;
                continue;
            }
            _ => continue,
        }
        let mut bytes = Vec::new();
        fs::File::open(&path)?.take(MAX_RECORD_BYTES).read_to_end(&mut bytes)?;
        match serde_json::from_slice(&bytes) {
            Ok(record) => records.push(record),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "unreadable record put aside");
                fs::rename(&path, path.with_extension("unreadable"))?;
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox() -> SandboxRecord {
        SandboxRecord {
            id: "abc".into(),
            config: cri::PodSandboxConfig { hostname: "h".into(), ..Default::default() },
            runtime_handler: String::new(),
            created_at: 5,
            state: SandboxState::NotReady { reason: "r".into() },
            vm: None,
            network: None,
            network_added: true,
            boot_id: "b".into(),
            protocol_version: 3,
            agent_version: String::new(),
            kernel_release: String::new(),
        }
    }

    #[test]
    fn records_survive_and_broken_ones_are_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.save_sandbox(&sandbox()).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(dir.path().join("sandboxes/abc.json")).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("sandboxes/broken.json"), "{").unwrap();
        fs::write(dir.path().join("sandboxes/abc.new"), "{").unwrap();
        let (sandboxes, containers) = Records::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(sandboxes.len(), 1);
        assert!(containers.is_empty());
        assert_eq!(sandboxes[0].config.hostname, "h");
        assert_eq!(sandboxes[0].state, SandboxState::NotReady { reason: "r".into() });
        assert!(dir.path().join("sandboxes/broken.unreadable").exists());
        assert!(!dir.path().join("sandboxes/abc.new").exists());
        records.remove_sandbox("abc").unwrap();
        records.remove_sandbox("abc").unwrap();
        assert!(records.load().unwrap().0.is_empty());
    }
}
