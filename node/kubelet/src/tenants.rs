//! What tenants may have on the node, and that nothing stays of those that are deleted: neither their pods' logs nor what the
//! runtime knows that they have pulled.
//!
//! What a node keeps of a tenant is looked for on the disk and in the runtime, and not remembered: so it goes also when the
//! tenant was deleted while the kubelet or the runtime was not running.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hypernetes_api::{
    TenantId, names,
    types::identity::{IMAGE_BYTES, LOG_BYTES, Project, ProjectSpec},
};
use hypernetes_client::Api;
use kube::core::Status;

use crate::worker::Shared;

/// Between two looks, though no pod has gone. Each asks for one object per tenant that has something here and no pod.
const LOOK: Duration = Duration::from_secs(60);
/// Many pods go at a time.
const APART: Duration = Duration::from_secs(1);

/// Looks for ever: at once, when a pod has gone, and now and then.
pub async fn keep(shared: Arc<Shared>) {
    loop {
        if let Err(error) = look(&shared).await {
            tracing::warn!(error, "looking for what deleted tenants have left");
        }
        tokio::time::sleep(APART).await;
        let _ = tokio::time::timeout(LOOK, shared.pod_gone.notified()).await;
    }
}

/// Another's trouble keeps no tenant's things here.
async fn look(shared: &Shared) -> Result<(), String> {
    // Before what they have: a tenant that has a pod now may have logs a moment later.
    let sandboxes = shared.runtime.all_sandboxes().await.map_err(|status| status.to_string())?;
    let present: BTreeSet<&str> =
        sandboxes.iter().filter_map(|s| s.annotations.get(names::TENANT_ANNOTATION)).map(String::as_str).collect();
    let mut found: BTreeSet<TenantId> = shared.runtime.tenants().await.map_err(|status| status.to_string())?;
    let logs = shared.logs.names().map_err(|error| error.to_string())?;
    found.extend(logs.iter().filter_map(|name| name.to_str()?.parse().ok()));
    let mut outcome = Ok(());
    for tenant in found.into_iter().filter(|tenant| !tenant.is_system() && !present.contains(tenant.as_str())) {
        if let Err(error) = forget_if_gone(shared, &tenant).await {
            outcome = Err(format!("{tenant}: {error}"));
        }
    }
    outcome
}

async fn forget_if_gone(shared: &Shared, tenant: &TenantId) -> Result<(), String> {
    let projects: Api<Project> = Api::all(shared.config.clients.tenant(&TenantId::system()));
    match projects.get(tenant.as_str()).await {
        Err(kube::Error::Api(status)) if is_of(&status, tenant) && status.code == 404 => {}
        // Of one without a pod here it is said only that it is there.
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(_) => return Ok(()),
    }
    shared.runtime.forget_tenant(tenant).await.map_err(|status| status.to_string())?;
    shared.logs.remove(tenant.clone()).map_err(|error| error.to_string())?;
    tracing::info!(%tenant, "the tenant is deleted: its logs and what it has pulled are forgotten");
    Ok(())
}

/// What a tenant may have on this node.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub image_bytes: u64,
    pub log_bytes: u64,
}

/// As the tenant's Project says; where that cannot be read, what a tenant has of which nothing is said.
pub async fn limits(shared: &Shared, tenant: &TenantId) -> Limits {
    let projects: Api<Project> = Api::all(shared.config.clients.tenant(&TenantId::system()));
    let spec = match projects.get(tenant.as_str()).await {
        Ok(project) => project.spec,
        // The operator's own, whose disk it is, has none.
        Err(_) if tenant.is_system() => ProjectSpec::default(),
        Err(error) => {
            tracing::debug!(%tenant, %error, "reading what a tenant may have");
            ProjectSpec::default()
        }
    };
    Limits { image_bytes: spec.limit(IMAGE_BYTES), log_bytes: spec.limit(LOG_BYTES) }
}

/// Whether an answer is about this tenant's Project. Of a server that has no such resource it is not.
fn is_of(status: &Status, tenant: &TenantId) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == tenant.as_str())
}
