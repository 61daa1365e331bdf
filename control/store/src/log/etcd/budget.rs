//! Tenants' quotas when several servers write to one etcd, each of which knows what it has seen.
//!
//! A server counts as taken what its cache has and what it has begun itself and not seen yet, and begins nothing that goes
//! over a quota by this count. Of one tenant it has begun and not seen at most one *slice*: a sixteenth of each amount of
//! the quota, or else one transaction; what would be more waits.
//!
//! So n servers together exceed a quota by at most n − 1 slices: of the servers' last writes take the one that was checked
//! against the newest view. By its check, that view and all that its server had begun are within the quota; what any other
//! server wrote after that view it had begun and not seen, which is at most a slice. With one server there is no excess.
//! Writes whose outcome was never learnt count for [`FORGET`](super::waiting::FORGET) and then only when they are seen.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

use crate::{
    METERED, Quota, TxnError, Usage,
    log::batch::{Growth, Step, growth_of},
    mvcc::Current,
};

/// A slice is the quota over this.
const SLICES: u64 = 16;

#[derive(Default)]
pub(super) struct Budget {
    /// What each tenant's transactions that were begun and not seen may add.
    begun: Mutex<HashMap<Arc<str>, Usage>>,
    given_back: Notify,
}

/// What one transaction may add; given back when it is dropped.
pub(super) struct Share {
    budget: Arc<Budget>,
    growth: HashMap<Arc<str>, Usage>,
}

impl Budget {
    /// Takes what the steps add to what is there; none: the slice of a tenant is used up.
    ///
    /// # Errors
    /// `Quota`, as the cache has it.
    pub fn take(self: &Arc<Self>, there: &Current<'_>, steps: &[Step<'_>]) -> Result<Option<Share>, TxnError> {
        let large = growth_of(steps) == Growth::Large;
        let (mut removed, mut added) = (HashMap::<Arc<str>, Usage>::new(), HashMap::<Arc<str>, Usage>::new());
        for step in steps {
            for (sums, head) in [(&mut removed, &step.before), (&mut added, &step.now)] {
                let sum = sums.entry(step.op.key().tenant().into()).or_default();
                if let Some(head) = head {
                    sum.add(&head.usage);
                }
            }
        }
        let mut begun = self.begun.lock();
        let mut growth = HashMap::new();
        for (tenant, added) in added {
            let removed = removed.get(&tenant).copied().unwrap_or_default();
            let (begun, grows) =
                (begun.get(&tenant).copied().unwrap_or_default(), each(added, removed, u64::saturating_sub));
            let before = each(there.usage(&tenant), begun, u64::saturating_add);
            let after = each(each(before, added, u64::saturating_add), removed, u64::saturating_sub);
            there.quotas.check(&tenant, before, after, large)?;
            let full = there.quotas.of(&tenant).is_some_and(|quota| exceeds_slice(begun, grows, quota));
            if full {
                return Ok(None);
            }
            if grows != Usage::default() {
                growth.insert(tenant, grows);
            }
        }
        for (tenant, grows) in &growth {
            let sum = begun.entry(tenant.clone()).or_default();
            *sum = each(*sum, *grows, u64::saturating_add);
        }
        drop(begun);
        Ok(Some(Share { budget: self.clone(), growth }))
    }

    /// Returns when something was given back after the call.
    pub fn given_back(&self) -> Notified<'_> {
        self.given_back.notified()
    }
}

/// Whoever has begun nothing may always begin something.
fn exceeds_slice(begun: Usage, grows: Usage, quota: Quota) -> bool {
    let over =
        |begun: u64, grows: u64, limit: u64| begun > 0 && grows > 0 && begun.saturating_add(grows) > limit / SLICES;
    over(begun.objects, grows.objects, quota.objects)
        || over(begun.bytes, grows.bytes, quota.bytes)
        || (0..METERED).any(|what| over(begun.metered[what], grows.metered[what], quota.metered[what]))
}

fn each(one: Usage, other: Usage, sum: impl Fn(u64, u64) -> u64) -> Usage {
    Usage {
        objects: sum(one.objects, other.objects),
        bytes: sum(one.bytes, other.bytes),
        metered: std::array::from_fn(|what| sum(one.metered[what], other.metered[what])),
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut begun = self.budget.begun.lock();
        for (tenant, grows) in &self.growth {
            if let Some(sum) = begun.get_mut(tenant) {
                *sum = each(*sum, *grows, u64::saturating_sub);
                if *sum == Usage::default() {
                    begun.remove(tenant);
                }
            }
        }
        drop(begun);
        self.budget.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_api::{ResourceId, TenantId};

    use super::*;
    use crate::{Exceeded, Key, Op, Options, Revision, mvcc::Cache};

    fn create(tenant: &str, names: &[&str]) -> Vec<Op> {
        let tenant: TenantId = tenant.parse().unwrap();
        let put = |name: &&str| {
            let key = Key::new(&ResourceId::new("", "configmaps"), &tenant, "default", name).unwrap();
            Op::Put(key, bytes::Bytes::from_static(b"1"))
        };
        names.iter().map(put).collect()
    }

    #[test]
    fn what_was_begun_counts_until_it_is_given_back_and_is_a_slice_at_most() {
        let (cache, budget) = (Cache::new(Options::default()), Arc::new(Budget::default()));
        let quota = |objects| Quota { objects, bytes: 1 << 30, metered: [u64::MAX; METERED] };
        let take = |tenant: &str, names: &[&str]| {
            let (ops, there) = (create(tenant, names), cache.current());
            let steps: Vec<_> = ops.iter().filter_map(|op| Step::of(op, None, Revision(0), there.meter)).collect();
            budget.take(&there, &steps)
        };
        cache.quotas().set_default(quota(3 * SLICES));
        let one = take("acme", &["a"]).unwrap().expect("there is room");
        let others = take("acme", &["b", "c"]).unwrap().expect("a slice is three objects");
        assert!(take("acme", &["d"]).unwrap().is_none(), "the slice is used up");
        let _other = take("globex", &["d"]).unwrap().expect("that of another tenant is not");
        let _system = take("system", &["a", "b", "c", "d", "e"]).unwrap().expect("the operator's own has no limit");
        drop(one);
        let again = take("acme", &["d"]).unwrap().expect("there is room again");
        // What was begun is as if it were there.
        cache.quotas().set_default(quota(3));
        let over = take("acme", &["e"]).err().expect("a fourth");
        assert!(matches!(over, TxnError::Quota { what: Exceeded::Objects, used: 3, limit: 3 }), "{over}");
        drop(others);
        // More than a slice, but nothing else was begun.
        drop(again);
        take("acme", &["a", "b", "c"]).unwrap().expect("one transaction is always let through");
    }
}
