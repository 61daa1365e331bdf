//! Which logical cluster a request is for.

use hypernetes_api::{ApiError, Reason, auth::UserInfo, names};

use crate::{
    directory::Directory,
    request::{self, Cluster, Scope},
};

/// The logical cluster that a request is for: named by its path, else the credential's own.
pub async fn scope(directory: &Directory, cluster: Cluster, user: &UserInfo) -> Result<Scope, ApiError> {
    let infrastructure = |group: &str| user.tenant.is_system() && user.groups.iter().any(|g| g == group);
    let everywhere = infrastructure(names::GROUP_INFRASTRUCTURE) || infrastructure(names::GROUP_NODES);
    let forbidden = |name: &str| {
        let message = format!("forbidden: the credential of {:?} is not for the logical cluster {name:?}", user.name);
        ApiError::new(Reason::Forbidden, message)
    };
    match cluster {
        Cluster::Unnamed => Ok(Scope::Tenant(user.tenant.clone())),
        Cluster::All if everywhere => Ok(Scope::All),
        Cluster::All => Err(forbidden("*")),
        Cluster::Named(name) => {
            let operator = everywhere || infrastructure(names::GROUP_MASTERS);
            if user.tenant.as_str() == name || (!operator && directory.is_called(&user.tenant, &name).await?) {
                return Ok(Scope::Tenant(user.tenant.clone()));
            }
            // Whether it exists is nobody else's business.
            if !operator {
                return Err(forbidden(&name));
            }
            let id = directory.find(&name).await?;
            // What a project that is gone has left is still there for those who clear it away.
            let id = id.or_else(|| name.parse().ok().filter(|_| everywhere));
            id.map(Scope::Tenant).ok_or_else(request::not_found)
        }
    }
}
