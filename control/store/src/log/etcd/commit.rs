//! How a transaction becomes one of etcd's.
//!
//! ```text
//! plan, by the cache ──▶ send ──▶ seen in the watch: done
//!    ▲                    │ └───▶ a compare failed: somebody was faster ──┐
//!    │                    └─────▶ no answer: find out ──▶ done, or never ─┤
//!    └── wait until the cache has all ◀───────────────────────────────────┘      or else: unknown
//! ```
//!
//! All keys that a transaction writes are compared with what the cache has, also those that nothing guards: what it adds to
//! its tenant's usage is exact. What went out is never sent again unless it is certain that it was not and will not be
//! carried out.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::{
    barrier::Barriers,
    budget::{Budget, Share},
    keyspace::Keyspace,
    members::{Members, is_full, is_too_much},
    said,
    sending::{Answer, Outbox, Plan},
    waiting::{Outcome, Pending, Waiting},
};
use crate::{
    Key, Revision, Txn, TxnError,
    log::batch::{Head, Step},
    mvcc::{Cache, Current},
};

/// How long a transaction may take, but for finding out what became of it.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a transaction without an answer is waited for once etcd answers again.
const STRAY: Duration = Duration::from_secs(1);

pub(super) struct Committer {
    pub members: Members,
    pub space: Keyspace,
    pub cache: Arc<Cache>,
    pub budget: Arc<Budget>,
    pub waiting: Arc<Waiting>,
    pub barriers: Barriers,
    pub outbox: Outbox,
}

/// What a transaction does to what is there, with its steps.
///
/// # Errors
/// `Conflict`, as the cache has it.
fn plan<'a>(txn: &'a Txn, there: &Current<'_>) -> Result<(Plan, Vec<Step<'a>>), TxnError> {
    let (mut plan, mut steps) = (Plan::default(), Vec::new());
    for guard in &txn.guards {
        let current = there.get(guard.key()).map(|entry| entry.mod_revision);
        if current != guard.wanted() {
            return Err(TxnError::Conflict { key: guard.key().clone(), current });
        }
        plan.compares.push((guard.key().clone(), guard.wanted().unwrap_or_default()));
    }
    for op in &txn.ops {
        let (key, before) = (op.key(), there.get(op.key()).map(Head::of));
        if !txn.guards.iter().any(|guard| guard.key() == key) {
            plan.compares.push((key.clone(), before.map_or(Revision(0), |head| head.mod_revision)));
        }
        if let Some(step) = Step::of(op, before, Revision(0), there.meter) {
            steps.push(step);
            plan.ops.push(op.clone());
        }
    }
    Ok((plan, steps))
}

impl Committer {
    pub async fn commit(&self, txn: &Txn) -> Result<Revision, TxnError> {
        let deadline = Instant::now() + DEADLINE;
        // Whether the cache has all that was acknowledged before now.
        let mut fresh = false;
        loop {
            match self.begin(txn, deadline).await {
                Ok(Some((plan, share))) => match self.send(plan, share, txn, deadline).await? {
                    Outcome::Done(revision) => return Ok(revision),
                    Outcome::Overtaken if Instant::now() > deadline => {
                        return Err(TxnError::Unavailable("others change the same objects all the time".into()));
                    }
                    Outcome::Overtaken => {}
                },
                Ok(None) if fresh => return Ok(self.cache.revision()),
                Err(error) if fresh || matches!(error, TxnError::Unavailable(_)) => return Err(error),
                // It may be wrong: the cache is a little behind.
                Ok(None) | Err(_) => {}
            }
            self.barriers.wait().await.map_err(|error| TxnError::Unavailable(error.to_string()))?;
            fresh = true;
        }
    }

    /// What to do, with the tenants' leave; none: nothing. Waits while a tenant has begun too much.
    async fn begin(&self, txn: &Txn, deadline: Instant) -> Result<Option<(Plan, Share)>, TxnError> {
        loop {
            let given_back = self.budget.given_back();
            tokio::pin!(given_back);
            given_back.as_mut().enable();
            {
                let there = self.cache.current();
                let (plan, steps) = plan(txn, &there)?;
                if plan.ops.is_empty() {
                    return Ok(None);
                }
                if let Some(share) = self.budget.take(&there, &steps)? {
                    return Ok(Some((plan, share)));
                }
            }
            let busy = || TxnError::Unavailable("too many changes of the tenant are on their way".into());
            timeout_at(deadline, given_back).await.map_err(|_| busy())?;
        }
    }

    async fn send(&self, plan: Plan, share: Share, txn: &Txn, deadline: Instant) -> Result<Outcome, TxnError> {
        let Some(changes) = plan.ops.first().map(|op| op.key().clone()) else { return Ok(Outcome::Overtaken) };
        let (mut pending, plan) = (self.waiting.begin(changes, share), Arc::new(plan));
        let mut answering = self.outbox.put(pending.mark(), plan.clone(), deadline);
        let answer = tokio::select! {
            biased;
            seen = pending.seen() => match seen {
                Some(outcome) => return Ok(outcome),
                // The cache was loaded anew.
                None => answering.await,
            },
            answer = &mut answering => answer,
        };
        match answer {
            Ok(Answer::Done(revision)) => Ok(Outcome::Done(self.shown(&mut pending, revision, deadline).await)),
            Ok(Answer::Overtaken) => Ok(Outcome::Overtaken),
            Ok(Answer::Refused(status)) => {
                if is_full(&status) {
                    self.barriers.wait().await.map_err(|_| TxnError::Unknown(said(&status)))?;
                    if let Some(outcome) = pending.seen_already() {
                        return Ok(outcome);
                    }
                }
                pending.settled();
                Err(refused(&status, txn))
            }
            Ok(Answer::NotSent(status)) => Err(TxnError::Unavailable(said(&status))),
            Ok(Answer::Lost(status)) => self.find_out(pending, &plan, &status).await,
            Err(_) => Err(TxnError::Unknown("the store is closed".into())),
        }
    }

    /// It is durable: waits until it is in the cache. When that takes too long reads wait for it, and watches are late.
    async fn shown(&self, pending: &mut Pending, revision: Revision, deadline: Instant) -> Revision {
        let showing = async {
            if pending.is_over() || pending.seen().await.is_none() {
                let _ = self.barriers.reached(revision).await;
            }
        };
        if timeout_at(deadline, showing).await.is_err() {
            tracing::warn!(%revision, "a transaction is in etcd, and the watch of etcd has not told of it");
        }
        revision
    }

    /// After a request that may have arrived.
    async fn find_out(&self, mut pending: Pending, plan: &Plan, status: &Status) -> Result<Outcome, TxnError> {
        let unknown = || TxnError::Unknown(said(status));
        // What was carried out before this began is seen when it ends.
        self.barriers.wait().await.map_err(|_| unknown())?;
        if let Some(outcome) = pending.seen_already() {
            return Ok(outcome);
        }
        for wait in [Duration::ZERO, STRAY] {
            if pending.is_over() {
                break;
            }
            if let Ok(Some(outcome)) = timeout(wait, pending.seen()).await {
                return Ok(outcome);
            }
            match self.overtaken(&mut pending, plan).await {
                Some(Outcome::Overtaken) => {
                    pending.settled();
                    return Ok(Outcome::Overtaken);
                }
                Some(done) => return Ok(done),
                None => {}
            }
        }
        Err(unknown())
    }

    /// Whether what it compares has changed, so that it never can be carried out: a key's revision never comes again.
    async fn overtaken(&self, pending: &mut Pending, plan: &Plan) -> Option<Outcome> {
        let (changed, at) = {
            let there = self.cache.current();
            let is = |key: &Key| there.get(key).map_or(Revision(0), |entry| entry.mod_revision);
            let changed = plan.compares.iter().any(|(key, revision)| revision.0 > 0 && is(key) != *revision);
            (changed, there.revision())
        };
        if !changed {
            return None;
        }
        // It may itself be what has changed it.
        timeout(STRAY, self.barriers.reached(at)).await.ok()?.ok()?;
        match pending.seen_already() {
            Some(outcome) => Some(outcome),
            None if pending.is_over() => None,
            None => Some(Outcome::Overtaken),
        }
    }
}

/// What etcd did not take.
fn refused(status: &Status, txn: &Txn) -> TxnError {
    if is_too_much(status) {
        TxnError::TooLarge(txn.bytes())
    } else if is_full(status) {
        let why = status.message();
        TxnError::NoSpace(format!(
            "etcd has used up its quota ({why}): compact and defragment it, and disarm its alarm"
        ))
    } else {
        TxnError::Unavailable(said(status))
    }
}
