//! What the controllers of networks work on.

use hypernetes_api::TenantId;

/// What has to be looked at: by `metadata.name`, but a pod by its uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Network(TenantId, String),
    Subnet(TenantId, String),
    Port(TenantId, String),
    Pod(TenantId, String),
}

pub(crate) type Queue = hypernetes_runtime::Queue<Key>;
