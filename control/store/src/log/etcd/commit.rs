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
//! its tenant's usage is exact so. What went out is never sent again unless it is certain that it was not and will not be
//! carried out.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};

use super::{
    ANSWER,
    barrier::Barriers,
    budget::{Budget, Share},
    envelope,
    keyspace::{Keyspace, Mark, number, revision},
    members::{Members, is_final, not_sent},
    said, unchanged,
    waiting::{Pending, Waiting},
    wire::{DeleteRangeRequest, PutRequest, TxnRequest, request_op::Request},
};
use crate::{
    Encryption, Key, Op, Revision, Txn, TxnError,
    log::batch::{Head, Step},
    mvcc::{Cache, Current},
};

/// How long a transaction may take, but for finding out what became of it.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a transaction without an answer is waited for once etcd answers again.
const STRAY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Committer {
    pub members: Members,
    pub space: Keyspace,
    pub cache: Arc<Cache>,
    pub budget: Arc<Budget>,
    pub waiting: Arc<Waiting>,
    pub barriers: Barriers,
}

/// What is done when nothing has changed since the cache was looked at.
struct Plan<'a> {
    /// Each key's revision; 0: there is none.
    compares: Vec<(Key, Revision)>,
    ops: Vec<Op>,
    steps: Vec<Step<'a>>,
}

enum Outcome {
    Done(Revision),
    /// It was not carried out, because something has changed.
    Overtaken,
}

impl<'a> Plan<'a> {
    /// # Errors
    /// `Conflict`, as the cache has it.
    fn of(txn: &'a Txn, there: &Current<'_>) -> Result<Self, TxnError> {
        let mut plan = Self { compares: Vec::new(), ops: Vec::new(), steps: Vec::new() };
        for guard in &txn.guards {
            let current = there.get(guard.key());
            if current.map(|entry| entry.mod_revision) != guard.wanted() {
                let current = current.map(|entry| entry.mod_revision);
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
                plan.steps.push(step);
                plan.ops.push(op.clone());
            }
        }
        Ok(plan)
    }

    /// # Errors
    /// `Unavailable` where a value cannot be sealed.
    fn request(&self, space: &Keyspace, encryption: &Encryption, mark: Mark) -> Result<TxnRequest, TxnError> {
        let compare = |(key, revision): &(Key, Revision)| unchanged(space.object(key), number(*revision));
        let unsealed = || TxnError::Unavailable("there are no random numbers to encrypt with".into());
        let op = |op: &Op| match op {
            Op::Put(key, value) => {
                let value = envelope::wrap(encryption, key, value).ok_or_else(unsealed)?;
                Ok(Request::RequestPut(PutRequest { key: space.object(key), value, lease: 0 }))
            }
            Op::Delete(key) => Ok(Request::RequestDeleteRange(DeleteRangeRequest { key: space.object(key) })),
        };
        let head = Request::RequestPut(PutRequest { key: space.head(), value: mark.bytes(), lease: 0 });
        let ops = self.ops.iter().map(op).chain([Ok(head)]);
        Ok(TxnRequest {
            compare: self.compares.iter().map(compare).collect(),
            success: ops.map(|request| request.map(super::op)).collect::<Result<_, _>>()?,
        })
    }
}

impl Committer {
    pub async fn commit(&self, txn: &Txn) -> Result<Revision, TxnError> {
        let deadline = Instant::now() + DEADLINE;
        // Whether the cache has all that was acknowledged before now.
        let mut fresh = false;
        loop {
            match self.begin(txn, deadline).await {
                Ok(Some((plan, share))) => match self.send(&plan, share, txn, deadline).await? {
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
    async fn begin<'t>(&self, txn: &'t Txn, deadline: Instant) -> Result<Option<(Plan<'t>, Share)>, TxnError> {
        loop {
            let given_back = self.budget.given_back();
            tokio::pin!(given_back);
            given_back.as_mut().enable();
            {
                let there = self.cache.current();
                let plan = Plan::of(txn, &there)?;
                if plan.ops.is_empty() {
                    return Ok(None);
                }
                if let Some(share) = self.budget.take(&there, &plan.steps)? {
                    return Ok(Some((plan, share)));
                }
            }
            let busy = || TxnError::Unavailable("too many changes of the tenant are on their way".into());
            timeout_at(deadline, given_back).await.map_err(|_| busy())?;
        }
    }

    async fn send(&self, plan: &Plan<'_>, share: Share, txn: &Txn, deadline: Instant) -> Result<Outcome, TxnError> {
        let mut pending = self.waiting.begin(share);
        let request = match plan.request(&self.space, &self.cache.options().encryption, pending.mark()) {
            Ok(request) => request,
            Err(error) => {
                pending.settled();
                return Err(error);
            }
        };
        loop {
            let asked = self.members.ask();
            // Never given up: of an answer that comes for a stream that is no more, HTTP/2 takes a thousand, and then ends the
            // connection, with everybody's watch on it.
            let (mut kv, request) = (asked.kv(), request.clone());
            let mut answering = tokio::spawn(async move { timeout(ANSWER, kv.txn(request)).await });
            let answer = tokio::select! {
                biased;
                seen = pending.seen(), if !pending.is_over() => match seen {
                    Some(revision) => return Ok(Outcome::Done(revision)),
                    // The cache was loaded anew.
                    None => answering.await,
                },
                answer = &mut answering => answer,
            };
            let status = match answer {
                Ok(Ok(Ok(answer))) => {
                    let answer = answer.into_inner();
                    if !answer.succeeded {
                        pending.settled();
                        return Ok(Outcome::Overtaken);
                    }
                    let revision = revision(answer.header.map_or(0, |header| header.revision));
                    return Ok(Outcome::Done(self.shown(&mut pending, revision, deadline).await));
                }
                Ok(Ok(Err(status))) => status,
                // The second: this process is ending.
                Ok(Err(_)) | Err(_) => Status::deadline_exceeded(format!("{} has not answered in time", asked.url())),
            };
            if is_final(&status) {
                pending.settled();
                return Err(refused(&status, txn));
            }
            asked.failed();
            if !not_sent(&status) {
                return self.find_out(pending, plan, &status).await;
            }
            if Instant::now() > deadline {
                pending.settled();
                return Err(TxnError::Unavailable(said(&status)));
            }
            tokio::time::sleep(PAUSE).await;
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
    async fn find_out(&self, mut pending: Pending, plan: &Plan<'_>, status: &Status) -> Result<Outcome, TxnError> {
        let unknown = || TxnError::Unknown(said(status));
        // What was carried out before this began is seen when it ends.
        self.barriers.wait().await.map_err(|_| unknown())?;
        if let Some(revision) = pending.seen_already() {
            return Ok(Outcome::Done(revision));
        }
        for wait in [Duration::ZERO, STRAY] {
            if pending.is_over() {
                break;
            }
            if let Ok(Some(revision)) = timeout(wait, pending.seen()).await {
                return Ok(Outcome::Done(revision));
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
    async fn overtaken(&self, pending: &mut Pending, plan: &Plan<'_>) -> Option<Outcome> {
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
            Some(revision) => Some(Outcome::Done(revision)),
            None if pending.is_over() => None,
            None => Some(Outcome::Overtaken),
        }
    }
}

/// What etcd did not take.
fn refused(status: &Status, txn: &Txn) -> TxnError {
    let why = status.message();
    let too_large = why.contains("request is too large") || why.contains("received message larger than max");
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted if too_large => TxnError::TooLarge(txn.bytes()),
        Code::ResourceExhausted if why.contains("database space exceeded") => TxnError::NoSpace(format!(
            "etcd has used up its quota ({why}): compact and defragment it, and disarm its alarm"
        )),
        _ => TxnError::Unavailable(said(status)),
    }
}
