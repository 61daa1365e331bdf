//! What fairness has turned away.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why fairness has turned a request away, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// As many are there already as the tenant, or the user, may have.
    Limit,
    /// All of its queues were full.
    Full,
    /// It would wait, or has waited, for too long.
    Late,
}

impl Why {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Limit, "concurrency-limit"), (Self::Full, "queue-full"), (Self::Late, "time-out")];
}

/// How often, by why.
#[derive(Default)]
pub struct Rejected([AtomicU64; Why::ALL.len()]);

impl Rejected {
    pub fn count(&self, why: Why) {
        self.0[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, why: Why) -> u64 {
        self.0[why as usize].load(Ordering::Relaxed)
    }
}
