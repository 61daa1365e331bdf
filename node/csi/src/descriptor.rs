//! What hyperd reads in a mount's directory (`node/hyperd/src/volumes.rs` is the other side).

use std::path::{Path, PathBuf};

use hypernetes_api::TenantId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Name of the file backend in a Volume's status, and of its descriptors.
pub(crate) const FILE_DRIVER: &str = "file";
/// The only file system that VMs mount; also where nothing is said.
pub(crate) const EXT4: &str = "ext4";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    Filesystem,
    Block,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub id: Uuid,
    pub driver: String,
    pub path: PathBuf,
    pub fs_type: String,
    pub read_only: bool,
    pub mode: Mode,
}

impl Descriptor {
    /// A file of the file backend. Tenant and uid are plain file names by their types: neither leads elsewhere.
    pub(crate) fn file(volumes: &Path, tenant: &TenantId, id: Uuid, mode: Mode, read_only: bool) -> Self {
        Self {
            id,
            driver: FILE_DRIVER.into(),
            path: volumes.join(tenant.as_str()).join(format!("{id}.raw")),
            fs_type: EXT4.into(),
            read_only,
            mode,
        }
    }
}
