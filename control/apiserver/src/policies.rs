//! What each tenant has of its own in admission: policies with their bindings, and webhooks, as the store has them. Looked up for every write; a
//! tenant that has none costs that look alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hypernetes_api::{AllTenants, ApiError, ResourceId, TenantId};
use hypernetes_policy::{Binding, MutatingPolicy, ValidatingPolicy, Webhook};
use hypernetes_store::{Entry, Key, Prefix, Store};
use serde_json::Value;

use crate::{
    follow::{Following, Known},
    stored_form,
};

pub const GROUP: &str = "admissionregistration.k8s.io";
const VALIDATING: [&str; 2] = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
const MUTATING: [&str; 2] = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];
const VALIDATING_WEBHOOKS: &str = "validatingwebhookconfigurations";
const MUTATING_WEBHOOKS: &str = "mutatingwebhookconfigurations";

/// Those of all tenants that have some.
pub struct Policies(Following<Tenants>);

/// Of one tenant.
#[derive(Clone, Default)]
pub struct OfTenant {
    pub validating: Sort<ValidatingPolicy>,
    pub mutating: Sort<MutatingPolicy>,
    /// In the order of their configurations' names.
    pub validating_webhooks: Arc<Vec<Arc<Webhook>>>,
    pub mutating_webhooks: Arc<Vec<Arc<Webhook>>>,
    configurations: [Configurations; 2],
    /// Bytes of all of them, as they are stored.
    pub bytes: usize,
}

/// A policy and those of its bindings.
pub type Bound<P> = (Arc<P>, Vec<Arc<Binding>>);

/// Webhooks by the name of their configuration, and the bytes of it.
type Configurations = BTreeMap<Box<str>, (Vec<Arc<Webhook>>, usize)>;

/// Policies of one sort, and their bindings.
pub struct Sort<P> {
    policies: BTreeMap<Box<str>, (Arc<P>, usize)>,
    bindings: BTreeMap<Box<str>, (Arc<Binding>, usize)>,
    /// Each policy that is bound, in the order of their names.
    pub bound: Arc<Vec<Bound<P>>>,
}

impl<P> Default for Sort<P> {
    fn default() -> Self {
        Self { policies: BTreeMap::new(), bindings: BTreeMap::new(), bound: Arc::default() }
    }
}

impl<P> Clone for Sort<P> {
    fn clone(&self) -> Self {
        let Self { policies, bindings, bound } = self;
        Self { policies: policies.clone(), bindings: bindings.clone(), bound: bound.clone() }
    }
}

impl<P> Sort<P> {
    /// A policy or a binding is new, another or no more.
    fn changed(&mut self, is_policy: bool, name: &str, now: Option<(&Value, usize)>, read: impl Fn(&Value) -> P) {
        if is_policy {
            put(&mut self.policies, name, now, read);
        } else {
            put(&mut self.bindings, name, now, Binding::of);
        }
        let mut by_policy: HashMap<&str, Vec<Arc<Binding>>> = HashMap::new();
        for (binding, _) in self.bindings.values() {
            by_policy.entry(&binding.policy).or_default().push(binding.clone());
        }
        let bound = self.policies.iter();
        let bound = bound.filter_map(|(name, (policy, _))| Some((policy.clone(), by_policy.remove(&**name)?)));
        self.bound = Arc::new(bound.collect());
    }

    fn bytes(&self) -> usize {
        let policies = self.policies.values().map(|(_, bytes)| bytes);
        policies.chain(self.bindings.values().map(|(_, bytes)| bytes)).sum()
    }

    fn count(&self) -> usize {
        self.policies.len() + self.bindings.len()
    }
}

fn put<T>(
    map: &mut BTreeMap<Box<str>, (Arc<T>, usize)>,
    name: &str,
    now: Option<(&Value, usize)>,
    read: impl Fn(&Value) -> T,
) {
    match now {
        Some((object, bytes)) => map.insert(name.into(), (Arc::new(read(object)), bytes)),
        None => map.remove(name),
    };
}

#[derive(Default)]
struct Tenants(HashMap<Arc<str>, Arc<OfTenant>>);

impl Known for Tenants {
    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        let (tenant, plural, name) = (key.tenant(), key.plural(), key.name());
        if now.is_none() && !self.0.contains_key(tenant) {
            return;
        }
        let decoded = now.map(|entry| (stored_form::decode(entry).unwrap_or_default(), entry.value.len()));
        let now = decoded.as_ref().map(|(object, bytes)| (object, *bytes));
        let of_tenant = Arc::make_mut(self.0.entry(tenant.into()).or_default());
        match plural {
            _ if VALIDATING.contains(&plural) => {
                of_tenant.validating.changed(plural == VALIDATING[0], name, now, ValidatingPolicy::of);
            }
            _ if MUTATING.contains(&plural) => {
                of_tenant.mutating.changed(plural == MUTATING[0], name, now, MutatingPolicy::of);
            }
            _ => of_tenant.webhooks_changed(plural == MUTATING_WEBHOOKS, name, now),
        }
        if of_tenant.count() == 0 {
            self.0.remove(tenant);
        }
    }
}

impl OfTenant {
    fn webhooks_changed(&mut self, mutating: bool, name: &str, now: Option<(&Value, usize)>) {
        let configurations = &mut self.configurations[usize::from(mutating)];
        match now {
            Some((configuration, bytes)) => {
                let webhooks = Webhook::of_configuration(configuration).into_iter().map(Arc::new).collect();
                configurations.insert(name.into(), (webhooks, bytes));
            }
            None => drop(configurations.remove(name)),
        }
        let all = Arc::new(configurations.values().flat_map(|(webhooks, _)| webhooks).cloned().collect());
        *if mutating { &mut self.mutating_webhooks } else { &mut self.validating_webhooks } = all;
    }

    /// Sums up anew, and says how many objects there are.
    fn count(&mut self) -> usize {
        let configurations = || self.configurations.iter().flat_map(BTreeMap::values);
        let webhooks: usize = configurations().map(|(_, bytes)| bytes).sum();
        let count = configurations().count() + self.validating.count() + self.mutating.count();
        self.bytes = self.validating.bytes() + self.mutating.bytes() + webhooks;
        count
    }
}

impl Policies {
    pub fn new(store: Arc<Store>, all: &AllTenants) -> Self {
        let prefix = |plural: &&str| Prefix::all_tenants(&ResourceId::new(GROUP, plural), all);
        Self(Following::new(store, {
            let plurals = VALIDATING.iter().chain(&MUTATING).chain([&VALIDATING_WEBHOOKS, &MUTATING_WEBHOOKS]);
            plurals.map(prefix).collect()
        }))
    }

    /// Those that a tenant has; none: it has none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of(&self, tenant: &TenantId) -> Result<Option<Arc<OfTenant>>, ApiError> {
        self.0.ask(|tenants| tenants.0.get(tenant.as_str()).cloned()).await
    }
}
