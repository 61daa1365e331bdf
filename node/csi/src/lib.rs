//! The CSI driver of the built-in volume service: makes a tenant's Volume usable by one pod of this node.
//!
//! There is no mount on the host. A published volume is a descriptor ([`names::VOLUME_DESCRIPTOR`]) in the target
//! directory, which says whose volume it is, and from which hyperd gives the pod's VM that volume as a block device. Before it is written, the driver has
//! the volume's one Attachment object, which the store gives to one pod in the whole cluster.
//!
//! ```text
//! kubelet ──NodePublishVolume──▶ driver ──create Attachment, watch until Attached──▶ API ◀── volume service
//!                                  └──────▶ <target>/volume.hypernetes.json ──▶ hyperd ──▶ the VM's disk
//! ```
//!
//! The driver remembers nothing: what it needs to undo its work lies in the target directory before it begins.
#![forbid(unsafe_code)]

mod attachments;
mod beneath;
mod descriptor;
mod error;
mod identity;
mod node;
mod server;
mod target;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use hypernetes_api::names;
use hypernetes_client::Clients;

pub use server::{CsiError, run};

/// The interface's messages, clients and servers (see `proto/csi.proto`).
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// What a volume is published for: keys of `volume_context`.
pub mod context {
    /// These three have upstream's names, as a stock kubelet gives them to drivers that ask for pod information.
    pub const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
    pub const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
    pub const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
    /// Whose logical cluster the pod and the volume are in.
    pub const TENANT: &str = super::names::TENANT_ANNOTATION;
}

/// How long a call waits for the volume service before it asks to be called again.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);

/// What the driver works with.
#[derive(Clone)]
pub struct CsiConfig {
    pub node_name: String,
    /// Where the driver is served, for root alone.
    pub socket: PathBuf,
    /// The kubelet's directory of pods: where volumes are published is in it.
    pub pods_dir: PathBuf,
    /// With the node's identity.
    pub clients: Clients,
    /// How long a call waits for an attachment before it asks to be called again.
    pub patience: Duration,
}

impl CsiConfig {
    pub fn new(
        node_name: impl Into<String>,
        socket: impl Into<PathBuf>,
        pods_dir: impl Into<PathBuf>,
        clients: Clients,
    ) -> Self {
        Self {
            node_name: node_name.into(),
            socket: socket.into(),
            pods_dir: pods_dir.into(),
            clients,
            patience: DEFAULT_PATIENCE,
        }
    }
}
