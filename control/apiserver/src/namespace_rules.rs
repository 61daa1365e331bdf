//! What a namespace says of all that comes into it: its limit ranges and its quotas, as the store has them. Looked up for each object that is
//! made; a namespace that has none costs that look alone.

use std::{collections::HashMap, sync::Arc};

use hypernetes_api::{AllTenants, ApiError, ResourceId, TenantId};
use hypernetes_store::{Entry, Key, Prefix, Revision, Store};

use crate::follow::{Following, Known};

pub const LIMIT_RANGES: &str = "limitranges";
pub const QUOTAS: &str = "resourcequotas";

/// Those of all namespaces that have some.
pub struct NamespaceRules {
    store: Arc<Store>,
    following: Following<Namespaces>,
}

/// Of one namespace, each list by name.
#[derive(Default, Clone)]
pub struct Rules {
    pub limits: Vec<Entry>,
    pub quotas: Vec<Entry>,
    /// Who has it is the only one of this server that writes to the quotas: a write waits for its turn, and is not tried in vain.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

/// By tenant, then by namespace.
#[derive(Default)]
struct Namespaces(HashMap<Arc<str>, HashMap<Arc<str>, Arc<Rules>>>);

impl Known for Namespaces {
    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        let (tenant, namespace) = (key.tenant(), key.namespace());
        if now.is_none() && !self.0.get(tenant).is_some_and(|namespaces| namespaces.contains_key(namespace)) {
            return;
        }
        let namespaces = self.0.entry(tenant.into()).or_default();
        let rules = Arc::make_mut(namespaces.entry(namespace.into()).or_default());
        let list = if key.plural() == QUOTAS { &mut rules.quotas } else { &mut rules.limits };
        match (list.binary_search_by(|entry| entry.key.name().cmp(key.name())), now) {
            (Ok(at), Some(now)) => list[at] = now.clone(),
            (Ok(at), None) => drop(list.remove(at)),
            (Err(at), Some(now)) => list.insert(at, now.clone()),
            (Err(_), None) => {}
        }
        if rules.limits.is_empty() && rules.quotas.is_empty() {
            namespaces.remove(namespace);
            if namespaces.is_empty() {
                self.0.remove(tenant);
            }
        }
    }
}

impl NamespaceRules {
    pub fn new(store: Arc<Store>, all: &AllTenants) -> Self {
        let prefix = |plural: &str| Prefix::all_tenants(&ResourceId::new("", plural), all);
        let following = Following::new(store.clone(), vec![prefix(LIMIT_RANGES), prefix(QUOTAS)]);
        Self { store, following }
    }

    /// Those that a namespace has, none: it has none. With all that was written until `since`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of(
        &self,
        tenant: &TenantId,
        namespace: &str,
        since: Option<Revision>,
    ) -> Result<Option<Arc<Rules>>, ApiError> {
        if let Some(since) = since.filter(|since| *since > self.store.told()) {
            self.store.all_told(since).await;
        }
        self.following.ask(|all| all.0.get(tenant.as_str())?.get(namespace).cloned()).await
    }
}
