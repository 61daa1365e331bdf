//! What pods may have of this process at one time: so much each, so much all of a tenant's together, and so much all.
//!
//! What is beyond is refused, so that one pod that asks for all of something leaves the others theirs.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub pod: usize,
    pub tenant: usize,
    pub all: usize,
}

/// Who has something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Empty: none.
    pub tenant: String,
    pub sandbox_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Pod(String),
    Tenant(String),
    All,
}

#[derive(Debug)]
pub(crate) struct Budget {
    /// For people, in the plural.
    what: &'static str,
    limits: Limits,
    held: Mutex<HashMap<Holder, usize>>,
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    owner: Owner,
    amount: usize,
}

impl Budget {
    pub(crate) fn new(what: &'static str, limits: Limits) -> Arc<Self> {
        Arc::new(Self { what, limits, held: Mutex::default() })
    }

    /// # Errors
    /// [`Error::Exhausted`] when the pod, its tenant or all have as much as they may.
    pub(crate) fn take(self: &Arc<Self>, owner: Owner, amount: usize) -> Result<Share> {
        let mut share = Share { budget: self.clone(), owner, amount: 0 };
        share.grow(amount)?;
        Ok(share)
    }
}

impl Share {
    fn holders(&self) -> [(Holder, usize, &'static str); 3] {
        let Limits { pod, tenant, all } = self.budget.limits;
        [
            (Holder::Pod(self.owner.sandbox_id.clone()), pod, "a pod"),
            (Holder::Tenant(self.owner.tenant.clone()), tenant, "a tenant"),
            (Holder::All, all, "all pods of this node"),
        ]
    }

    /// # Errors
    /// As [`Budget::take`]; the share stays what it was.
    pub(crate) fn grow(&mut self, more: usize) -> Result<()> {
        let holders = self.holders();
        let mut held = self.budget.held.lock();
        for (holder, limit, whose) in &holders {
            if held.get(holder).copied().unwrap_or(0).saturating_add(more) > *limit {
                return Err(Error::Exhausted(format!(
                    "too many {} at once: {whose} may have {limit}; try again when some have ended",
                    self.budget.what
                )));
            }
        }
        for (holder, ..) in holders {
            *held.entry(holder).or_default() += more;
        }
        drop(held);
        self.amount += more;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.budget.held.lock();
        for (holder, ..) in self.holders() {
            if let Some(of) = held.get_mut(&holder) {
                *of = of.saturating_sub(self.amount);
                if *of == 0 {
                    held.remove(&holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_leaves_the_others_theirs() {
        let budget = Budget::new("things", Limits { pod: 2, tenant: 3, all: 5 });
        let take = |tenant: &str, pod: &str| budget.take(Owner { tenant: tenant.into(), sandbox_id: pod.into() }, 1);
        let mut shares = vec![take("a", "a1").unwrap(), take("a", "a1").unwrap()];
        assert!(matches!(take("a", "a1"), Err(Error::Exhausted(what)) if what.contains("a pod may have 2")));
        shares.push(take("a", "a2").unwrap());
        assert!(matches!(take("a", "a2"), Err(Error::Exhausted(what)) if what.contains("a tenant may have 3")));
        shares.extend([take("b", "b1").unwrap(), take("b", "b1").unwrap()]);
        assert!(matches!(take("c", "c1"), Err(Error::Exhausted(what)) if what.contains("all pods")));
        shares.remove(0);
        let mut last = take("c", "c1").unwrap();
        assert!(last.grow(1).is_err(), "what is refused takes nothing");
        drop((shares, last));
        assert!(budget.held.lock().is_empty());
    }
}
