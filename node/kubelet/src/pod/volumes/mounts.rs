//! A container's mounts and devices of its pod's volumes.

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, PodSpec};

use super::{claim, plugin};
use crate::{
    pod::spec::expansion::{Environment, expand},
    pod_dir::{ItemPath, PodDir},
};

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
        let place = plugin::place_of(volume).map_err(|error| error.to_string())?;
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
            (_, Some(path)) => expand(path, env),
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
