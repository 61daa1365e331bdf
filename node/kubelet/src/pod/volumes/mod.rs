//! A pod's volumes: small files written for the runtime to copy into the VM, scratch space, and disks.
//!
//! The directories' names are the kubelet's (`volumes/kubernetes.io~configmap/NAME`): the runtime knows by them what a
//! mount is. All of it is opened through the pod's [`PodDir`].

mod atomic_writer;
mod claim;
mod content;
mod empty_dir;
mod fs_group;
mod memory;
mod mounts;
mod plugin;
#[cfg(test)]
mod tests;
mod token;

use std::{io, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

pub use claim::release;
pub use memory::drop_memory;
pub use mounts::mounts;
pub use token::Tokens;

use self::{atomic_writer::Files, content::Content};
use crate::{
    identity::PodId,
    node::Shared,
    pod::{objects::Objects, sync_error::SyncError},
    pod_dir::PodDir,
};

/// Writes what the pod's volumes hold, again where it has changed; returns when to do so at the latest.
pub async fn prepare(
    shared: &Arc<Shared>,
    id: &PodId,
    pod: &Pod,
    dir: &PodDir,
    tokens: &mut Tokens,
) -> Result<Option<Instant>, SyncError> {
    let Some(spec) = &pod.spec else { return Ok(None) };
    let objects = Objects::of(shared, id);
    let group = fs_group::of(spec);
    let mut again = None;
    for volume in spec.volumes.as_deref().unwrap_or_default() {
        let failed = |error: io::Error| SyncError::failed_mount(&volume.name, &error.to_string());
        let place =
            plugin::place_of(volume).map_err(|error| SyncError::failed_mount(&volume.name, &error.to_string()))?;
        if let Some(source) = &volume.empty_dir {
            empty_dir::make(shared, dir, &place, spec, source, group).map_err(failed)?;
        } else if let Some(source) = &volume.persistent_volume_claim {
            let wanted = claim::ClaimedVolume { shared, id, pod, dir, place: &place, name: &volume.name, source };
            wanted.publish().await?;
            if group.is_some() {
                fs_group::share(dir, &claim::target(&place), 0o770, group).map_err(failed)?;
            }
        } else {
            let mut content = Content { objects: &objects, id, pod, tokens, renew: None, files: Files::new() };
            content.find(volume).await.map_err(|why| SyncError::failed_mount(&volume.name, &why))?;
            memory::keep_secrets(dir, volume)
                .and_then(|()| atomic_writer::write(dir, &place, &content.files, group))
                .map_err(failed)?;
            again = [again, content.renew].into_iter().flatten().min();
        }
    }
    Ok(again)
}
