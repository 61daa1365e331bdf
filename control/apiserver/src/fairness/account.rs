//! What one tenant has taken, and what it may: places that are taken while a request is answered.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hypernetes_api::{ApiError, error::Details};
use hypernetes_store::Quota;
use tokio_util::sync::CancellationToken;

use crate::{
    fairness::{
        background,
        budget::{Budget, COUNTED, TABLE, row_of},
        flows::{Flow, Flows, of_one_user},
        pace::{self, Pace},
    },
    metrics::{Counts, rejected::Rejected},
};

/// One tenant's.
pub(crate) struct Account {
    pub(super) taken: [AtomicU64; TABLE.len()],
    pub(super) limits: [AtomicU64; TABLE.len()],
    pub pace: Arc<Pace>,
    /// Nothing that was given out for the tenant opens anything any more.
    pub(super) closed: CancellationToken,
    /// Of its requests those that are worked on, in all and by user.
    pub seats: AtomicU64,
    pub(super) seated: Flows,
    /// Places for requests and for watches, by user.
    pub(super) asking: Flows,
    pub(super) watching: Flows,
    /// What it has asked for.
    pub counts: Counts,
    /// Requests that were not worked on.
    pub rejected: Rejected,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            taken: Default::default(),
            limits: TABLE.map(|row| AtomicU64::new(row.default)),
            pace: Arc::new(Pace::new(row_of(Budget::ServerMilliCpus).default)),
            closed: CancellationToken::new(),
            seats: AtomicU64::new(0),
            seated: Flows::default(),
            asking: Flows::default(),
            watching: Flows::default(),
            counts: Counts::of_tenant(),
            rejected: Rejected::default(),
        }
    }
}

impl Account {
    pub(super) fn limit(&self, budget: Budget) -> u64 {
        self.limits[budget as usize].load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, budget: Budget, limit: u64) {
        self.limits[budget as usize].store(limit, Ordering::Relaxed);
    }

    /// For the store.
    pub(super) fn quota(&self) -> Quota {
        Quota {
            objects: self.limit(Budget::Objects),
            bytes: self.limit(Budget::StoredBytes),
            metered: COUNTED.map(|budget| self.limit(budget)),
        }
    }

    /// Does something that may go on for long, at the tenant's pace and until the tenant is closed: `None`, then.
    pub async fn run<T>(account: Option<Arc<Self>>, work: impl Future<Output = T>) -> Option<T> {
        match account {
            None => Some(work.await),
            Some(account) => {
                let closed = account.closed.clone();
                closed.run_until_cancelled_owned(pace::at_pace(&account.pace, work)).await
            }
        }
    }

    pub(super) fn taken(&self, budget: Budget) -> &AtomicU64 {
        &self.taken[budget as usize]
    }
}

/// None: nobody pays, and it is not let wait.
impl background::Debtor for Option<Arc<Account>> {
    fn gives_way(&self, already: bool) -> bool {
        self.as_ref().is_some_and(|account| account.pace.is_in_arrears(already))
    }
}

/// So much of a budget, until it is dropped.
pub(crate) struct Taken {
    pub(super) account: Arc<Account>,
    budget: Budget,
    amount: u64,
}

impl Taken {
    pub fn take(account: &Arc<Account>, budget: Budget, amount: u64) -> Result<Self, ApiError> {
        let limit = account.limit(budget);
        let fits = |taken: u64| taken.checked_add(amount).filter(|after| *after <= limit);
        match account.taken(budget).fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Self { account: account.clone(), budget, amount }),
            Err(used) => Err(refused(budget, used, limit)),
        }
    }

    pub(super) fn more(&mut self, amount: u64) -> Result<(), ApiError> {
        let mut more = Self::take(&self.account, self.budget, amount)?;
        self.amount += std::mem::take(&mut more.amount);
        Ok(())
    }
}

/// There is no more of a budget.
fn refused(budget: Budget, used: u64, limit: u64) -> ApiError {
    let row = row_of(budget);
    let message = format!("too many requests, please try again later: {}={used}, limited: {limit}", row.name);
    let details = Details { retry_after_seconds: Some(1), ..Details::default() };
    ApiError::new(row.reason, message).with_details(details)
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.taken(self.budget).fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// One user's, of its tenant's places for requests or for watches, until it is dropped.
pub(crate) struct UserPlace {
    account: Arc<Account>,
    watch: bool,
    flow: Flow,
}

impl UserPlace {
    /// # Errors
    /// `TooManyRequests`.
    pub fn take(account: &Arc<Account>, budget: Budget, user: &str) -> Result<Self, ApiError> {
        let watch = budget == Budget::Watches;
        let flows = if watch { &account.watching } else { &account.asking };
        let (flow, limit) = (flows.of(user), of_one_user(account.limit(budget)));
        flows.take(flow, limit).map_err(|used| refused(budget, used, limit))?;
        Ok(Self { account: account.clone(), watch, flow })
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let flows = if self.watch { &self.account.watching } else { &self.account.asking };
        flows.leave(self.flow);
    }
}
