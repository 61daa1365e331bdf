//! Scratch space (`emptyDir`), on the disk or in memory.

use std::io;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};

use super::{fs_group::share, memory::MOUNT_OPTIONS};
use crate::{
    node::Shared,
    pod::spec::resources,
    pod_dir::{Place, PodDir},
    quantity::Amount,
};

/// An empty directory of the host, which stays empty: the runtime makes what the pod sees like it. One in memory has a file
/// system there, whose size is the pod's.
pub fn make(
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
            dir.make_memory(place, memory_size(shared, spec, source), MOUNT_OPTIONS)?;
        }
        other => return Err(io::Error::other(format!("unknown storage medium {other:?}"))),
    }
    share(dir, place, 0o777, group)
}

/// Bytes of a volume in memory: the least of its own limit, the pod's and the node's, as upstream has it.
fn memory_size(shared: &Shared, spec: &PodSpec, source: &EmptyDirVolumeSource) -> u64 {
    let own = source.size_limit.as_ref().and_then(|limit| Amount::parse(&limit.0).ok()).map_or(0, Amount::units);
    let pod = resources::of_sandbox(spec).memory_limit_in_bytes;
    let node = shared.allocatable.memory.units();
    [own, pod].into_iter().filter(|bytes| *bytes > 0).fold(node, i64::min).unsigned_abs()
}
