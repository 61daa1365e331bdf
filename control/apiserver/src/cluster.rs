//! Which logical cluster a request is for.

use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo, names};
use hypernetes_store::{Entry, Key, Prefix, RangeOptions, ResourceId, Store};

use crate::{
    request::{self, Cluster, Scope},
    stored_form,
};

/// The logical cluster that a request is for: named by its path, else the credential's own.
pub async fn scope(store: &Store, cluster: Cluster, user: &UserInfo) -> Result<Scope, ApiError> {
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
            if user.tenant.as_str() == name || (!operator && is_called(store, &user.tenant, &name).await?) {
                return Ok(Scope::Tenant(user.tenant.clone()));
            }
            // Whether it exists is nobody else's business.
            if !operator {
                return Err(forbidden(&name));
            }
            let id = find_cluster(store, &name).await?;
            // What a project that is gone has left is still there for those who clear it away.
            let id = id.or_else(|| name.parse().ok().filter(|_| everywhere));
            id.map(Scope::Tenant).ok_or_else(request::not_found)
        }
    }
}

/// Whether a tenant's project has this name in the default domain.
async fn is_called(store: &Store, tenant: &TenantId, name: &str) -> Result<bool, ApiError> {
    let key = Key::new(&projects(), &TenantId::system(), "", tenant.as_str())?;
    let entry = store.get(&key).await?;
    entry.map_or(Ok(false), |entry| is_project_called(&entry, name))
}

/// By id, or by a project's name in the default domain.
async fn find_cluster(store: &Store, name: &str) -> Result<Option<TenantId>, ApiError> {
    if name == TenantId::SYSTEM {
        return Ok(Some(TenantId::system()));
    }
    let by_id = name
        .parse()
        .ok()
        .and_then(|id: TenantId| Key::new(&projects(), &TenantId::system(), "", id.as_str()).ok().map(|key| (id, key)));
    if let Some((id, key)) = by_id
        && store.get(&key).await?.is_some()
    {
        return Ok(Some(id));
    }
    let all = Prefix::tenant(&projects(), &TenantId::system(), None)?;
    let listing = store.range(&all, RangeOptions::default()).await?;
    for entry in &listing.entries {
        if is_project_called(entry, name)? {
            return Ok(entry.key.name().parse().ok());
        }
    }
    Ok(None)
}

/// The operator's objects that say which there are.
pub fn projects() -> ResourceId {
    ResourceId::new("identity.hypernetes.io", "projects")
}

fn is_project_called(entry: &Entry, name: &str) -> Result<bool, ApiError> {
    let project = stored_form::decode(entry)?;
    Ok(project["spec"]["displayName"] == name && project["spec"]["domain"] == "default")
}
