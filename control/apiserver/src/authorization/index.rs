//! Every tenant's [`Rights`], kept current by the store's changes.
//!
//! ```text
//! change ─▶ waits at its tenant ─▶ compiled when that tenant's next question is answered
//! ```
//!
//! What one tenant writes costs others no more than putting it where it waits. A tenant's roles and bindings are read when it
//! first asks; of what has changed since, the newest of each object waits.

use std::{collections::HashMap, sync::Arc};

use hypernetes_api::{AllTenants, ApiError, TenantId};
use hypernetes_store::{Entry, Key, Prefix, RangeOptions, ResourceId, Store};
use parking_lot::Mutex;

use crate::{
    authorization::{
        compiled::{Binding, Role},
        defaults::GROUP,
        rights::Rights,
    },
    follow::{Following, Known},
    stored_form,
};

const PLURALS: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];
/// More changes than this do not wait: all is read anew, if it is asked for again.
const MOST_WAITING: usize = 4096;

/// All tenants' rights. A tenant is there from its first question on.
pub struct Index {
    store: Arc<Store>,
    tenants: Following<Tenants>,
}

#[derive(Default)]
struct Tenants(HashMap<Arc<str>, Arc<Tenant>>);

#[derive(Default)]
struct Tenant {
    /// None: what there is has not been read.
    rights: Mutex<Option<Rights>>,
    /// The newest of what has changed and is not in `rights`. Never locked for long: whoever's request finds a change puts
    /// it there.
    waiting: Mutex<HashMap<Key, Option<Entry>>>,
    /// Held by whoever reads what there is.
    reading: tokio::sync::Mutex<()>,
}

impl Known for Tenants {
    const LISTED: bool = false;

    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        let Some(tenant) = self.0.get(key.tenant()) else { return };
        let mut waiting = tenant.waiting.lock();
        waiting.insert(key.clone(), now.cloned());
        let too_many = waiting.len() > MOST_WAITING;
        drop(waiting);
        if too_many {
            self.0.remove(key.tenant());
        }
    }
}

impl Index {
    pub fn new(store: Arc<Store>, all: &AllTenants) -> Self {
        let prefix = |plural: &&str| Prefix::all_tenants(&ResourceId::new(GROUP, plural), all);
        let tenants = Following::new(store.clone(), PLURALS.iter().map(prefix).collect());
        Self { store, tenants }
    }

    /// What was acknowledged before the question is in the answer.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn ask<T>(&self, tenant: &TenantId, question: impl FnOnce(&mut Rights) -> T) -> Result<T, ApiError> {
        let of = self.tenants.ask(|tenants| tenants.0.entry(tenant.as_str().into()).or_default().clone()).await?;
        if of.rights.lock().is_none() {
            let _reading = of.reading.lock().await;
            if of.rights.lock().is_none() {
                let read = self.read(tenant).await?;
                *of.rights.lock() = Some(read);
            }
        }
        let mut rights = of.rights.lock();
        let rights = rights.get_or_insert_default();
        for (key, now) in std::mem::take(&mut *of.waiting.lock()) {
            rights.changed(&key, now.as_ref());
        }
        Ok(question(rights))
    }

    /// What changes meanwhile waits, and is taken in after.
    async fn read(&self, tenant: &TenantId) -> Result<Rights, ApiError> {
        let mut rights = Rights::default();
        for plural in PLURALS {
            let prefix = Prefix::tenant(&ResourceId::new(GROUP, plural), tenant, None)?;
            let listing = self.store.range(&prefix, RangeOptions::default()).await?;
            listing.entries.iter().for_each(|entry| rights.changed(&entry.key, Some(entry)));
        }
        Ok(rights)
    }
}

impl Rights {
    pub fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        // What cannot be read gives nothing.
        let now = now.and_then(|entry| stored_form::decode(entry).ok());
        let (namespace, name) = (key.namespace(), key.name());
        match (key.plural(), now) {
            ("roles" | "clusterroles", Some(role)) => {
                self.put_role(namespace, name, Arc::new(Role::compile(&role)));
            }
            ("roles" | "clusterroles", None) => self.remove_role(namespace, name),
            (_, Some(binding)) => self.put_binding(Binding::compile(&binding, namespace, name)),
            (_, None) => self.remove_binding(namespace, name),
        }
    }
}
