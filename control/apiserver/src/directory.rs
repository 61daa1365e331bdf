//! Which tenants there are, by id and by name, and whether what was given out for them opens anything: an index of the
//! operator's Projects and Domains.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hypernetes_api::{ApiError, TenantId, names};
use hypernetes_store::{Entry, Key, Prefix, ResourceId, Store};
use serde_json::Value;

use crate::{
    follow::{Following, Known},
    stored_form,
};

pub struct Directory(Following<Tenants>);

#[derive(Default)]
struct Tenants {
    projects: HashMap<Box<str>, Project>,
    /// Projects of the default domain.
    by_name: HashMap<Box<str>, BTreeSet<Box<str>>>,
    /// Whether they are enabled.
    domains: HashMap<Box<str>, bool>,
}

struct Project {
    name: Box<str>,
    domain: Box<str>,
    enabled: bool,
}

/// The operator's objects that say which tenants there are.
pub fn projects() -> ResourceId {
    ResourceId::new("identity.hypernetes.io", "projects")
}

fn is_enabled(object: &Value) -> bool {
    object["spec"]["enabled"] == true && !object["metadata"]["deletionTimestamp"].is_string()
}

impl Directory {
    pub fn new(store: Arc<Store>) -> Self {
        let prefix = |resource: ResourceId| Prefix::tenant(&resource, &TenantId::system(), None).ok();
        let domains = ResourceId::new("identity.hypernetes.io", "domains");
        let prefixes = [projects(), domains].into_iter().filter_map(prefix);
        Self(Following::new(store, prefixes.collect()))
    }

    /// Whether a tenant's project is there and enabled, as its domain is. If not, nothing that was given out for it opens
    /// anything.
    ///
    /// # Errors
    /// When the store does not answer, as of all here.
    pub async fn is_open(&self, tenant: &TenantId) -> Result<bool, ApiError> {
        if tenant.is_system() {
            return Ok(true);
        }
        let is_open = |tenants: &mut Tenants| {
            let project = tenants.projects.get(tenant.as_str()).filter(|project| project.enabled);
            project.is_some_and(|project| tenants.domains.get(&project.domain) == Some(&true))
        };
        self.0.ask(is_open).await
    }

    /// Whether a tenant's project has this name in the default domain.
    pub async fn is_called(&self, tenant: &TenantId, name: &str) -> Result<bool, ApiError> {
        let known = |tenants: &mut Tenants| tenants.by_name.get(name).is_some_and(|of| of.contains(tenant.as_str()));
        self.0.ask(known).await
    }

    /// By id, or by a project's name in the default domain.
    pub async fn find(&self, name: &str) -> Result<Option<TenantId>, ApiError> {
        if name == TenantId::SYSTEM {
            return Ok(Some(TenantId::system()));
        }
        let find = |tenants: &mut Tenants| {
            let id = tenants.projects.get_key_value(name).map(|(id, _)| id);
            id.or_else(|| tenants.by_name.get(name)?.first())?.parse().ok()
        };
        self.0.ask(find).await
    }
}

impl Known for Tenants {
    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        // What cannot be read opens nothing.
        let now = now.and_then(|entry| stored_form::decode(entry).ok());
        if key.plural() == "domains" {
            match now {
                Some(domain) => drop(self.domains.insert(key.name().into(), is_enabled(&domain))),
                None => drop(self.domains.remove(key.name())),
            }
            return;
        }
        if let Some(before) = self.projects.remove(key.name())
            && let Some(of) = self.by_name.get_mut(&before.name)
        {
            of.remove(key.name());
            if of.is_empty() {
                self.by_name.remove(&before.name);
            }
        }
        let Some(project) = now else { return };
        let text = |field: &str| -> Box<str> { project["spec"][field].as_str().unwrap_or_default().into() };
        let (name, domain) = (text("displayName"), text("domain"));
        if *domain == *names::DEFAULT_DOMAIN {
            self.by_name.entry(name.clone()).or_default().insert(key.name().into());
        }
        self.projects.insert(key.name().into(), Project { name, domain, enabled: is_enabled(&project) });
    }
}
