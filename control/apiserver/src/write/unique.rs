//! Values that no two objects have (`unique` of a resource's record): each is an entry of its own in the store, which comes,
//! changes and goes in the same transaction as its object. So it is true whoever writes, and nothing is left behind.

use std::collections::BTreeMap;

use bytes::Bytes;
use hypernetes_api::{AllTenants, ApiError, ResourceId, TenantId, error::Cause};
use hypernetes_kinds::{Resource, Within, registry};
use hypernetes_store::{Entry, Guard, Key, Op, Prefix, RangeOptions, Store, Txn, TxnError};
use serde_json::Value;

use crate::stored_form;

/// Says that what was there before entries of this form were has been gone through.
const COMPLETE: &str = "complete.1";

/// What a write does about them.
#[derive(Default)]
pub(super) struct Uniques {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
    /// What is wrong where a guard fails.
    taken: BTreeMap<Key, Cause>,
}

fn entry_key(resource: &Resource, index: &str, tenant: &TenantId, name: &str) -> Option<Key> {
    let id = ResourceId::new(&resource.id.group, &format!("{}.{index}", resource.plural));
    Key::new(&id, tenant, "", name).ok()
}

/// The entries of an object; what can be no key is no value that another object could have.
fn entries(resource: &Resource, tenant: &TenantId, object: Option<&Value>) -> BTreeMap<Key, Cause> {
    let uniques = object.map(|object| resource.uniques(object)).unwrap_or_default();
    let entry = |unique: hypernetes_kinds::Unique| {
        let whose = match unique.within {
            Within::Tenant => tenant.clone(),
            Within::Everywhere => TenantId::system(),
        };
        Some((entry_key(resource, unique.index, &whose, &unique.name)?, unique.error.cause()))
    };
    uniques.into_iter().filter_map(entry).collect()
}

/// For people who look into the store.
fn owner(tenant: &TenantId, name: &str) -> Bytes {
    Value::String(format!("{tenant}/{name}")).to_string().into()
}

impl Uniques {
    /// `old` becomes `new`; none: it is not there.
    pub fn of_change(
        resource: &Resource,
        tenant: &TenantId,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Self {
        if !resource.has_uniques() {
            return Self::default();
        }
        let (before, now) = (entries(resource, tenant, old), entries(resource, tenant, new));
        let mut uniques = Self::default();
        for key in before.keys().filter(|key| !now.contains_key(*key)) {
            uniques.ops.push(Op::Delete(key.clone()));
        }
        for (key, cause) in now.into_iter().filter(|(key, _)| !before.contains_key(key)) {
            uniques.guards.push(Guard::Absent(key.clone()));
            uniques.ops.push(Op::Put(key.clone(), owner(tenant, name)));
            uniques.taken.insert(key, cause);
        }
        uniques
    }

    /// The entries of which there must be none.
    pub fn guarded(&self) -> impl Iterator<Item = &Key> {
        self.taken.keys()
    }

    /// What is wrong, if it is one of these that another object has.
    pub fn refusal(&self, key: &Key) -> Option<Cause> {
        self.taken.get(key).cloned()
    }
}

/// Makes the entries of objects that were stored before there were any. Once for a store.
///
/// # Errors
/// The store's.
pub(crate) async fn complete(store: &Store, all: &AllTenants) -> Result<(), ApiError> {
    for resource in registry::builtin().iter().filter(|resource| resource.has_uniques()) {
        let Some(done) = entry_key(resource, "uniques", &TenantId::system(), COMPLETE) else { continue };
        if store.get(&done).await?.is_some() {
            continue;
        }
        let listing = store.range(&Prefix::all_tenants(&resource.id, all), RangeOptions::default()).await?;
        for entry in &listing.entries {
            complete_one(store, resource, entry).await?;
        }
        match store
            .commit(Txn {
                guards: vec![Guard::Absent(done.clone())],
                ops: vec![Op::Put(done, Bytes::from_static(b"true"))],
            })
            .await
        {
            // On a full disk the next start does it again.
            Ok(_) | Err(TxnError::Conflict { .. } | TxnError::NoSpace(_)) => {}
            Err(error) => return Err(ApiError::internal(error.to_string())),
        }
    }
    Ok(())
}

async fn complete_one(store: &Store, resource: &Resource, entry: &Entry) -> Result<(), ApiError> {
    let (Ok(object), Ok(tenant)) = (stored_form::decode(entry), entry.key.tenant().parse::<TenantId>()) else {
        return Ok(());
    };
    for key in entries(resource, &tenant, Some(&object)).into_keys() {
        let guards = vec![Guard::Absent(key.clone()), Guard::Unchanged(entry.key.clone(), entry.mod_revision)];
        let ops = vec![Op::Put(key, owner(&tenant, entry.key.name()))];
        match store.commit(Txn { guards, ops }).await {
            // Another server has done it, or a second object has the same: nobody can have it once more.
            Ok(_) | Err(TxnError::Conflict { .. }) => {}
            Err(TxnError::Quota { .. } | TxnError::NoSpace(_)) => {
                tracing::warn!(%tenant, key = %entry.key, "there is no room for what says that its addresses are taken");
            }
            Err(error) => return Err(ApiError::internal(error.to_string())),
        }
    }
    Ok(())
}
