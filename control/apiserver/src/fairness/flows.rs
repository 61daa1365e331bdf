//! How much of what a tenant has each of its users has: none of them all of it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Users are counted in so many buckets, each in two of them: only one whose two are all another's shares what that one may have, one
/// of four thousand, and nobody can know beforehand who that is.
const BUCKETS: usize = 128;

/// Of a user: different for different ones, as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow(pub u64);

/// What the users of a tenant have of one thing. There are no buckets before there is a user: most tenants have nobody who asks.
pub struct Flows {
    hasher: RandomState,
    buckets: OnceLock<Box<[AtomicU32; BUCKETS]>>,
}

impl Default for Flows {
    fn default() -> Self {
        Self { hasher: RandomState::new(), buckets: OnceLock::new() }
    }
}

/// Three quarters, and something of anything.
pub fn of_one_user(all: u64) -> u64 {
    all - all / 4
}

impl Flows {
    pub fn of(&self, user: &str) -> Flow {
        Flow(self.hasher.hash_one(user))
    }

    pub(super) fn buckets(flow: Flow) -> [usize; 2] {
        let first = flow.0 as usize % BUCKETS;
        // Never the same one: it would count what the user has twice.
        [first, (first + 1 + (flow.0 >> 32) as usize % (BUCKETS - 1)) % BUCKETS]
    }

    /// # Errors
    /// How much the user has, when that is all that it may.
    pub fn take(&self, flow: Flow, most: u64) -> Result<(), u64> {
        let buckets = self.buckets.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU32::new(0))));
        // What is in the emptier of the two is the user's at most.
        let before = Self::buckets(flow).map(|bucket| buckets[bucket].fetch_add(1, Ordering::Relaxed));
        let taken = u64::from(before[0].min(before[1]));
        if taken < most {
            return Ok(());
        }
        self.leave(flow);
        Err(taken)
    }

    pub fn leave(&self, flow: Flow) {
        let Some(buckets) = self.buckets.get() else { return };
        for bucket in Self::buckets(flow) {
            buckets[bucket].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_user_has_is_not_anothers() {
        let flows = Flows::default();
        let user = flows.of("one");
        for _ in 0..10 {
            flows.take(user, 10).unwrap();
        }
        assert_eq!(flows.take(user, 10), Err(10));
        let apart = |flow: &Flow| Flows::buckets(*flow).iter().any(|bucket| !Flows::buckets(user).contains(bucket));
        let other = (0..).map(|n| flows.of(&format!("user-{n}"))).find(apart).unwrap();
        flows.take(other, 10).unwrap();
        flows.leave(user);
        flows.take(user, 10).unwrap();
    }

    #[test]
    fn a_user_has_two_buckets() {
        for flow in (0..BUCKETS as u64).flat_map(|a| (0..BUCKETS as u64).map(move |b| Flow(a | b << 32))) {
            let [first, second] = Flows::buckets(flow);
            assert!(first != second && first.max(second) < BUCKETS);
        }
    }
}
