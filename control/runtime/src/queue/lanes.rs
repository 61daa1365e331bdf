//! Whose key is next: tenants have their turns one after the other, each with one key.

use std::collections::{HashMap, VecDeque};

use hypernetes_api::TenantId;

use super::Tenanted;

/// The keys of one tenant.
struct Lane<K> {
    ready: VecDeque<K>,
    /// How many workers have one of its keys.
    held: usize,
}

/// Ready keys by tenant, and who holds how many workers.
///
/// A tenant takes a worker only while it holds fewer than are idle. So one alone has half of them at most, two have a
/// third each, and whoever comes finds one idle until as many tenants as there are workers have slow keys.
pub(super) struct Lanes<K> {
    /// Of tenants with keys that are ready or worked on.
    lanes: HashMap<TenantId, Lane<K>>,
    /// Tenants with ready keys, in the order of their turns.
    turns: VecDeque<TenantId>,
    workers: usize,
    held: usize,
}

impl<K> Default for Lanes<K> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), workers: 0, held: 0 }
    }
}

impl<K: Tenanted> Lanes<K> {
    pub fn enlist_worker(&mut self) {
        self.workers += 1;
    }

    pub fn dismiss_worker(&mut self) {
        self.workers -= 1;
    }

    /// A key that is ready, and is not here yet.
    pub fn push(&mut self, key: K) {
        let tenant = key.tenant();
        if !self.lanes.contains_key(tenant) {
            self.lanes.insert(tenant.clone(), Lane { ready: VecDeque::new(), held: 0 });
        }
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        if lane.ready.is_empty() {
            self.turns.push_back(tenant.clone());
        }
        lane.ready.push_back(key);
    }

    /// The place in `turns` of the tenant that is next. Those that are passed over hold as many workers as are idle: they
    /// are fewer than there are workers.
    fn next(&self) -> Option<usize> {
        let idle = self.workers.saturating_sub(self.held);
        let may = |tenant: &TenantId| self.lanes.get(tenant).is_some_and(|lane| lane.held < idle);
        if idle == 0 { None } else { self.turns.iter().position(may) }
    }

    /// Whether a worker that asked would get a key.
    pub fn has_next(&self) -> bool {
        self.next().is_some()
    }

    /// The next key, which holds a worker until [`Lanes::put_back`].
    pub fn take(&mut self) -> Option<K> {
        let tenant = self.turns.remove(self.next()?)?;
        let lane = self.lanes.get_mut(&tenant)?;
        let key = lane.ready.pop_front()?;
        lane.held += 1;
        self.held += 1;
        if !lane.ready.is_empty() {
            self.turns.push_back(tenant);
        }
        Some(key)
    }

    /// The worker that had a key of this tenant is idle.
    pub fn put_back(&mut self, tenant: &TenantId) {
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        lane.held -= 1;
        self.held -= 1;
        if lane.held == 0 && lane.ready.is_empty() {
            self.lanes.remove(tenant);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.turns.is_empty() && self.held == 0
    }
}
