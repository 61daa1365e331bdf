//! The admission policies of each tenant with their bindings, as the store has them. Looked up for every write; a tenant that has none costs
//! that look alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hypernetes_api::{AllTenants, ApiError, ResourceId, TenantId};
use hypernetes_policy::{Binding, MutatingPolicy, ValidatingPolicy};
use hypernetes_store::{Entry, Key, Prefix, Store};
use serde_json::Value;

use crate::{
    follow::{Following, Known},
    stored_form,
};

pub const GROUP: &str = "admissionregistration.k8s.io";
const VALIDATING: [&str; 2] = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
const MUTATING: [&str; 2] = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

/// Those of all tenants that have some.
pub struct Policies(Following<Tenants>);

/// Of one tenant.
#[derive(Clone, Default)]
pub struct OfTenant {
    pub validating: Sort<ValidatingPolicy>,
    pub mutating: Sort<MutatingPolicy>,
    /// Bytes of all of them, as they are stored.
    pub bytes: usize,
}

/// Policies of one sort, and their bindings.
pub struct Sort<P> {
    policies: BTreeMap<Box<str>, (Arc<P>, usize)>,
    bindings: BTreeMap<Box<str>, (Arc<Binding>, usize)>,
    /// Each policy that is bound, in the order of their names.
    pub bound: Arc<Vec<(Arc<P>, Vec<Arc<Binding>>)>>,
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
        let of_policy = |name: &str| {
            let bindings = self.bindings.values().map(|(binding, _)| binding);
            bindings.filter(|binding| binding.policy == *name).cloned().collect::<Vec<_>>()
        };
        let bound = self.policies.iter().map(|(name, (policy, _))| (policy.clone(), of_policy(name)));
        self.bound = Arc::new(bound.filter(|(_, bindings)| !bindings.is_empty()).collect());
    }

    fn bytes(&self) -> usize {
        let policies = self.policies.values().map(|(_, bytes)| bytes);
        policies.chain(self.bindings.values().map(|(_, bytes)| bytes)).sum()
    }

    fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.bindings.is_empty()
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
            _ => of_tenant.mutating.changed(plural == MUTATING[0], name, now, MutatingPolicy::of),
        }
        of_tenant.bytes = of_tenant.validating.bytes() + of_tenant.mutating.bytes();
        if of_tenant.validating.is_empty() && of_tenant.mutating.is_empty() {
            self.0.remove(tenant);
        }
    }
}

impl Policies {
    pub fn new(store: Arc<Store>, all: &AllTenants) -> Self {
        let prefix = |plural: &&str| Prefix::all_tenants(&ResourceId::new(GROUP, *plural), all);
        Self(Following::new(store, VALIDATING.iter().chain(&MUTATING).map(prefix).collect()))
    }

    /// Those that a tenant has; none: it has none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of(&self, tenant: &TenantId) -> Result<Option<Arc<OfTenant>>, ApiError> {
        self.0.ask(|tenants| tenants.0.get(tenant.as_str()).cloned()).await
    }
}
