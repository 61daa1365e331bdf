//! The store as the API shows it, with what every tenant has from the start: roles and bindings
//! ([`crate::authorization::defaults`]), schemas and levels of requests ([`crate::from_start`]).
//!
//! One that a tenant has not written is shown as if it were stored, at version 1. What is written over it is stored, and what
//! deletes that stores the default anew, as another object: upstream makes it again, too. A tenant whose Project is gone has
//! none, so that nothing stays of it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hypernetes_api::TenantId;
use hypernetes_kinds::flowcontrol;
use hypernetes_store::{
    Change, Changes, Entry, Guard, Key, Listing, Op, Part, Prefix, RangeOptions, ReadError, ResourceId, Revision,
    Store, Txn, TxnError,
};

use crate::{authorization::defaults, directory, from_start, stored_form};

/// Cheap to clone.
#[derive(Clone)]
pub struct WithDefaults(Arc<Store>);

fn value(key: &Key) -> Option<&'static Bytes> {
    match key.group() {
        defaults::GROUP => defaults::value(key.plural(), key.namespace(), key.name()),
        flowcontrol::GROUP => from_start::flow(key.plural(), key.name()),
        _ => None,
    }
}

/// Namespaces and names of all that there is of a resource.
fn names(group: &str, plural: &str) -> Vec<(&'static str, &'static str)> {
    match group {
        defaults::GROUP => defaults::names(plural).collect(),
        flowcontrol::GROUP => from_start::flows(plural).map(|name| ("", name)).collect(),
        _ => Vec::new(),
    }
}

fn entry(key: &Key, value: &Bytes) -> Entry {
    stored_form::outside(key.clone(), value, from_start::REVISION, from_start::REVISION)
}

/// What was shown before a change: the default, if nothing had been written over it.
pub fn before(change: &Change) -> Option<Entry> {
    change.before.clone().or_else(|| value(&change.key).map(|value| entry(&change.key, value)))
}

impl WithDefaults {
    pub fn new(store: Arc<Store>) -> Self {
        Self(store)
    }

    /// Whether the tenant is the system, or has a Project.
    async fn is_there(&self, tenant: &str) -> Result<bool, ReadError> {
        if tenant == TenantId::SYSTEM {
            return Ok(true);
        }
        match Key::new(&directory::projects(), &TenantId::system(), "", tenant) {
            Ok(project) => Ok(self.0.get(&project).await?.is_some()),
            Err(_) => Ok(false),
        }
    }

    async fn default(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        match value(key) {
            Some(value) if self.is_there(key.tenant()).await? => Ok(Some(entry(key, value))),
            _ => Ok(None),
        }
    }

    /// All defaults under a prefix, in order.
    async fn under(&self, prefix: &Prefix) -> Result<BTreeMap<Key, Entry>, ReadError> {
        let parts: Vec<&str> = prefix.as_str().split('/').collect();
        let (["", group, plural, tenant, ..], Some(_)) = (parts.as_slice(), prefix.of_tenant()) else {
            return Ok(BTreeMap::new());
        };
        let names = names(group, plural);
        let Some(id) = tenant.parse::<TenantId>().ok().filter(|_| !names.is_empty()) else {
            return Ok(BTreeMap::new());
        };
        let resource = ResourceId::new(group, plural);
        let keys = names.into_iter().filter_map(|(namespace, name)| Key::new(&resource, &id, namespace, name).ok());
        let under: BTreeMap<Key, Entry> = keys
            .filter(|key| prefix.contains(key))
            .filter_map(|key| value(&key).map(|value| (key.clone(), entry(&key, value))))
            .collect();
        if under.is_empty() || !self.is_there(tenant).await? {
            return Ok(BTreeMap::new());
        }
        Ok(under)
    }

    /// A guard for what is stored, of one for what is shown.
    ///
    /// # Errors
    /// `Conflict` when a default is there, and should not be.
    async fn guard(&self, guard: Guard) -> Result<Guard, TxnError> {
        let (Guard::Absent(key) | Guard::Unchanged(key, _)) = &guard;
        if value(key).is_none() || self.0.get(key).await.map_err(unread)?.is_some() {
            return Ok(guard);
        }
        match (self.default(key).await.map_err(unread)?, guard) {
            (Some(default), Guard::Absent(key)) => Err(TxnError::Conflict { key, current: Some(default.mod_revision) }),
            (Some(_), Guard::Unchanged(key, from_start::REVISION)) => Ok(Guard::Absent(key)),
            (_, guard) => Ok(guard),
        }
    }
}

fn unread(error: ReadError) -> TxnError {
    TxnError::Unknown(error.to_string())
}

/// As the store's own.
impl WithDefaults {
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        match self.0.get(key).await? {
            None => self.default(key).await,
            stored => Ok(stored),
        }
    }

    pub async fn range(&self, prefix: &Prefix, options: RangeOptions) -> Result<Listing, ReadError> {
        let mut defaults = self.under(prefix).await?;
        let (after, limit) = (options.after.clone(), options.limit);
        let mut listing = self.0.range(prefix, options).await?;
        if defaults.is_empty() {
            return Ok(listing);
        }
        // Behind the last that is stored there may be more stored ones, which come first.
        let last = listing.entries.last().map(|entry| entry.key.clone()).filter(|_| listing.more);
        defaults.retain(|key, _| {
            after.as_ref().is_none_or(|after| key > after) && last.as_ref().is_none_or(|last| key <= last)
        });
        defaults.extend(listing.entries.drain(..).map(|entry| (entry.key.clone(), entry)));
        listing.entries.extend(defaults.into_values());
        if limit > 0 && listing.entries.len() > limit {
            listing.entries.truncate(limit);
            listing.more = true;
        }
        Ok(listing)
    }

    pub async fn count(&self, prefix: &Prefix) -> Result<usize, ReadError> {
        if self.under(prefix).await?.is_empty() {
            return self.0.count(prefix).await;
        }
        Ok(self.range(prefix, RangeOptions::default()).await?.entries.len())
    }

    pub async fn count_after(
        &self,
        prefix: &Prefix,
        after: &Key,
        revision: Revision,
        most: usize,
    ) -> Result<(usize, Option<Key>), ReadError> {
        if self.under(prefix).await?.is_empty() {
            return self.0.count_after(prefix, after, revision, most).await;
        }
        let options = RangeOptions { after: Some(after.clone()), limit: most, revision: Some(revision) };
        let mut listing = self.range(prefix, options).await?;
        Ok((listing.entries.len(), listing.entries.pop().filter(|_| listing.more).map(|last| last.key.clone())))
    }

    pub async fn commit(&self, mut txn: Txn) -> Result<Revision, TxnError> {
        for guard in &mut txn.guards {
            *guard = self.guard(guard.clone()).await?;
        }
        for op in &mut txn.ops {
            if let Op::Delete(key) = op
                && let Some(default) = value(key)
                && self.is_there(key.tenant()).await.map_err(unread)?
            {
                *op = Op::Put(key.clone(), from_start::anew(default));
            }
        }
        self.0.commit(txn).await
    }

    pub async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Changes, ReadError> {
        self.0.watch(prefix, from).await
    }

    pub async fn watch_part(&self, prefix: &Prefix, part: Part<&str>, from: Revision) -> Result<Changes, ReadError> {
        self.0.watch_part(prefix, part, from).await
    }

    pub async fn revision(&self) -> Result<Revision, ReadError> {
        self.0.revision().await
    }

    /// What is stored, and nothing else.
    pub fn stored(&self) -> &Arc<Store> {
        &self.0
    }
}
