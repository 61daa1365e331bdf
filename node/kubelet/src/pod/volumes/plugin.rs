//! The kinds of volumes, by the names that upstream's plugins have in directories, and where each volume is.

use hypernetes_api::{DnsLabel, InvalidName};
use k8s_openapi::api::core::v1::Volume as VolumeSpec;

use crate::pod_dir::Place;

pub const SECRET: &str = "kubernetes.io~secret";
pub const PROJECTED: &str = "kubernetes.io~projected";
pub const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
pub const CSI: &str = "kubernetes.io~csi";

/// The plugin that makes the volume; none where none does.
pub fn of(volume: &VolumeSpec) -> Option<&'static str> {
    Some(if volume.config_map.is_some() {
        "kubernetes.io~configmap"
    } else if volume.secret.is_some() {
        SECRET
    } else if volume.projected.is_some() {
        PROJECTED
    } else if volume.downward_api.is_some() {
        "kubernetes.io~downward-api"
    } else if volume.empty_dir.is_some() {
        EMPTY_DIR
    } else if volume.persistent_volume_claim.is_some() {
        CSI
    } else {
        return None;
    })
}

#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    #[error("this kind of volume is not supported")]
    Kind,
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// Where all volumes of a plugin are, in the pod's directory.
pub fn place_of_all(plugin: &'static str) -> Place {
    Place::of("volumes").then(plugin)
}

/// Where a volume is, in the pod's directory.
pub fn place_of(volume: &VolumeSpec) -> Result<Place, NoPlace> {
    let plugin = of(volume).ok_or(NoPlace::Kind)?;
    Ok(place_of_all(plugin).then(DnsLabel::new(&volume.name)?))
}
