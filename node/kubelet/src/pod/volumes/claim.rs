//! Persistent volumes: from a pod's claim over the volume that it is bound to, to the driver that publishes it.
//!
//! What has to be given back lies beside the published volume before it is published: it is found by a later kubelet,
//! and when the API has forgotten the pod, its claim and its volume.

use std::{collections::HashMap, io, sync::Arc};

use hypernetes_csi::{
    context,
    v1::{
        self,
        volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode},
    },
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaimVolumeSource, Pod, PodSpec};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::plugin;
use crate::{
    identity::PodId,
    node::{Shared, csi::DriverError},
    pod::{objects::Objects, sync_error::SyncError},
    pod_dir::{Place, PodDir},
};

/// Below a volume's directory: where the driver publishes it.
const TARGET: &str = "mount";
/// Beside the target, with upstream's name and keys.
const DATA: &str = "vol_data.json";
/// Which form of descriptor the driver writes: what an earlier one has published is published again, which changes
/// nothing but the descriptor.
const DESCRIPTOR_VERSION: u32 = 2;

/// What giving back takes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    driver_name: String,
    volume_handle: String,
    /// Name of the PersistentVolume.
    #[serde(rename = "specVolID")]
    spec_volume: String,
    node_name: String,
    /// The driver has done its part: what is in use is not asked for again, whatever becomes of the claim meanwhile.
    #[serde(default)]
    published: bool,
    #[serde(default)]
    descriptor_version: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("{doing}: {source}")]
    File { doing: &'static str, source: io::Error },
    #[error("giving back the volume {volume:?}: {source}")]
    Driver { volume: String, source: DriverError },
}

/// One volume of a pod, and the claim that it names.
pub(super) struct ClaimedVolume<'a> {
    pub shared: &'a Arc<Shared>,
    pub id: &'a PodId,
    pub pod: &'a Pod,
    pub dir: &'a PodDir,
    /// The volume's directory.
    pub place: &'a Place,
    /// The volume's name in the pod.
    pub name: &'a str,
    pub source: &'a PersistentVolumeClaimVolumeSource,
}

/// Where the runtime finds the volume.
pub(super) fn target(volume: &Place) -> Place {
    volume.then(TARGET)
}

impl ClaimedVolume<'_> {
    /// Has the driver publish the volume in its directory, unless it is published.
    pub(super) async fn publish(&self) -> Result<(), SyncError> {
        let failed = |why: String| self.failed(self.name, &why);
        match Data::read(self.dir, self.place).map_err(|error| failed(error.to_string()))? {
            Some(data) if data.published && data.descriptor_version == DESCRIPTOR_VERSION => Ok(()),
            Some(data) if data.published => {
                if let Err(error) = self.publish_over(Some(data)).await {
                    // The pod has it all the same.
                    tracing::info!(pod = %self.id.uid, message = error.message, "a volume's descriptor stays an old one");
                }
                Ok(())
            }
            earlier => self.publish_over(earlier).await,
        }
    }

    async fn publish_over(&self, earlier: Option<Data>) -> Result<(), SyncError> {
        let failed = |why: String| self.failed(self.name, &why);
        let target = self.dir.path(&target(self.place));
        let volume = self.bound_volume().await.map_err(failed)?;
        let (name, spec) = (volume.name_any(), volume.spec.unwrap_or_default());
        let csi = spec.csi.ok_or_else(|| self.failed(&name, "the persistent volume has no CSI source"))?;
        if csi.node_publish_secret_ref.is_some() {
            return Err(self.failed(&name, "secrets for drivers (nodePublishSecretRef) are not supported"));
        }
        let block = spec.volume_mode.as_deref() == Some("Block");
        check_use(self.pod.spec.as_ref(), self.name, block).map_err(|why| self.failed(&name, &why))?;
        let access_type = if block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: csi.fs_type.unwrap_or_default(),
                mount_flags: spec.mount_options.unwrap_or_default(),
                volume_mount_group: String::new(),
            })
        };
        let mut data = Data {
            driver_name: csi.driver.clone(),
            volume_handle: csi.volume_handle.clone(),
            spec_volume: name.clone(),
            node_name: self.shared.config.node_name.clone(),
            published: false,
            descriptor_version: DESCRIPTOR_VERSION,
        };
        let was_published = earlier.as_ref().is_some_and(|data| data.published);
        if let Some(earlier) = earlier.filter(|earlier| !earlier.is_for_the_same(&data)) {
            if was_published {
                // Its pod has it open: it goes on with it.
                return Ok(());
            }
            // An attempt at what the claim was bound to before.
            let back = self.shared.drivers.unpublish(&earlier.driver_name, earlier.volume_handle, &target);
            back.await.map_err(|error| self.failed(&name, &error.to_string()))?;
        }
        if !was_published {
            data.write(self.dir, self.place).map_err(|error| self.failed(&name, &error.to_string()))?;
        }
        let request = v1::NodePublishVolumeRequest {
            volume_id: csi.volume_handle,
            target_path: target.display().to_string(),
            volume_capability: Some(v1::VolumeCapability {
                access_type: Some(access_type),
                access_mode: Some(AccessMode { mode: access_mode(spec.access_modes.as_deref()).into() }),
            }),
            readonly: csi.read_only == Some(true) || self.source.read_only == Some(true),
            volume_context: self.context(csi.volume_attributes.into_iter().flatten()),
            ..Default::default()
        };
        self.shared.drivers.publish(&csi.driver, request).await.map_err(|error| match &error {
            DriverError::Refused(status) if status.code() == tonic::Code::FailedPrecondition => {
                let message = format!("Multi-Attach error for volume {name:?} {}", status.message());
                SyncError { reason: "FailedAttachVolume", message }
            }
            _ => self.failed(&name, &error.to_string()),
        })?;
        data.published = true;
        data.write(self.dir, self.place).map_err(|error| self.failed(&name, &error.to_string()))
    }

    fn failed(&self, volume: &str, why: &str) -> SyncError {
        SyncError::failed_mount(volume, why)
    }

    /// The volume that the claim is bound to, by both of them.
    async fn bound_volume(&self) -> Result<PersistentVolume, String> {
        let namespace = &self.id.namespace;
        let claim = &self.source.claim_name;
        let objects = Objects::of(self.shared, self.id);
        let of_claim = |why: &str| format!("error processing PVC {namespace}/{claim}: {why}");
        let found = objects.claim(claim).await.map_err(|error| of_claim(&error.to_string()))?;
        let found = found.ok_or_else(|| of_claim(&format!("persistentvolumeclaim {claim:?} not found")))?;
        if found.metadata.deletion_timestamp.is_some() {
            return Err(of_claim("PVC is being deleted"));
        }
        let (uid, spec) = (found.uid(), found.spec.unwrap_or_default());
        let bound = found.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound");
        let name = spec.volume_name.filter(|name| bound && !name.is_empty());
        let name = name.ok_or_else(|| of_claim("PVC is not bound"))?;
        let volume = objects.volume(&name).await.map_err(|error| error.to_string())?;
        let volume = volume.ok_or_else(|| of_claim(&format!("persistentvolume {name:?} not found")))?;
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if uid.is_none() || reference.and_then(|reference| reference.uid.as_ref()) != uid.as_ref() {
            return Err(of_claim(&format!("the persistentvolume {name:?} is bound to another claim")));
        }
        Ok(volume)
    }

    /// What the volume's maker says of it, and whom it is for. A tenant writes the former: the latter comes last.
    fn context(&self, attributes: impl Iterator<Item = (String, String)>) -> HashMap<String, String> {
        let own = [
            (context::POD_NAME, self.id.name.to_string()),
            (context::POD_NAMESPACE, self.id.namespace.to_string()),
            (context::POD_UID, self.id.uid.to_string()),
            (context::TENANT, self.id.tenant.to_string()),
        ];
        attributes.chain(own.map(|(key, value)| (key.to_owned(), value))).collect()
    }
}

/// Gives back all volumes that are published in a pod's directory. The pod's VM must have ended.
pub async fn release(shared: &Shared, dir: &PodDir) -> Result<(), ReleaseError> {
    let failed = |doing| move |source| ReleaseError::File { doing, source };
    let volumes = plugin::place_of_all(plugin::CSI);
    for name in dir.names(&volumes).map_err(failed("listing the pod's volumes"))? {
        let place = volumes.then(name);
        let Some(data) = Data::read(dir, &place).map_err(failed("reading what is published"))? else { continue };
        let done = shared.drivers.unpublish(&data.driver_name, data.volume_handle, &dir.path(&target(&place))).await;
        done.map_err(|source| ReleaseError::Driver { volume: data.spec_volume, source })?;
        dir.remove(&place.then(DATA)).map_err(failed("forgetting what was published"))?;
    }
    Ok(())
}

impl Data {
    fn read(dir: &PodDir, volume: &Place) -> io::Result<Option<Self>> {
        let text = dir.read(&volume.then(DATA))?;
        Ok(text.map(|text| serde_json::from_slice(&text)).transpose()?)
    }

    /// As a whole or not at all.
    fn write(&self, dir: &PodDir, volume: &Place) -> io::Result<()> {
        dir.replace(&volume.then(DATA), &serde_json::to_vec(self)?)
    }

    /// Whether the same volume is meant, however far its publishing has come.
    fn is_for_the_same(&self, other: &Self) -> bool {
        let of = |data: &Self| (data.driver_name.clone(), data.volume_handle.clone(), data.spec_volume.clone());
        of(self) == of(other)
    }
}

/// A file system cannot be had as a device, nor the other way round. In upstream's words.
fn check_use(spec: Option<&PodSpec>, volume: &str, block: bool) -> Result<(), String> {
    let containers = || spec.into_iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    let mounted = containers().any(|c| c.volume_mounts.iter().flatten().any(|mount| mount.name == volume));
    let device = containers().any(|c| c.volume_devices.iter().flatten().any(|device| device.name == volume));
    match (block, mounted, device) {
        (true, true, _) => Err(format!("volume {volume} has volumeMode Block, but is specified in volumeMounts")),
        (false, _, true) => {
            Err(format!("volume {volume} has volumeMode Filesystem, but is specified in volumeDevices"))
        }
        _ => Ok(()),
    }
}

/// CSI's word for the first of the volume's access modes, as upstream passes it on.
fn access_mode(modes: Option<&[String]>) -> access_mode::Mode {
    match modes.and_then(|modes| modes.first()).map(String::as_str) {
        Some("ReadOnlyMany") => access_mode::Mode::MultiNodeReaderOnly,
        Some("ReadWriteMany") => access_mode::Mode::MultiNodeMultiWriter,
        _ => access_mode::Mode::SingleNodeWriter,
    }
}
