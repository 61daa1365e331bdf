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

/// As the tenant's Project says. Of a tenant that there is not, or whose Project is none, nothing is said.
///
/// # Errors
/// When the API does not answer: what a tenant may have is not guessed, as the operator may have said less.
pub async fn of(shared: &Shared, tenant: &TenantId) -> Result<Limits, kube::Error> {
    let projects: Api<Project> = Api::all(shared.config.clients.tenant(&TenantId::system()));
    let spec = match projects.get_opt(tenant.as_str()).await {
        Ok(project) => project.map(|project| project.spec).unwrap_or_default(),
        Err(error @ kube::Error::SerdeError(_)) => {
            tracing::debug!(%tenant, %error, "reading what a tenant may have");
            ProjectSpec::default()
        }
        // The operator's own, whose disk it is, has none.
        Err(_) if tenant.is_system() => ProjectSpec::default(),
        Err(error) => return Err(error),
    };
    Ok(Limits { image_bytes: spec.limit(IMAGE_BYTES), log_bytes: spec.limit(LOG_BYTES) })
}
