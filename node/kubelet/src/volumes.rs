//! A pod's volumes: small files written for the runtime to copy into the VM, scratch space, and disks.
//!
//! The directories' names are the kubelet's (`volumes/kubernetes.io~configmap/NAME`): the runtime knows by them what a
//! mount is. All of it is opened through the pod's [`PodDir`].

mod claim;
#[cfg(test)]
mod claim_tests;
mod content;
mod token;
mod writer;

use std::{io, sync::Arc};

use hypernetes_api::{DnsLabel, InvalidName};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, EmptyDirVolumeSource, Pod, PodSpec, Volume as VolumeSpec,
};
use rustix::mount::MountFlags;
use tokio::time::Instant;

pub use claim::release;
pub use token::Tokens;

use crate::{
    container, environment,
    environment::Environment,
    identity::PodId,
    node::Shared,
    objects::Objects,
    pod_dir::{ItemPath, Place, PodDir},
    quantity::Amount,
    worker::Setback,
};

fn kind_of(volume: &VolumeSpec) -> Option<&'static str> {
    Some(if volume.config_map.is_some() {
        "kubernetes.io~configmap"
    } else if volume.secret.is_some() {
        "kubernetes.io~secret"
    } else if volume.projected.is_some() {
        "kubernetes.io~projected"
    } else if volume.downward_api.is_some() {
        "kubernetes.io~downward-api"
    } else if volume.empty_dir.is_some() {
        EMPTY_DIR
    } else if volume.persistent_volume_claim.is_some() {
        claim::PLUGIN
    } else {
        return None;
    })
}

/// Volumes with secrets lie in memory, all of a pod's of one kind in one file system of so many bytes.
const SECRET: [&str; 2] = ["kubernetes.io~secret", "kubernetes.io~projected"];
const SECRET_BYTES: u64 = 32 << 20;
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";

#[derive(Debug, thiserror::Error)]
enum NoPlace {
    #[error("this kind of volume is not supported")]
    Kind,
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// Where a volume is, in the pod's directory.
fn place_of(volume: &VolumeSpec) -> Result<Place, NoPlace> {
    let kind = kind_of(volume).ok_or(NoPlace::Kind)?;
    Ok(Place::of("volumes").then(kind).then(DnsLabel::new(&volume.name)?))
}

/// Writes what the pod's volumes hold, again where it has changed; returns when to do so at the latest.
pub async fn prepare(
    shared: &Arc<Shared>,
    id: &PodId,
    pod: &Pod,
    dir: &PodDir,
    tokens: &mut Tokens,
) -> Result<Option<Instant>, Setback> {
    let Some(spec) = &pod.spec else { return Ok(None) };
    let objects = Objects::of(shared, id);
    let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    let mut again = None;
    for volume in spec.volumes.as_deref().unwrap_or_default() {
        let failed = |error: io::Error| failed_mount(&volume.name, &error.to_string());
        let place = place_of(volume).map_err(|error| failed_mount(&volume.name, &error.to_string()))?;
        if let Some(source) = &volume.empty_dir {
            empty(shared, dir, &place, spec, source, group).map_err(failed)?;
        } else if let Some(source) = &volume.persistent_volume_claim {
            let wanted = claim::Wanted { shared, id, pod, dir, place: &place, name: &volume.name, source };
            wanted.publish().await?;
            if group.is_some() {
                share(dir, &claim::target(&place), 0o770, group).map_err(failed)?;
            }
        } else {
            let mut content =
                content::Content { objects: &objects, id, pod, tokens, renew: None, files: writer::Files::new() };
            content.find(volume).await.map_err(|why| failed_mount(&volume.name, &why))?;
            keep_in_memory(dir, volume)
                .and_then(|()| writer::write(dir, &place, &content.files, group))
                .map_err(failed)?;
            again = [again, content.renew].into_iter().flatten().min();
        }
    }
    Ok(again)
}

/// Makes room in memory for a volume whose files are secret. Where an earlier version has begun on the disk the pod goes on
/// there: its runtime looks at the directory that it has found.
fn keep_in_memory(dir: &PodDir, volume: &VolumeSpec) -> io::Result<()> {
    let Some(kind) = kind_of(volume).filter(|kind| SECRET.contains(kind)) else { return Ok(()) };
    let place = Place::of("volumes").then(kind);
    if !dir.names(&place)?.is_empty() {
        return Ok(());
    }
    dir.make_memory(&place, SECRET_BYTES, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)
}

/// Takes away what a pod has in memory on this host. Its VM must have ended; with the next one all is made anew.
///
/// # Errors
/// As the system says.
pub fn drop_memory(dir: &PodDir) -> io::Result<()> {
    let volumes = Place::of("volumes");
    for kind in SECRET {
        dir.drop_memory(&volumes.then(kind))?;
    }
    let empty = volumes.then(EMPTY_DIR);
    dir.names(&empty)?.into_iter().try_for_each(|name| dir.drop_memory(&empty.then(name)))
}

/// An empty directory of the host, which stays empty: the runtime makes what the pod sees like it. One in memory has a file
/// system there, whose size is the pod's.
fn empty(
    shared: &Shared,
    dir: &PodDir,
    place: &Place,
    spec: &PodSpec,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
) -> io::Result<()> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => dir.make_dir(place)?,
        "Memory" => {
            let options = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            dir.make_memory(place, memory_size(shared, spec, source), options)?;
        }
        other => return Err(io::Error::other(format!("unknown storage medium {other:?}"))),
    }
    share(dir, place, 0o777, group)
}

/// Bytes of a volume in memory: the least of its own limit, the pod's and the node's, as upstream has it.
fn memory_size(shared: &Shared, spec: &PodSpec, source: &EmptyDirVolumeSource) -> u64 {
    let own = source.size_limit.as_ref().and_then(|limit| Amount::parse(&limit.0).ok()).map_or(0, Amount::units);
    let pod = container::sandbox_resources(spec).memory_limit_in_bytes;
    let node = shared.allocatable.memory.units();
    [own, pod].into_iter().filter(|bytes| *bytes > 0).fold(node, i64::min).unsigned_abs()
}

/// Makes a directory everybody's, or that of the pod's group (`fsGroup`), which what is made in it belongs to, too. The runtime
/// makes what the pod sees like it; on the host the pod's own directory lets nobody in.
fn share(dir: &PodDir, place: &Place, mode: u32, group: Option<u32>) -> io::Result<()> {
    dir.share(place, mode | group.map_or(0, |_| 0o2000), group)
}

/// In the words of upstream's event.
fn failed_mount(volume: &str, why: &str) -> Setback {
    Setback { reason: "FailedMount", message: format!("MountVolume.SetUp failed for volume {volume:?} : {why}") }
}

/// The container's mounts in CRI's words. A block volume is among them: the runtime sees by its descriptor that it is
/// to be a device there, where CRI's own devices are files of a host that the VM does not share.
pub fn mounts(
    dir: &PodDir,
    spec: &PodSpec,
    wanted: &ContainerSpec,
    env: &Environment,
) -> Result<Vec<cri::Mount>, String> {
    let place = |name: &str| {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == name);
        let volume = volume.ok_or_else(|| format!("volume {name:?} is not defined"))?;
        let place = place_of(volume).map_err(|error| error.to_string())?;
        Ok::<_, String>(if volume.persistent_volume_claim.is_some() { claim::target(&place) } else { place })
    };
    let mut mounts = Vec::new();
    for mount in wanted.volume_mounts.iter().flatten() {
        if mount.recursive_read_only.as_deref().is_some_and(|wanted| wanted != "Disabled")
            && mount.read_only != Some(true)
        {
            return Err(format!("volume mount {:?} is recursively read-only, but not read-only", mount.name));
        }
        let mut host = place(&mount.name)?;
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(path)) => environment::expand(path, env),
            _ => String::new(),
        };
        if !sub_path.is_empty() {
            let sub_path = ItemPath::parse(&sub_path)
                .map_err(|_| format!("subPath {sub_path:?} must be a relative path without '..'"))?;
            host = host.item(&sub_path);
        }
        mounts.push(cri::Mount {
            container_path: mount.mount_path.clone(),
            host_path: dir.path(&host).display().to_string(),
            readonly: mount.read_only.unwrap_or(false),
            ..Default::default()
        });
    }
    for device in wanted.volume_devices.iter().flatten() {
        mounts.push(cri::Mount {
            container_path: device.device_path.clone(),
            host_path: dir.path(&place(&device.name)?).display().to_string(),
            ..Default::default()
        });
    }
    Ok(mounts)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what a pod's directory holds is looked at from outside")]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use hypernetes_api::Uid;

    use super::*;
    use crate::pod_dir::PodDirs;

    #[test]
    fn a_pods_group_may_use_its_volumes() {
        assert!(nix::unistd::geteuid().is_root(), "giving files away needs root");
        let directory = tempfile::tempdir().unwrap();
        let dir = PodDirs::open(directory.path()).unwrap().make(Uid::new("uid-1").unwrap()).unwrap();
        let of = |place: &Place| {
            let found = fs::metadata(dir.path(place)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        let scratch = Place::of("scratch");
        dir.make_dir(&scratch).unwrap();
        share(&dir, &scratch, 0o777, None).unwrap();
        assert_eq!(of(&scratch), (0, 0o777));
        share(&dir, &scratch, 0o777, Some(2000)).unwrap();
        assert_eq!(of(&scratch), (2000, 0o2777));
        // Block volumes have a file there.
        let device = Place::of("device");
        dir.write(&device, b"", 0o600, None).unwrap();
        share(&dir, &device, 0o770, Some(2000)).unwrap();
        assert_eq!(of(&device), (0, 0o600));
    }
}
