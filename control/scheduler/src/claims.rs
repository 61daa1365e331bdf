//! The claims of a pod: what has to be true of them before the pod is placed.

use std::sync::Arc;

use hypernetes_api::TenantId;
use hypernetes_controllers::claims_of_pod;
use hypernetes_runtime::{Informers, Key};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::ResourceExt;

pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// What the claims of a pod say.
#[derive(Default)]
pub struct Claims {
    /// Bound to these.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// Wait for the node to be chosen.
    pub delayed: Vec<Arc<PersistentVolumeClaim>>,
}

/// # Errors
/// Why no node can take the pod, in upstream's words.
pub fn of_pod(informers: &Informers, key: &Key, pod: &Pod) -> Result<Claims, String> {
    let mut found = Claims::default();
    for name in claims_of_pod(pod) {
        let claim = informers.of::<PersistentVolumeClaim>().get(&key.sibling(&name));
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        match volume {
            Some(volume) if claim.annotations().contains_key(BIND_COMPLETED) => {
                let bound = informers.of::<PersistentVolume>().get(&Key::new(&key.tenant, "", &volume));
                let bound = bound.ok_or_else(|| {
                    format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}")
                })?;
                found.volumes.push(bound);
            }
            None if waits_for_node(informers, &claim) => found.delayed.push(claim),
            // The names are not told, as upstream's message does not either.
            _ => return Err("pod has unbound immediate PersistentVolumeClaims".into()),
        }
    }
    Ok(found)
}

fn waits_for_node(informers: &Informers, claim: &PersistentVolumeClaim) -> bool {
    let Some(class) = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) else { return false };
    let class = informers.of::<StorageClass>().get(&Key::new(&TenantId::system(), "", class));
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}
