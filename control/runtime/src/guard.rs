//! Work on tenants' data that must not end the one who does it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::FutureExt;

/// How work ended that came to no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mishap {
    #[error("it failed in a way that was not foreseen")]
    Panicked,
    #[error("it took too long")]
    TooLong,
}

static PANICS: AtomicU64 = AtomicU64::new(0);
static OVERRUNS: AtomicU64 = AtomicU64::new(0);

impl Mishap {
    fn count(self) -> Self {
        let counter = match self {
            Self::Panicked => &PANICS,
            Self::TooLong => &OVERRUNS,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self
    }
}

/// How often that has happened in this process.
pub fn mishaps(which: Mishap) -> u64 {
    match which {
        Mishap::Panicked => &PANICS,
        Mishap::TooLong => &OVERRUNS,
    }
    .load(Ordering::Relaxed)
}

/// Waits for work, for so long and no longer.
///
/// What it shares with others must be whole at each of its await points and wherever it could panic: locks are held for
/// single steps, and what has been done in part is done again from the start.
///
/// # Errors
/// When it panics, or does not end in time; both are counted.
pub async fn attempt<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Mishap> {
    let guarded = AssertUnwindSafe(tokio::time::timeout(limit, work)).catch_unwind();
    match guarded.await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(Mishap::TooLong.count()),
        Err(_) => Err(Mishap::Panicked.count()),
    }
}

/// [`attempt`] for what does not wait.
///
/// # Errors
/// When it panics, which is counted.
pub fn call<T>(work: impl FnOnce() -> T) -> Result<T, Mishap> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Mishap::Panicked.count())
}
