//! The kinds that tenants define for themselves: what each of them sees besides what is built in, kept current by the changes of
//! its definitions.
//!
//! Who asks for what is built in does not wait for them, and costs what it cost when nobody had any.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hypernetes_api::{AllTenants, ApiError, TenantId};
use hypernetes_kinds::{Again, Endpoint, Registry, Resource, View, of_definition};
use hypernetes_store::{Entry, Key, Prefix, ResourceId, Store};

use crate::{
    follow::{Following, Known},
    stored_form,
};

pub struct Definitions {
    followed: Following<Defined>,
    registry: Registry,
}

/// What the definitions of each tenant make.
#[derive(Default)]
struct Defined {
    tenants: HashMap<TenantId, BTreeMap<Box<str>, Vec<Arc<Resource>>>>,
    /// Those of whom something is not in the registry yet.
    changed: HashSet<TenantId>,
    /// Whether the registry has heard of what there was before this was begun.
    told: bool,
}

impl Known for Defined {
    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        let Ok(tenant) = key.tenant().parse::<TenantId>() else { return };
        // One that cannot be read defines nothing.
        let resources: Vec<_> = now.into_iter().flat_map(resources).map(Arc::new).collect();
        let of_tenant = self.tenants.entry(tenant.clone()).or_default();
        match resources.is_empty() {
            true => of_tenant.remove(key.name()).is_some(),
            false => of_tenant.insert(key.name().into(), resources).is_some(),
        };
        if of_tenant.is_empty() {
            self.tenants.remove(&tenant);
        }
        self.changed.insert(tenant);
    }
}

/// What a definition makes. Its schemas stay in what is stored, which is there anyway.
fn resources(entry: &Entry) -> Vec<Resource> {
    let Ok(definition) = stored_form::decode(entry) else { return Vec::new() };
    let entry = entry.clone();
    let again: Again = Arc::new(move || stored_form::decode(&entry).unwrap_or_default());
    of_definition(&definition, &again)
}

impl Defined {
    fn tell(&mut self, registry: &Registry) {
        if !std::mem::replace(&mut self.told, true) {
            // What was missed may be that somebody has none any more.
            self.changed.extend(registry.tenants());
        }
        for tenant in self.changed.drain() {
            let own = self.tenants.get(&tenant).into_iter().flat_map(BTreeMap::values).flatten();
            registry.set_own(&tenant, own.cloned().collect());
        }
    }
}

impl Definitions {
    pub fn new(store: Arc<Store>, all: &AllTenants) -> Self {
        let definitions = ResourceId::new("apiextensions.k8s.io", "customresourcedefinitions");
        let followed = Following::new(store, vec![Prefix::all_tenants(&definitions, all)]);
        Self { followed, registry: Registry::default() }
    }

    /// Which resources there are.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All that a tenant sees.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn view(&self, tenant: &TenantId) -> Result<Arc<View>, ApiError> {
        self.followed.ask(|defined| defined.tell(&self.registry)).await?;
        Ok(self.registry.view(tenant))
    }

    /// What a tenant sees by that name.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn find(
        &self,
        tenant: &TenantId,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Option<Endpoint>, ApiError> {
        if let Some(endpoint) = self.registry.builtin(tenant).find(group, version, plural) {
            return Ok(Some(endpoint.clone()));
        }
        Ok(self.view(tenant).await?.find(group, version, plural).cloned())
    }
}
