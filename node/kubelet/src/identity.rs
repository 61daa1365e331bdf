//! Whose pod it is, parsed where it comes in.

use hypernetes_api::{DnsLabel, DnsSubdomain, InvalidName, PathComponent, TenantId, Uid};
use hypernetes_client::tenant_of;
use k8s_openapi::api::core::v1::Pod;

/// A pod's tenant and names. They come from the API once, are parsed, and stay the worker's whatever the object says
/// later: paths, URLs and labels are made of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodId {
    pub tenant: TenantId,
    pub uid: Uid,
    pub namespace: DnsLabel,
    pub name: DnsSubdomain,
}

#[derive(Debug, thiserror::Error)]
pub enum NotAPod {
    #[error("it has no tenant")]
    NoTenant,
    #[error("its metadata: {0}")]
    Name(#[from] InvalidName),
}

impl PodId {
    /// # Errors
    /// For an object without a tenant, or whose metadata are not names. Nothing can be done with such a one: its events and
    /// status have no address.
    pub fn of(pod: &Pod) -> Result<Self, NotAPod> {
        let metadata = &pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Ok(Self {
            tenant: tenant_of(pod).ok_or(NotAPod::NoTenant)?,
            uid: Uid::new(&text(&metadata.uid))?,
            namespace: DnsLabel::new(&text(&metadata.namespace))?,
            name: DnsSubdomain::new(&text(&metadata.name))?,
        })
    }

    /// The name of the pod's directory of logs, as upstream has it.
    ///
    /// # Errors
    /// When the names together are too long for a file's.
    pub fn log_name(&self) -> Result<PathComponent, InvalidName> {
        PathComponent::new(&format!("{}_{}_{}", self.namespace, self.name, self.uid))
    }
}

/// As upstream shows a pod in its messages.
impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}
