//! `volume.hypernetes.io`: Cinder's things. Cluster-scoped in a tenant's logical cluster.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A block device that outlives pods. Where its bytes are is between the backend and the nodes, and not told here.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "volume.hypernetes.io",
    version = "v1alpha1",
    kind = "Volume",
    plural = "volumes",
    shortname = "vol",
    status = "VolumeStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    pub display_name: String,
    pub description: String,
    pub size_bytes: u64,
    /// The storage class, Cinder's volume type; empty: the default one.
    pub volume_type: String,
    /// Made for this claim.
    pub claim: Option<ClaimReference>,
    pub metadata: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimReference {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeStatus {
    /// `Creating`, `Available`, `InUse`, `Deleting` or `Error`.
    pub phase: String,
    pub message: String,
    /// Backend that holds it: `file`, `rbd`.
    pub driver: String,
    pub size_bytes: u64,
}

/// A volume's use by one pod on one node. `metadata.name` is the volume's name: the store itself refuses a second one.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "volume.hypernetes.io",
    version = "v1alpha1",
    kind = "Attachment",
    plural = "attachments",
    status = "AttachmentStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSpec {
    /// `metadata.name` of the volume.
    pub volume: String,
    pub node: String,
    /// The pod that has it, by namespace, name and uid.
    pub pod: super::network::PodReference,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentStatus {
    /// `Attached` when the pod's VM may open it.
    pub phase: String,
}
