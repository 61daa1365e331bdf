//! What a tenant may have on this node, as the operator says.

use hypernetes_api::{
    TenantId,
    types::identity::{IMAGE_BYTES, LOG_BYTES, Project, ProjectSpec},
};
use hypernetes_client::Api;

use super::Shared;

/// What a tenant may have on this node.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub image_bytes: u64,
    pub log_bytes: u64,
}

/// As the tenant's Project says; where that cannot be read, what a tenant has of which nothing is said.
pub async fn of(shared: &Shared, tenant: &TenantId) -> Limits {
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
