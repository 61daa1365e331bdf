//! Persistent volumes: from a pod's claim over the volume that it is bound to, to the driver that publishes it.
//!
//! What has to be given back lies beside the published volume before it is published: it is found by a later kubelet,
//! and when the API has forgotten the pod, its claim and its volume.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hypernetes_api::TenantId;
use hypernetes_csi::{
    context,
    v1::{
        self,
        volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode},
    },
};
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodSpec,
};
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::{
    csi::DriverError,
    worker::{Setback, Shared, names_of},
};

/// The plugin's name in directories, as upstream writes it.
pub(super) const PLUGIN: &str = "kubernetes.io~csi";
/// Below a volume's directory: where the driver publishes it.
const TARGET: &str = "mount";
/// Beside the target, with upstream's name and keys.
const DATA: &str = "vol_data.json";

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
}

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("{doing} {path}: {source}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("giving back the volume {volume:?}: {source}")]
    Driver { volume: String, source: DriverError },
}

/// One volume of a pod, and the claim that it names.
pub(super) struct Wanted<'a> {
    pub shared: &'a Arc<Shared>,
    pub tenant: &'a TenantId,
    pub pod: &'a Pod,
    /// The volume's name in the pod.
    pub name: &'a str,
    pub source: &'a PersistentVolumeClaimVolumeSource,
}

/// Where the runtime finds the volume.
pub(super) fn target(directory: &Path) -> PathBuf {
    directory.join(TARGET)
}

impl Wanted<'_> {
    /// Has the driver publish the volume in `directory`, unless it is published.
    pub(super) async fn publish(&self, directory: &Path) -> Result<(), Setback> {
        let failed = |why: String| self.failed(self.name, &why);
        let earlier = Data::read(directory).map_err(|error| failed(error.to_string()))?;
        if earlier.as_ref().is_some_and(|data| data.published) {
            return Ok(());
        }
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
        };
        if let Some(earlier) = earlier.filter(|earlier| *earlier != data) {
            // An attempt at what the claim was bound to before.
            let target = target(directory);
            let back = self.shared.drivers.unpublish(&earlier.driver_name, earlier.volume_handle, &target);
            back.await.map_err(|error| self.failed(&name, &error.to_string()))?;
        }
        data.write(directory).map_err(|error| self.failed(&name, &error.to_string()))?;
        let request = v1::NodePublishVolumeRequest {
            volume_id: csi.volume_handle,
            target_path: target(directory).display().to_string(),
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
                Setback { reason: "FailedAttachVolume", message }
            }
            _ => self.failed(&name, &error.to_string()),
        })?;
        data.published = true;
        data.write(directory).map_err(|error| self.failed(&name, &error.to_string()))
    }

    fn failed(&self, volume: &str, why: &str) -> Setback {
        super::failed_mount(volume, why)
    }

    /// The volume that the claim is bound to, by both of them.
    async fn bound_volume(&self) -> Result<PersistentVolume, String> {
        let (_, namespace) = names_of(self.pod);
        let claim = &self.source.claim_name;
        let client = self.shared.config.clients.tenant(self.tenant);
        let of_claim = |why: &str| format!("error processing PVC {namespace}/{claim}: {why}");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        let found = claims.get_opt(claim).await.map_err(|error| of_claim(&error.to_string()))?;
        let found = found.ok_or_else(|| of_claim(&format!("persistentvolumeclaim {claim:?} not found")))?;
        if found.metadata.deletion_timestamp.is_some() {
            return Err(of_claim("PVC is being deleted"));
        }
        let (uid, spec) = (found.uid(), found.spec.unwrap_or_default());
        let bound = found.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound");
        let name = spec.volume_name.filter(|name| bound && !name.is_empty());
        let name = name.ok_or_else(|| of_claim("PVC is not bound"))?;
        let volumes: Api<PersistentVolume> = Api::all(client);
        let volume = volumes.get_opt(&name).await.map_err(|error| error.to_string())?;
        let volume = volume.ok_or_else(|| of_claim(&format!("persistentvolume {name:?} not found")))?;
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if uid.is_none() || reference.and_then(|reference| reference.uid.as_ref()) != uid.as_ref() {
            return Err(of_claim(&format!("the persistentvolume {name:?} is bound to another claim")));
        }
        Ok(volume)
    }

    /// What the volume's maker says of it, and whom it is for. A tenant writes the former: the latter comes last.
    fn context(&self, attributes: impl Iterator<Item = (String, String)>) -> HashMap<String, String> {
        let (name, namespace) = names_of(self.pod);
        let own = [
            (context::POD_NAME, name),
            (context::POD_NAMESPACE, namespace),
            (context::POD_UID, self.pod.uid().unwrap_or_default()),
            (context::TENANT, self.tenant.to_string()),
        ];
        attributes.chain(own.map(|(key, value)| (key.to_owned(), value))).collect()
    }
}

/// Gives back all volumes that are published in a pod's directory. The pod's VM must have ended.
pub async fn release(shared: &Shared, uid: &str) -> Result<(), ReleaseError> {
    let volumes = shared.pod_directory(uid).join("volumes").join(PLUGIN);
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| ReleaseError::File { doing, path, source }
    };
    let entries = match fs::read_dir(&volumes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("listing", &volumes))?,
    };
    for entry in entries {
        let directory = entry.map_err(failed("listing", &volumes))?.path();
        let Some(data) = Data::read(&directory).map_err(failed("reading", &directory))? else { continue };
        let done = shared.drivers.unpublish(&data.driver_name, data.volume_handle, &target(&directory)).await;
        done.map_err(|source| ReleaseError::Driver { volume: data.spec_volume, source })?;
        fs::remove_file(directory.join(DATA)).map_err(failed("removing a file in", &directory))?;
    }
    Ok(())
}

impl Data {
    fn read(directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(directory.join(DATA)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        }
    }

    /// As a whole or not at all.
    fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let unfinished = directory.join(format!("{DATA}.new"));
        let file = fs::File::create(&unfinished)?;
        serde_json::to_writer(&file, self)?;
        file.sync_all()?;
        fs::rename(unfinished, directory.join(DATA))?;
        fs::File::open(directory)?.sync_all()
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
