//! Transactions that become durable together: each is checked against what is there and what the ones before it do.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Entry, Key, Meter, Op, Revision, Txn, TxnError, Usage,
    entry::Record,
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
const SMALL_GROWTH: u64 = 1024;

/// What of a key's newest version decides about the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub usage: Usage,
}

impl Head {
    pub fn of(entry: &Entry) -> Self {
        Self { create_revision: entry.create_revision, mod_revision: entry.mod_revision, usage: entry.usage }
    }
}

/// What an operation makes of what was there.
pub(crate) struct Step<'a> {
    pub op: &'a Op,
    pub before: Option<Head>,
    pub now: Option<Head>,
}

impl<'a> Step<'a> {
    /// None: it does nothing.
    pub fn of(op: &'a Op, before: Option<Head>, revision: Revision, meter: Meter) -> Option<Self> {
        if op.value().is_none() && before.is_none() {
            return None;
        }
        let now = op.value().map(|value| Head {
            create_revision: before.map_or(revision, |head| head.create_revision),
            mod_revision: revision,
            usage: Usage::of(op.key(), value, meter),
        });
        Some(Self { op, before, now })
    }
}

/// Transactions that become durable together.
pub(crate) struct Batch {
    revision: Revision,
    changes: Vec<Applied>,
    newest: HashMap<Key, Option<Head>>,
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
            let current = self.current(there, guard.key()).map(|head| head.mod_revision);
            if current != guard.wanted() {
                return Err(TxnError::Conflict { key: guard.key().clone(), current });
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let mut steps = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            steps.extend(Step::of(op, self.current(there, op.key()), revision, there.meter));
        }
        let growth = growth_of(&steps);
        if growth > allowed {
            return Err(TxnError::NoSpace("the disk is full".into()));
        }
        let usage = self.usage_after(there, &steps, growth)?;
        if steps.is_empty() {
            return Ok((self.revision, growth));
        }
        self.usage.extend(usage);
        self.growth = self.growth.max(growth);
        self.revision = revision;
        for Step { op, now, .. } in steps {
            let key = op.key().clone();
            self.newest.insert(key.clone(), now);
            let now = now.zip(op.value()).map(|(head, value)| Record {
                key: key.clone(),
                value: value.clone(),
                create_revision: head.create_revision,
                mod_revision: revision,
            });
            self.changes.push(Applied { revision, key, now });
        }
        Ok((revision, growth))
    }

    /// What the tenants will have; an error when one would have more than it may, and more than before.
    fn usage_after(
        &self,
        there: &Current<'_>,
        steps: &[Step<'_>],
        growth: Growth,
    ) -> Result<HashMap<Arc<str>, Usage>, TxnError> {
        let mut after: HashMap<Arc<str>, Usage> = HashMap::new();
        let before = |tenant: &str| self.usage.get(tenant).copied().unwrap_or_else(|| there.usage(tenant));
        for Step { op, before: had, now } in steps {
            let tenant = op.key().tenant();
            if !after.contains_key(tenant) {
                after.insert(tenant.into(), before(tenant));
            }
            if let Some(usage) = after.get_mut(tenant) {
                had.iter().for_each(|head| usage.subtract(&head.usage));
                now.iter().for_each(|head| usage.add(&head.usage));
            }
        }
        for (tenant, usage) in &after {
            there.quotas.check(tenant, before(tenant), *usage, growth == Growth::Large)?;
        }
        Ok(after)
    }

    fn current(&self, there: &Current<'_>, key: &Key) -> Option<Head> {
        match self.newest.get(key) {
            Some(newest) => *newest,
            None => there.get(key).map(Head::of),
        }
    }
}

pub(crate) fn growth_of(steps: &[Step<'_>]) -> Growth {
    let bytes = |head: Option<Head>| head.map_or(0, |head| head.usage.bytes);
    let creates = steps.iter().any(|step| step.before.is_none());
    // A key that goes is no growth, and one that stays is the same in both.
    let (before, now) =
        steps.iter().fold((0, 0), |(before, now), step| (before + bytes(step.before), now + bytes(step.now)));
    match now.saturating_sub(before) {
        _ if creates => Growth::Large,
        0 => Growth::None,
        1..=SMALL_GROWTH => Growth::Small,
        _ => Growth::Large,
    }
}
