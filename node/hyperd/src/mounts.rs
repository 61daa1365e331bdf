//! What a mount that CRI asks for means in a VM, which shares no directory with its host.

use std::path::{Component, Path, PathBuf};

use k8s_cri::v1 as cri;

use crate::{
    error::{Error, Result},
    files::FileSetSource,
    volumes::Descriptor,
};

/// How one mount is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Volume {
        descriptor: Descriptor,
        sub_path: String,
    },
    /// A copy of small files. `single`: the mount is the set's only file.
    Files {
        source: FileSetSource,
        single: bool,
    },
    /// A directory that the pod's containers share; `memory`: of medium Memory.
    Scratch {
        name: String,
        sub_path: String,
        memory: bool,
    },
    /// A file that the container writes and the kubelet reads afterwards.
    TerminationLog {
        host_path: PathBuf,
    },
}

/// Which host paths of a pod mean something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy<'a> {
    /// The kubelet's directory of pods.
    pub pods_dir: &'a Path,
    /// The pod whose paths are acceptable; another pod's are not.
    pub pod_uid: &'a str,
}

/// Volume plugins of the kubelet whose directories are copied.
const COPIED: [&str; 4] =
    ["kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~projected", "kubernetes.io~downward-api"];
const SCRATCH: &str = "kubernetes.io~empty-dir";
/// Where Kubernetes mounts the termination log unless told otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

impl Policy<'_> {
    /// Decides what a mount is.
    ///
    /// # Errors
    /// `InvalidArgument` for paths that are none, `FailedPrecondition` with a sentence for what a VM cannot have.
    pub(crate) fn classify(&self, mount: &cri::Mount) -> Result<Source> {
        let container_path = Path::new(&mount.container_path);
        if !is_clean_absolute(container_path) || container_path == Path::new("/") {
            return Err(Error::InvalidArgument(format!(
                "the mount's container path {:?} is not an absolute path without \"..\"",
                mount.container_path
            )));
        }
        if mount.image.as_ref().is_some_and(|i| !i.image.is_empty()) {
            return Err(Error::FailedPrecondition("mounting an image as a volume is not supported yet".into()));
        }
        if mount.propagation != cri::MountPropagation::PropagationPrivate as i32 {
            return Err(Error::FailedPrecondition(format!(
                "mount propagation at {} is not possible: the pod is a virtual machine and shares no mounts with its host",
                mount.container_path
            )));
        }
        let host_path = Path::new(&mount.host_path);
        if !is_clean_absolute(host_path) {
            return Err(Error::InvalidArgument(format!(
                "the mount's host path {:?} is not an absolute path without \"..\"",
                mount.host_path
            )));
        }
        let parts = self.parts(host_path).ok_or_else(|| self.refusal(mount))?;
        match parts.as_slice() {
            ["etc-hosts"] => Ok(files(host_path)),
            ["containers", _name, _file] => Ok(Source::TerminationLog { host_path: host_path.into() }),
            ["volumes", SCRATCH, name, rest @ ..] => Ok(Source::Scratch {
                name: (*name).into(),
                sub_path: rest.join("/"),
                memory: is_memory(&self.pod_dir().join("volumes").join(SCRATCH).join(name)),
            }),
            // With a subPath the kubelet hands out a path below the volume.
            ["volumes", plugin, _name, ..] if COPIED.contains(plugin) => Ok(files(host_path)),
            ["volumes" | "volumeDevices", _plugin, _name, ..] => {
                volume(host_path, &self.pod_dir())?.ok_or_else(|| self.refusal(mount))
            }
            _ => Err(self.refusal(mount)),
        }
    }

    fn pod_dir(&self) -> PathBuf {
        self.pods_dir.join(self.pod_uid)
    }

    /// The parts of a path below the pod's own directory.
    fn parts<'p>(&self, path: &'p Path) -> Option<Vec<&'p str>> {
        if self.pod_uid.is_empty() || self.pod_uid.contains(['/', '.']) {
            return None;
        }
        path.strip_prefix(self.pod_dir()).ok()?.iter().map(|p| p.to_str()).collect()
    }

    fn refusal(&self, mount: &cri::Mount) -> Error {
        let what = if mount.container_path == TERMINATION_LOG { "the termination log" } else { "the host's" };
        Error::FailedPrecondition(format!(
            "{what} path {} cannot be mounted at {}: the pod is a virtual machine that shares no directory with its \
             host (config maps, secrets, projected and empty volumes and persistent volumes can be mounted)",
            mount.host_path, mount.container_path
        ))
    }
}

/// The volume whose descriptor lies in the directory, or, for a subPath, in one above it within the pod's.
fn volume(path: &Path, pod_dir: &Path) -> Result<Option<Source>> {
    for directory in path.ancestors().take_while(|a| *a != pod_dir) {
        if let Some(descriptor) = Descriptor::read(directory)? {
            let sub_path = path.strip_prefix(directory).unwrap_or(Path::new("")).display().to_string();
            return Ok(Some(Source::Volume { descriptor, sub_path }));
        }
    }
    Ok(None)
}

fn files(path: &Path) -> Source {
    Source::Files { source: FileSetSource::new(path), single: !path.is_dir() }
}

/// The kubelet mounts a tmpfs on empty-dir volumes of medium Memory.
fn is_memory(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

fn is_clean_absolute(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(dir: &Path, host: &str, container: &str) -> Result<Source> {
        let mount = cri::Mount {
            host_path: host.replace("PODS", dir.to_str().unwrap()),
            container_path: container.into(),
            ..Default::default()
        };
        Policy { pods_dir: dir, pod_uid: "uid-1" }.classify(&mount)
    }

    #[test]
    fn the_kubelets_own_paths_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("uid-1/volumes/kubernetes.io~configmap/cfg");
        std::fs::create_dir_all(&config).unwrap();
        let source = classify(dir.path(), "PODS/uid-1/volumes/kubernetes.io~configmap/cfg", "/etc/cfg").unwrap();
        assert_eq!(source, Source::Files { source: FileSetSource::new(&config), single: false });
        let mount = dir.path().join("uid-1/volumes/kubernetes.io~csi/pv/mount");
        std::fs::create_dir_all(&mount).unwrap();
        std::fs::write(mount.join("volume.hypernetes.json"), r#"{"id":"1","driver":"file","path":"/v.raw"}"#).unwrap();
        for (path, expected) in [("mount", ""), ("mount/a/b", "a/b")] {
            let source =
                classify(dir.path(), &format!("PODS/uid-1/volumes/kubernetes.io~csi/pv/{path}"), "/data").unwrap();
            assert!(matches!(source, Source::Volume { sub_path, .. } if sub_path == expected));
        }
        let source = classify(dir.path(), "PODS/uid-1/etc-hosts", "/etc/hosts").unwrap();
        assert!(matches!(source, Source::Files { single: true, .. }));
        let source = classify(dir.path(), "PODS/uid-1/volumes/kubernetes.io~empty-dir/tmp", "/tmp").unwrap();
        assert!(matches!(source, Source::Scratch { ref name, memory: false, .. } if name == "tmp"));
        let source = classify(dir.path(), "PODS/uid-1/containers/web/1234", "/dev/termination-log").unwrap();
        assert!(matches!(source, Source::TerminationLog { .. }));
    }

    #[test]
    fn everything_else_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        for (host, container) in [
            ("/etc", "/host"),
            ("/", "/host"),
            ("/var/run/docker.sock", "/var/run/docker.sock"),
            ("PODS/uid-2/volumes/kubernetes.io~secret/s", "/s"),
            ("PODS/uid-1", "/pod"),
            ("PODS/uid-1/volumes/kubernetes.io~host-path/x", "/x"),
            ("PODS/uid-1/plugins/x", "/x"),
        ] {
            let error = classify(dir.path(), host, container).unwrap_err();
            assert!(matches!(&error, Error::FailedPrecondition(m) if m.contains("virtual machine")), "{host}: {error}");
        }
        for (host, container) in [
            ("PODS/uid-1/../uid-2/etc-hosts", "/x"),
            ("PODS/uid-1/etc-hosts", "x"),
            ("PODS/uid-1/etc-hosts", "/a/../b"),
        ] {
            assert!(matches!(classify(dir.path(), host, container), Err(Error::InvalidArgument(_))), "{host}");
        }
    }
}
