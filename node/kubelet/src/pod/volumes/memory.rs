//! Volumes that lie in the host's memory.

use std::io;

use k8s_openapi::api::core::v1::Volume as VolumeSpec;
use rustix::mount::MountFlags;

use super::plugin;
use crate::pod_dir::PodDir;

/// Volumes with secrets lie in memory, all of a pod's of one kind in one file system of so many bytes.
const SECRET_PLUGINS: [&str; 2] = [plugin::SECRET, plugin::PROJECTED];
const SECRET_BYTES: u64 = 32 << 20;
/// How such a file system is mounted.
pub const MOUNT_OPTIONS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Makes room in memory for a volume whose files are secret. Where an earlier version has begun on the disk the pod goes on
/// there: its runtime looks at the directory that it has found.
pub fn keep_secrets(dir: &PodDir, volume: &VolumeSpec) -> io::Result<()> {
    let Some(plugin) = plugin::of(volume).filter(|plugin| SECRET_PLUGINS.contains(plugin)) else { return Ok(()) };
    let place = plugin::place_of_all(plugin);
    if !dir.names(&place)?.is_empty() {
        return Ok(());
    }
    dir.make_memory(&place, SECRET_BYTES, MOUNT_OPTIONS)
}

/// Takes away what a pod has in memory on this host. Its VM must have ended; with the next one all is made anew.
///
/// # Errors
/// As the system says.
pub fn drop_memory(dir: &PodDir) -> io::Result<()> {
    for plugin in SECRET_PLUGINS {
        dir.drop_memory(&plugin::place_of_all(plugin))?;
    }
    let empty = plugin::place_of_all(plugin::EMPTY_DIR);
    dir.names(&empty)?.into_iter().try_for_each(|name| dir.drop_memory(&empty.then(name)))
}
