//! Nothing stays of tenants that are deleted: neither their pods' logs nor what the runtime knows that they have pulled.
//!
//! What a node keeps of a tenant is looked for on the disk and in the runtime, and not remembered: so it goes also when the
//! tenant was deleted while the kubelet or the runtime was not running.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hypernetes_api::{TenantId, names, types::identity::Project};
use hypernetes_client::Api;
use kube::core::Status;

use crate::node::Shared;

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
    found.extend(shared.logs.tenants().map_err(|error| error.to_string())?);
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
    shared.logs.remove_tenant(tenant).map_err(|error| error.to_string())?;
    tracing::info!(%tenant, "the tenant is deleted: its logs and what it has pulled are forgotten");
    Ok(())
}

/// Whether an answer is about this tenant's Project. Of a server that has no such resource it is not.
fn is_of(status: &Status, tenant: &TenantId) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == tenant.as_str())
}
