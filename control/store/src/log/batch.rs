//! Transactions that become durable together: each is checked against what is there and what the ones before it do.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Change, Entry, Key, Revision, Txn, TxnError, Usage,
    mvcc::{Applied, Current},
};

/// What a transaction does to the room that is taken, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Growth {
    /// It takes no more than before.
    None,
    /// Objects that exist take a little more, as when they are marked as being deleted.
    Small,
    Large,
}

/// Bytes that a transaction may add to objects that exist and count as small.
const SMALL_GROWTH: usize = 1024;

/// Transactions that become durable together.
pub(crate) struct Batch {
    revision: Revision,
    changes: Vec<Applied>,
    newest: HashMap<Key, Option<Entry>>,
    /// The largest of its transactions'.
    growth: Growth,
    /// What each tenant will have.
    usage: HashMap<Arc<str>, Usage>,
}

impl Batch {
    /// After `revision`.
    pub fn new(revision: Revision) -> Self {
        Self { revision, changes: Vec::new(), newest: HashMap::new(), growth: Growth::None, usage: HashMap::new() }
    }

    /// The last of its transactions'.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn growth(&self) -> Growth {
        self.growth
    }

    /// What becomes of each key, in order.
    pub fn changes(&self) -> &[Applied] {
        &self.changes
    }

    pub fn into_changes(self) -> Vec<Applied> {
        self.changes
    }

    /// Checks the guards and quotas against what there is with the batch's earlier transactions, and takes the transaction
    /// in, if its growth is no more than `allowed`.
    ///
    /// # Errors
    /// `Conflict`, `NoSpace`, `Quota`: nothing of it is in the batch.
    pub fn add(&mut self, there: &Current<'_>, txn: &Txn, allowed: Growth) -> Result<(Revision, Growth), TxnError> {
        for guard in &txn.guards {
            let current = self.current(there, guard.key());
            if current.map(|entry| entry.mod_revision) != guard.wanted() {
                let current = current.cloned().map(Box::new);
                return Err(TxnError::Conflict { key: guard.key().clone(), current });
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let mut changes = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            let before = self.current(there, op.key()).cloned();
            if op.value().is_none() && before.is_none() {
                continue;
            }
            let create_revision = before.as_ref().map_or(revision, |entry| entry.create_revision);
            let now = op.value().map(|value| Entry {
                key: op.key().clone(),
                value: value.clone(),
                create_revision,
                mod_revision: revision,
            });
            changes.push(Change { revision, key: op.key().clone(), now, before });
        }
        let growth = growth_of(&changes);
        if growth > allowed {
            return Err(TxnError::NoSpace("the disk is full".into()));
        }
        let usage = self.usage_after(there, &changes, growth)?;
        if changes.is_empty() {
            return Ok((self.revision, growth));
        }
        self.usage.extend(usage);
        self.growth = self.growth.max(growth);
        self.revision = revision;
        for Change { key, now, .. } in changes {
            self.newest.insert(key.clone(), now.clone());
            self.changes.push(Applied { revision, key, now });
        }
        Ok((revision, growth))
    }

    /// What the tenants will have; an error when one would have more than it may, and more than before.
    fn usage_after(
        &self,
        there: &Current<'_>,
        changes: &[Change],
        growth: Growth,
    ) -> Result<HashMap<Arc<str>, Usage>, TxnError> {
        let mut after: HashMap<Arc<str>, Usage> = HashMap::new();
        let before = |tenant: &str| self.usage.get(tenant).copied().unwrap_or_else(|| there.usage(tenant));
        for change in changes {
            let tenant = change.key.tenant();
            if !after.contains_key(tenant) {
                after.insert(tenant.into(), before(tenant));
            }
            if let Some(usage) = after.get_mut(tenant) {
                usage.count(change, there.meter);
            }
        }
        for (tenant, usage) in &after {
            there.quotas.check(tenant, before(tenant), *usage, growth == Growth::Large)?;
        }
        Ok(after)
    }

    fn current<'a>(&'a self, there: &'a Current<'_>, key: &Key) -> Option<&'a Entry> {
        match self.newest.get(key) {
            Some(newest) => newest.as_ref(),
            None => there.get(key),
        }
    }
}

pub(crate) fn growth_of(changes: &[Change]) -> Growth {
    let value = |entry: &Option<Entry>| entry.as_ref().map_or(0, |e| e.value.len());
    let creates = changes.iter().any(|change| change.before.is_none());
    let (before, now) =
        changes.iter().fold((0, 0), |(before, now), change| (before + value(&change.before), now + value(&change.now)));
    match now.saturating_sub(before) {
        _ if creates => Growth::Large,
        0 => Growth::None,
        1..=SMALL_GROWTH => Growth::Small,
        _ => Growth::Large,
    }
}
