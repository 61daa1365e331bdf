//! What the controllers of networks work on.

use hypernetes_api::TenantId;
use hypernetes_runtime::Tenanted;

/// What has to be looked at: by `metadata.name`, but a pod by its uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Network(TenantId, String),
    Subnet(TenantId, String),
    Port(TenantId, String),
    Pod(TenantId, String),
}

impl Tenanted for Key {
    fn tenant(&self) -> &TenantId {
        let (Self::Network(tenant, _) | Self::Subnet(tenant, _) | Self::Port(tenant, _) | Self::Pod(tenant, _)) = self;
        tenant
    }
}

pub(crate) type Queue = hypernetes_runtime::Queue<Key>;
