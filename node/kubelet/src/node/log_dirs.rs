//! Directories of pods' logs, below one of each tenant's: their namespaces and pods may have the same names.

use std::{collections::HashSet, io, path::Path};

use hypernetes_api::{PathComponent, TenantId, Uid};

use crate::{
    identity::PodId,
    pod_dir::{PodDir, PodDirs},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogDirs(PodDirs);

impl LogDirs {
    /// As [`PodDirs::open`].
    ///
    /// # Errors
    /// As the system says, all methods alike.
    pub fn open(path: &Path) -> io::Result<Self> {
        PodDirs::open(path).map(Self)
    }

    /// The pod's own directory, made where it is not there.
    pub fn make(&self, id: &PodId) -> io::Result<PodDir> {
        let of_tenant = self.0.below(id.tenant.clone())?;
        of_tenant.make(id.log_name().map_err(io::Error::other)?)
    }

    /// The pod's own directory, if it has one.
    pub fn find(&self, id: &PodId) -> io::Result<Option<PodDir>> {
        let Some(of_tenant) = self.0.find_below(id.tenant.clone())? else { return Ok(None) };
        of_tenant.find(id.log_name().map_err(io::Error::other)?)
    }

    /// Removes a pod's logs; none are no error.
    pub fn remove(&self, tenant: &TenantId, name: PathComponent) -> io::Result<()> {
        self.0.find_below(tenant.clone())?.map_or(Ok(()), |of_tenant| of_tenant.remove(name))
    }

    /// Removes all logs of a tenant's pods.
    pub fn remove_tenant(&self, tenant: &TenantId) -> io::Result<()> {
        self.0.remove(tenant.clone())
    }

    /// The tenants that have a directory.
    pub fn tenants(&self) -> io::Result<Vec<TenantId>> {
        Ok(self.0.names()?.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Directories that belong to none of these pods.
    pub fn of_others(&self, known: &HashSet<Uid>) -> Vec<(TenantId, PathComponent)> {
        let mut others = Vec::new();
        for tenant in self.tenants().unwrap_or_default() {
            let Ok(Some(of_tenant)) = self.0.find_below(tenant.clone()) else { continue };
            for name in of_tenant.names().unwrap_or_default() {
                let Some(name) = name.to_str().and_then(|name| PathComponent::new(name).ok()) else { continue };
                let uid = name.rsplit_once('_').and_then(|(_, uid)| Uid::new(uid).ok());
                if uid.is_some_and(|uid| !known.contains(&uid)) {
                    others.push((tenant.clone(), name));
                }
            }
        }
        others
    }
}
