//! What hyperd reads in a mount's directory (`node/hyperd/src/volumes.rs` is the other side): which volume it is, and
//! never where. hyperd makes the path by its own configuration, and only for a pod of the tenant.

use hypernetes_api::TenantId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Name of the file backend in a Volume's status, and of its descriptors: `<volumes>/<tenant>/<volume>.raw`.
pub(crate) const FILE_DRIVER: &str = "file";
/// The only file system that VMs mount; also where nothing is said.
pub(crate) const EXT4: &str = "ext4";
/// Of the descriptor's form.
const VERSION: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    Filesystem,
    Block,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Descriptor {
    version: u32,
    pub engine: String,
    pub tenant: TenantId,
    /// Uid of the Volume object.
    pub volume: Uuid,
    pub read_only: bool,
    pub mode: Mode,
}

impl Descriptor {
    /// A volume of the file backend.
    pub(crate) fn file(tenant: &TenantId, volume: Uuid, mode: Mode, read_only: bool) -> Self {
        Self { version: VERSION, engine: FILE_DRIVER.into(), tenant: tenant.clone(), volume, read_only, mode }
    }
}
