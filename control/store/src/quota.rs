//! How much each tenant may keep in the store. Checked in the commit, so that no two writers get past it together.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use hypernetes_api::TenantId;
use parking_lot::RwLock;

use crate::{Key, TxnError, txn::Exceeded};

/// How many things a [`Meter`] counts.
pub const METERED: usize = 4;

/// Amounts of what an entry takes of its tenant besides room. What they are is the meter's: the store adds up and compares.
pub type Metered = [u64; METERED];

/// Counts what an entry takes, by its key and value alone.
pub type Meter = fn(&Key, &[u8]) -> Metered;

/// What a tenant has in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub objects: u64,
    /// Of keys and values.
    pub bytes: u64,
    pub metered: Metered,
}

impl Usage {
    /// Of one entry, as it is stored.
    pub(crate) fn of(key: &Key, value: &Bytes, meter: Meter) -> Self {
        let bytes = (key.as_str().len() + value.len()) as u64;
        Self { objects: 1, bytes, metered: meter(key, value) }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, u64::saturating_sub);
    }

    fn combine(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        self.objects = with(self.objects, other.objects);
        self.bytes = with(self.bytes, other.bytes);
        for (sum, amount) in self.metered.iter_mut().zip(other.metered) {
            *sum = with(*sum, amount);
        }
    }
}

/// The most of each.
pub type Quota = Usage;

/// Each tenant's quota. The operator's own cluster has none.
#[derive(Debug, Default)]
pub struct Quotas(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    default: Option<Quota>,
    tenants: HashMap<Arc<str>, Quota>,
}

impl Quotas {
    /// For tenants that have none of their own. Until this is called there is no limit.
    pub fn set_default(&self, quota: Quota) {
        self.0.write().default = Some(quota);
    }

    /// None: the default.
    pub fn set(&self, tenant: &TenantId, quota: Option<Quota>) {
        let mut table = self.0.write();
        match quota {
            Some(quota) => drop(table.tenants.insert(tenant.as_str().into(), quota)),
            None => drop(table.tenants.remove(tenant.as_str())),
        }
    }

    /// None: there is no limit.
    pub(crate) fn of(&self, tenant: &str) -> Option<Quota> {
        if tenant == TenantId::SYSTEM {
            return None;
        }
        let table = self.0.read();
        table.tenants.get(tenant).copied().or(table.default)
    }

    /// What takes no more than before passes, and so do small changes to what exists, as deletion begins with one:
    /// for these there is an eighth more.
    pub(crate) fn check(&self, tenant: &str, before: Usage, after: Usage, large: bool) -> Result<(), TxnError> {
        let Some(quota) = self.of(tenant) else { return Ok(()) };
        let bytes = if large { quota.bytes } else { quota.bytes.saturating_add(quota.bytes / 8) };
        let exceeded = |what, used, limit| Err(TxnError::Quota { what, used, limit });
        if after.objects > before.objects && after.objects > quota.objects {
            return exceeded(Exceeded::Objects, before.objects, quota.objects);
        }
        if after.bytes > before.bytes && after.bytes > bytes {
            return exceeded(Exceeded::Bytes, before.bytes, quota.bytes);
        }
        for (what, limit) in quota.metered.into_iter().enumerate() {
            if after.metered[what] > before.metered[what] && after.metered[what] > limit {
                return exceeded(Exceeded::Metered(what), before.metered[what], limit);
            }
        }
        Ok(())
    }
}
