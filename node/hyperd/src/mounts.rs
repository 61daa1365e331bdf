//! What a mount that CRI asks for means in a VM.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use k8s_cri::v1 as cri;

use crate::{
    error::{Error, Result},
    files::FileSetSource,
    host_paths::{AllowedHostPath, HostPath, HostPathReadOnly},
    pod_dir::{Links, PodDir},
    subpaths,
    volumes::Descriptor,
};

/// How one mount is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Volume {
        descriptor: Descriptor,
        sub_path: String,
        /// Kubernetes' `fsGroup`; 0: none.
        fs_group: u32,
    },
    /// A copy of small files. `single`: the mount is the set's only file.
    Files { source: FileSetSource, single: bool },
    /// A directory that the pod's containers share. The host's, which stays empty, says what it is like.
    Scratch { name: String, sub_path: String, like: PathBuf },
    /// A read-only disk with an image's files.
    Image { rootfs: PathBuf, sub_path: String },
    /// A file that the container writes and the kubelet reads afterwards.
    TerminationLog { host_path: PathBuf },
    /// A directory or file of the host itself.
    HostPath(HostPath),
}

/// Which host paths of a pod mean something.
#[derive(Debug, Clone)]
pub(crate) struct Policy<'a> {
    /// The pod's own directory; another pod's is not acceptable.
    pub pod: Option<PodDir>,
    /// What else is.
    pub allowed: &'a [AllowedHostPath],
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
        check_options(mount)?;
        let host_path = Path::new(&mount.host_path);
        if !is_clean_absolute(host_path) {
            return Err(Error::InvalidArgument(format!(
                "the mount's host path {:?} is not an absolute path without \"..\"",
                mount.host_path
            )));
        }
        let source = self.source(mount, host_path)?;
        let possible = match (mount.propagation(), &source) {
            // Within the guest: what one of the pod's containers mounts there, others see.
            (_, Source::Volume { .. } | Source::Scratch { .. }) => true,
            (cri::MountPropagation::PropagationHostToContainer, Source::HostPath(_)) => true,
            (propagation, _) => propagation == cri::MountPropagation::PropagationPrivate,
        };
        if possible {
            return Ok(source);
        }
        let what = match mount.propagation() {
            cri::MountPropagation::PropagationBidirectional => "bidirectional mount propagation",
            _ => "mount propagation",
        };
        Err(Error::FailedPrecondition(format!(
            "{what} at {} is not possible: the pod is a virtual machine, whose mounts its host cannot have \
             (what the host mounts below a host path is seen in the pod with HostToContainer, and the pod's containers see \
             each other's mounts in its own volumes)",
            mount.container_path
        )))
    }

    fn source(&self, mount: &cri::Mount, host_path: &Path) -> Result<Source> {
        let Some((pod, parts)) = self.pod.as_ref().and_then(|pod| Some((pod, parts(pod, host_path)?))) else {
            return self.shared(mount, host_path);
        };
        match parts.as_slice() {
            ["etc-hosts"] => Ok(files(pod, host_path)),
            ["containers", _name, _file] => Ok(Source::TerminationLog { host_path: host_path.into() }),
            ["volumes", SCRATCH, name, rest @ ..] => Ok(Source::Scratch {
                name: (*name).into(),
                sub_path: rest.join("/"),
                like: pod.path().join("volumes").join(SCRATCH).join(name),
            }),
            ["volume-subpaths", name, _container, _number] => self.sub_path(mount, pod, host_path, name),
            // With a subPath our kubelet hands out a path below the volume.
            ["volumes", plugin, _name, ..] if COPIED.contains(plugin) => Ok(files(pod, host_path)),
            ["volumes" | "volumeDevices", plugin, _name, ..] => match volume(host_path, pod, plugin)? {
                Some(volume) => Ok(volume),
                None => self.shared(mount, host_path),
            },
            _ => self.shared(mount, host_path),
        }
    }

    /// A part of the volume `name`, as upstream's kubelet binds it.
    fn sub_path(&self, mount: &cri::Mount, pod: &PodDir, host_path: &Path, name: &str) -> Result<Source> {
        let volumes = pod.path().join("volumes");
        let plugins = std::fs::read_dir(&volumes).into_iter().flatten().flatten();
        let volume = plugins.map(|plugin| plugin.path().join(name)).find(|volume| volume.exists());
        let plugin = volume.as_ref().and_then(|volume| volume.parent()?.file_name()?.to_str());
        let (Some(volume), Some(plugin)) = (&volume, plugin) else { return self.shared(mount, host_path) };
        let part = |base: &Path| {
            let part =
                subpaths::bound(host_path, base).map_err(Error::file("looking for what is mounted at", host_path))?;
            part.and_then(|part| part.to_str().map(str::to_owned)).ok_or_else(|| self.refusal(mount))
        };
        match plugin {
            SCRATCH => Ok(Source::Scratch { name: name.into(), sub_path: part(volume)?, like: volume.clone() }),
            plugin if COPIED.contains(&plugin) => part(volume).map(|_| files(pod, host_path)),
            // A driver of CSI has a directory in it, others have itself.
            _ => {
                for base in [volume.join("mount"), volume.clone()] {
                    if let Some(descriptor) = Descriptor::read(pod, &base)? {
                        let fs_group = group_of(pod, &base);
                        return Ok(Source::Volume { descriptor, sub_path: part(&base)?, fs_group });
                    }
                }
                self.shared(mount, host_path)
            }
        }
    }

    /// A path of the host itself, if the pod may have it.
    fn shared(&self, mount: &cri::Mount, host_path: &Path) -> Result<Source> {
        let refuse = || self.refusal(mount);
        let (path, exists) = resolve(host_path).map_err(Error::file("finding", host_path))?;
        let read_only = match (mount.readonly, mount.recursive_read_only) {
            (false, _) => HostPathReadOnly::No,
            (true, false) => HostPathReadOnly::Top,
            (true, true) => HostPathReadOnly::Recursive,
        };
        let from_host = mount.propagation == cri::MountPropagation::PropagationHostToContainer as i32;
        let mut wanted = HostPath { path, read_only, from_host };
        if self.is_the_pods(&wanted.path) {
            return if exists { Ok(Source::HostPath(wanted)) } else { Err(refuse()) };
        }
        let allowed = self.allowed(&wanted.path).ok_or_else(refuse)?;
        if allowed.read_only {
            if read_only == HostPathReadOnly::No {
                return Err(Error::FailedPrecondition(format!(
                    "the host's path {} can be mounted read-only only: hyperd was started with --allow-host-path {}:ro",
                    mount.host_path,
                    allowed.path.display()
                )));
            }
            // The operator has not said that what is mounted below may be written.
            wanted.read_only = HostPathReadOnly::Recursive;
            if !exists {
                return Err(Error::FailedPrecondition(format!("the host's path {} is not there", mount.host_path)));
            }
        }
        Ok(Source::HostPath(wanted))
    }

    /// Whether a path that was shared may be so still.
    pub(crate) fn permits(&self, host_path: &HostPath) -> bool {
        self.is_the_pods(&host_path.path)
            || self
                .allowed(&host_path.path)
                .is_some_and(|a| !a.read_only || host_path.read_only == HostPathReadOnly::Recursive)
    }

    /// The closest of the allowed paths above one without links.
    fn allowed(&self, path: &Path) -> Option<&AllowedHostPath> {
        let real = |allowed: &AllowedHostPath| allowed.path.canonicalize().unwrap_or_else(|_| allowed.path.clone());
        let above = self.allowed.iter().filter(|allowed| path.starts_with(real(allowed)));
        above.max_by_key(|allowed| real(allowed).components().count())
    }

    /// Whether a path without links is in what the kubelet or a driver has mounted for this pod. What is only a directory there
    /// is a volume that is not ready, or has another meaning.
    fn is_the_pods(&self, path: &Path) -> bool {
        let Some(pod) = self.pod.as_ref().and_then(PodDir::canonical) else { return false };
        match parts(&pod, path).as_deref() {
            Some(["volumes", plugin, _name, ..]) if *plugin != SCRATCH && !COPIED.contains(plugin) => {
                hypernetes_hostfs::is_mounted(path, &pod.path())
            }
            Some(["volume-subpaths", _name, _container, ..]) => hypernetes_hostfs::is_mounted(path, &pod.path()),
            _ => false,
        }
    }

    fn refusal(&self, mount: &cri::Mount) -> Error {
        let what = if mount.container_path == TERMINATION_LOG { "the termination log" } else { "the host's" };
        Error::FailedPrecondition(format!(
            "{what} path {} cannot be mounted at {}: the pod is a virtual machine and shares with its host what hyperd's \
             option --allow-host-path names, and that with the operator's own pods only (config maps, secrets, projected \
             and empty volumes and persistent volumes can be mounted)",
            mount.host_path, mount.container_path
        ))
    }
}

/// The path without links, and whether it is there. What is not has the name that it is going to have.
fn resolve(path: &Path) -> io::Result<(PathBuf, bool)> {
    match path.canonicalize() {
        Ok(real) => Ok((real, true)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link that leads nowhere is there; its place cannot be made.
            if path.symlink_metadata().is_ok() {
                return Err(error);
            }
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            Ok((resolve(parent)?.0.join(name), false))
        }
        Err(error) => Err(error),
    }
}

/// The parts of a path below the pod's own directory.
fn parts<'p>(pod: &PodDir, path: &'p Path) -> Option<Vec<&'p str>> {
    pod.relative(path)?.iter().map(|part| part.to_str()).collect()
}

/// The volume whose descriptor lies in the directory, or, for a subPath, in one above it within the plugin's.
fn volume(path: &Path, pod: &PodDir, plugin: &str) -> Result<Option<Source>> {
    for directory in path.ancestors().take_while(|above| !above.ends_with(plugin)) {
        if let Some(descriptor) = Descriptor::read(pod, directory)? {
            let sub_path = path.strip_prefix(directory).unwrap_or(Path::new("")).display().to_string();
            return Ok(Some(Source::Volume { descriptor, sub_path, fs_group: group_of(pod, directory) }));
        }
    }
    Ok(None)
}

/// The group that the kubelet has given a volume's place on the host to, with the bit that hands it down (`fsGroup`).
fn group_of(pod: &PodDir, directory: &Path) -> u32 {
    let place = pod.read(directory, Links::None).and_then(|place| place.metadata()).ok();
    place.filter(|place| place.mode() & 0o2000 != 0).map_or(0, |place| place.gid())
}

/// Refuses combinations that CRI forbids.
fn check_options(mount: &cri::Mount) -> Result<()> {
    let invalid = |text: String| Err(Error::InvalidArgument(text));
    let private = mount.propagation() == cri::MountPropagation::PropagationPrivate;
    if cri::MountPropagation::try_from(mount.propagation).is_err() {
        return invalid(format!("the mount at {} has an unknown propagation", mount.container_path));
    }
    if mount.recursive_read_only && !(mount.readonly && private) {
        return invalid(format!(
            "the mount at {} cannot be recursively read-only: it has to be read-only, with private propagation",
            mount.container_path
        ));
    }
    Ok(())
}

/// A mount of an image: what the image store has under its name.
pub(crate) fn image(mount: &cri::Mount, image: &hypernetes_image::Image) -> Result<Source> {
    check_options(mount)?;
    let invalid = |text: &str| Err(Error::InvalidArgument(format!("the image at {}: {text}", mount.container_path)));
    let container_path = Path::new(&mount.container_path);
    if !is_clean_absolute(container_path) || container_path == Path::new("/") {
        return invalid("that is not an absolute path without \"..\"");
    }
    if !mount.host_path.is_empty() {
        return invalid("a mount has a host path or an image, not both");
    }
    if !mount.readonly {
        return invalid("images can be mounted read-only only");
    }
    if mount.propagation() != cri::MountPropagation::PropagationPrivate {
        return invalid("nothing can be mounted inside, and so nothing propagated");
    }
    let sub_path = Path::new(&mount.image_sub_path);
    if !sub_path.components().all(|c| matches!(c, Component::Normal(_))) {
        return invalid("its sub-path is not a relative path without \"..\"");
    }
    Ok(Source::Image { rootfs: image.rootfs.clone(), sub_path: mount.image_sub_path.clone() })
}

/// Whether a mount is of an image.
pub(crate) fn image_reference(mount: &cri::Mount) -> Option<&str> {
    mount.image.as_ref().map(|image| image.image.as_str()).filter(|image| !image.is_empty())
}

fn files(pod: &PodDir, path: &Path) -> Source {
    Source::Files { source: FileSetSource::new(path), single: !pod.is_directory(path) }
}

/// Size of an empty-dir volume of medium Memory, on which the kubelet mounts a tmpfs; none: it is of another.
pub(crate) fn memory_bytes(path: &Path) -> Option<u64> {
    let found = nix::sys::statfs::statfs(path).ok()?;
    let is_memory = found.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC;
    is_memory.then(|| found.blocks().saturating_mul(u64::try_from(found.block_size()).unwrap_or(0)))
}

pub(crate) fn is_clean_absolute(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_in(dir: &Path) -> PodDir {
        PodDir::new(dir, hypernetes_names::Uid::new("uid-1").unwrap())
    }

    /// As the driver leaves it.
    fn describe(directory: &Path) {
        let path = directory.join(crate::volumes::DESCRIPTOR);
        let text = r#"{"version":2,"engine":"file","tenant":"acme","volume":"1","readOnly":false}"#;
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn classify(dir: &Path, host: &str, container: &str) -> Result<Source> {
        let mount = cri::Mount {
            host_path: host.replace("PODS", dir.to_str().unwrap()),
            container_path: container.into(),
            ..Default::default()
        };
        Policy { pod: Some(pod_in(dir)), allowed: &[] }.classify(&mount)
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
        describe(&mount);
        for (path, expected) in [("mount", ""), ("mount/a/b", "a/b")] {
            let source =
                classify(dir.path(), &format!("PODS/uid-1/volumes/kubernetes.io~csi/pv/{path}"), "/data").unwrap();
            assert!(matches!(source, Source::Volume { sub_path, fs_group: 0, .. } if sub_path == expected));
        }
        // As a kubelet does with the pod's `fsGroup`.
        std::os::unix::fs::chown(&mount, None, Some(2000)).unwrap();
        std::fs::set_permissions(&mount, std::os::unix::fs::PermissionsExt::from_mode(0o2775)).unwrap();
        let source = classify(dir.path(), "PODS/uid-1/volumes/kubernetes.io~csi/pv/mount/a", "/data").unwrap();
        assert!(matches!(source, Source::Volume { fs_group: 2000, .. }));
        let source = classify(dir.path(), "PODS/uid-1/etc-hosts", "/etc/hosts").unwrap();
        assert!(matches!(source, Source::Files { single: true, .. }));
        let source = classify(dir.path(), "PODS/uid-1/volumes/kubernetes.io~empty-dir/tmp", "/tmp").unwrap();
        assert!(matches!(source, Source::Scratch { ref name, .. } if name == "tmp"));
        let source = classify(dir.path(), "PODS/uid-1/containers/web/1234", "/dev/termination-log").unwrap();
        assert!(matches!(source, Source::TerminationLog { .. }));
    }

    #[test]
    fn sub_paths_that_the_kubelet_has_bound_are_parts_of_their_volumes() {
        use nix::{mount::MsFlags, sched::CloneFlags};
        // Mounts of its own, which are gone with the thread.
        let test = || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let pod = dir.path().join("uid-1");
            let bind = |from: &str, to: &str| {
                let (from, to) = (pod.join("volumes").join(from), pod.join("volume-subpaths").join(to));
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                if from.is_file() {
                    std::fs::write(&to, "").unwrap();
                } else {
                    std::fs::create_dir_all(&from).unwrap();
                    std::fs::create_dir_all(&to).unwrap();
                }
                nix::mount::mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            };
            let of = |path: &str| classify(dir.path(), &format!("PODS/uid-1/volume-subpaths/{path}"), "/x");
            bind("kubernetes.io~empty-dir/e/in/side", "e/web/0");
            let like = pod.join("volumes/kubernetes.io~empty-dir/e");
            let expected = Source::Scratch { name: "e".into(), sub_path: "in/side".into(), like };
            assert_eq!(of("e/web/0").unwrap(), expected);
            let claim = pod.join("volumes/kubernetes.io~csi/pv/mount");
            std::fs::create_dir_all(&claim).unwrap();
            describe(&claim);
            bind("kubernetes.io~csi/pv/mount/data", "pv/web/1");
            assert!(matches!(of("pv/web/1"), Ok(Source::Volume { sub_path, .. }) if sub_path == "data"));
            let config = pod.join("volumes/kubernetes.io~configmap/c/..1");
            std::fs::create_dir_all(&config).unwrap();
            std::fs::write(config.join("key"), "value").unwrap();
            bind("kubernetes.io~configmap/c/..1/key", "c/web/2");
            assert!(matches!(of("c/web/2"), Ok(Source::Files { single: true, .. })));
            // What is mounted there is another volume's, or not mounted at all.
            bind("kubernetes.io~csi/pv/mount/data", "e/web/3");
            std::fs::create_dir_all(pod.join("volume-subpaths/e/web/4")).unwrap();
            for path in ["e/web/3", "e/web/4"] {
                assert!(matches!(of(path), Err(Error::FailedPrecondition(_))), "{path}");
            }
            for place in ["e/web/0", "pv/web/1", "c/web/2", "e/web/3"] {
                nix::mount::umount(&pod.join("volume-subpaths").join(place)).unwrap();
            }
        };
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn options_have_to_fit() {
        let dir = tempfile::tempdir().unwrap();
        let policy = Policy { pod: Some(pod_in(dir.path())), allowed: &[] };
        let mount = |part: &str| cri::Mount {
            host_path: dir.path().join("uid-1").join(part).display().to_string(),
            container_path: "/x".into(),
            ..Default::default()
        };
        let scratch = mount("volumes/kubernetes.io~empty-dir/tmp");
        let shared = cri::Mount { propagation: 2, ..scratch.clone() };
        assert!(matches!(policy.classify(&shared), Ok(Source::Scratch { .. })));
        let hosts = cri::Mount { propagation: 1, ..mount("etc-hosts") };
        assert!(matches!(policy.classify(&hosts), Err(Error::FailedPrecondition(_))));
        let recursive = cri::Mount { readonly: true, recursive_read_only: true, ..scratch };
        assert!(policy.classify(&recursive).is_ok());
        for wrong in [
            cri::Mount { readonly: false, ..recursive.clone() },
            cri::Mount { propagation: 1, ..recursive.clone() },
            cri::Mount { propagation: 7, ..shared },
        ] {
            assert!(matches!(policy.classify(&wrong), Err(Error::InvalidArgument(_))));
        }
    }

    #[test]
    fn images_are_mounted_read_only() {
        let of_image = hypernetes_image::Image {
            id: hypernetes_image::Digest::of(b"x"),
            tags: vec![],
            digests: vec![],
            size_bytes: 1,
            config: Default::default(),
            rootfs: "/images/x".into(),
        };
        let mount = cri::Mount {
            container_path: "/models".into(),
            readonly: true,
            image: Some(cri::ImageSpec { image: "models".into(), ..Default::default() }),
            image_sub_path: "a/b".into(),
            ..Default::default()
        };
        assert_eq!(image_reference(&mount), Some("models"));
        let expected = Source::Image { rootfs: "/images/x".into(), sub_path: "a/b".into() };
        assert_eq!(image(&mount, &of_image).unwrap(), expected);
        for wrong in [
            cri::Mount { readonly: false, ..mount.clone() },
            cri::Mount { image_sub_path: "../x".into(), ..mount.clone() },
            cri::Mount { image_sub_path: "/x".into(), ..mount.clone() },
            cri::Mount { host_path: "/x".into(), ..mount.clone() },
            cri::Mount { propagation: 2, ..mount.clone() },
            cri::Mount { container_path: "/a/../b".into(), ..mount.clone() },
        ] {
            assert!(matches!(image(&wrong, &of_image), Err(Error::InvalidArgument(_))), "{wrong:?}");
        }
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
            // A volume that no driver has mounted (yet).
            ("PODS/uid-1/volumes/kubernetes.io~csi/pv/mount", "/x"),
            ("PODS/uid-1/volume-subpaths/pv/web/0", "/x"),
        ] {
            if host.contains("csi") || host.contains("subpaths") {
                std::fs::create_dir_all(host.replace("PODS", dir.path().to_str().unwrap())).unwrap();
            }
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

    #[test]
    fn the_operators_paths_are_shared_as_they_were_allowed() {
        let dir = tempfile::tempdir().unwrap();
        // The kubelet's paths have no links in them; the temporary directory's may.
        let dir = dir.path().canonicalize().unwrap();
        for path in ["srv/look/in", "srv/work", "other"] {
            std::fs::create_dir_all(dir.join(path)).unwrap();
        }
        std::os::unix::fs::symlink("srv", dir.join("alias")).unwrap();
        std::os::unix::fs::symlink("../../other", dir.join("srv/work/out")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("srv/dangling")).unwrap();
        let allow = |path: &str, read_only| AllowedHostPath { path: dir.join(path), read_only };
        let allowed = [allow("alias", false), allow("srv/look", true)];
        let policy = Policy { pod: Some(pod_in(&dir.join("pods"))), allowed: &allowed };
        let classify = |path: &str, change: fn(&mut cri::Mount)| {
            let mut mount = cri::Mount {
                host_path: dir.join(path).display().to_string(),
                container_path: "/x".into(),
                ..Default::default()
            };
            change(&mut mount);
            policy.classify(&mount)
        };
        let shared = |path: &str, change: fn(&mut cri::Mount)| match classify(path, change) {
            Ok(Source::HostPath(host_path)) => {
                assert!(policy.permits(&host_path));
                (
                    host_path.path.strip_prefix(&dir).unwrap().display().to_string(),
                    host_path.read_only,
                    host_path.from_host,
                )
            }
            other => panic!("{path}: {other:?}"),
        };
        let as_it_is: fn(&mut cri::Mount) = |_| {};
        let readonly: fn(&mut cri::Mount) = |m| m.readonly = true;
        let no = HostPathReadOnly::No;
        assert_eq!(shared("alias/work", as_it_is), ("srv/work".into(), no, false));
        assert_eq!(shared("srv/new/place", as_it_is), ("srv/new/place".into(), no, false));
        assert_eq!(shared("srv/work", readonly), ("srv/work".into(), HostPathReadOnly::Top, false));
        assert_eq!(shared("srv/look/in", readonly), ("srv/look/in".into(), HostPathReadOnly::Recursive, false));
        assert_eq!(shared("srv", |m| m.propagation = 1), ("srv".into(), no, true));
        for (path, change, expected) in [
            ("other", as_it_is, "--allow-host-path"),
            ("srv/work/out", as_it_is, "--allow-host-path"),
            ("srv/work/out/new", as_it_is, "--allow-host-path"),
            ("srv/look", as_it_is, "read-only only"),
            ("srv/look/new", readonly, "is not there"),
            ("srv", |m| m.propagation = 2, "bidirectional"),
        ] {
            let error = classify(path, change).unwrap_err();
            assert!(matches!(&error, Error::FailedPrecondition(m) if m.contains(expected)), "{path}: {error}");
        }
        assert!(matches!(classify("srv/dangling", as_it_is), Err(Error::File { .. })));
        for wrong in [(|m: &mut cri::Mount| m.recursive_read_only = true) as fn(&mut cri::Mount), |m| {
            (m.readonly, m.recursive_read_only, m.propagation) = (true, true, 1)
        }] {
            assert!(matches!(classify("srv", wrong), Err(Error::InvalidArgument(_))));
        }
        // What was allowed once may be so no more.
        let Source::HostPath(host_path) = classify("srv/work", as_it_is).unwrap() else { panic!() };
        assert!(!Policy { allowed: &[], ..policy.clone() }.permits(&host_path));
        assert!(!Policy { allowed: &[allow("srv", true)], ..policy.clone() }.permits(&host_path));
    }
}
