//! Sends transactions to etcd, those that wait together as one of etcd's: one proposal, and one fsync, for all of them.
//!
//! ```text
//! A B C A' ─▶ { A, if what it compares is so; B, if …; C, if …; head } ─▶ each is told what became of it
//!        └──▶ the next
//! ```
//!
//! What waits goes as soon as one that is on its way has come back; nothing waits for others to come. etcd compares everything before
//! it writes anything: what one writes no other of the batch compares, so that it is as if each had come by itself. A batch that
//! is too much for etcd is sent again in smaller ones.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use tonic::Status;

use super::{
    ANSWER, envelope,
    head::{Head, Mark},
    keyspace::Keyspace,
    members::{Members, is_final, is_too_much, not_sent},
    op,
    revisions::{self, RANKS, number, ranked},
    unchanged,
    waiting::Waiting,
    wire::{DeleteRangeRequest, PutRequest, TxnRequest, TxnResponse, request_op::Request, response_op::Response},
};
use crate::{Key, Op, Revision, mvcc::Cache};

/// Batches that are on their way at one time, unless one is waited for at a member that is not asked any more. With more of them there are
/// fewer transactions in each.
const WAYS: usize = 1;
/// Transactions in one batch, of which each may have half as many compares and operations: etcd takes 128 by default, of a
/// transaction and the largest of those in it together.
const TOGETHER: usize = 64;
const _: () = assert!(TOGETHER + 1 + TOGETHER / 2 <= 128 && TOGETHER <= RANKS);
/// Of keys and values in one batch, unless one alone has more: a third of what etcd takes by default.
const BYTES: usize = 512 << 10;
/// Between attempts while nobody can be reached.
const PAUSE: Duration = Duration::from_millis(50);

/// What is done when nothing has changed since the cache was looked at.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Each key's revision; 0: there is none. All that are written are among them.
    pub compares: Vec<(Key, Revision)>,
    pub ops: Vec<Op>,
}

/// What became of a transaction that was handed over.
#[derive(Debug)]
pub(super) enum Answer {
    Done(Revision),
    /// Something that it compares is not so.
    Overtaken,
    /// etcd does not take it. It may have been carried out nevertheless if etcd [is full](super::members::is_full).
    Refused(Status),
    /// It has not gone out, and will not.
    NotSent(Status),
    /// It may have been carried out, or may be yet.
    Lost(Status),
}

/// A transaction that can be sent.
struct Ready {
    mark: Mark,
    plan: Arc<Plan>,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

/// Takes what is to be sent.
pub(super) struct Outbox(mpsc::UnboundedSender<Ready>);

pub(super) struct Sender {
    queue: mpsc::UnboundedReceiver<Ready>,
    ways: Arc<Semaphore>,
    post: Arc<Post>,
}

/// What each batch on its way needs.
struct Post {
    members: Members,
    space: Keyspace,
    cache: Arc<Cache>,
    waiting: Arc<Waiting>,
    /// For those that go once more.
    queue: mpsc::WeakUnboundedSender<Ready>,
    /// Transactions in one batch at the most.
    together: AtomicUsize,
}

pub(super) fn sending(members: Members, space: Keyspace, cache: Arc<Cache>, waiting: Arc<Waiting>) -> (Outbox, Sender) {
    let (sender, queue) = mpsc::unbounded_channel();
    let post = Arc::new(Post { members, space, cache, waiting, queue: sender.downgrade(), together: TOGETHER.into() });
    (Outbox(sender), Sender { queue, ways: Arc::new(Semaphore::new(WAYS)), post })
}

impl Plan {
    fn bytes(&self) -> usize {
        self.ops.iter().map(|op| op.key().as_str().len() + op.value().map_or(0, bytes::Bytes::len)).sum()
    }

    fn parts(&self) -> usize {
        self.compares.len().max(self.ops.len())
    }
}

impl Outbox {
    /// Sends it when it can be, if it is not too late then and who has handed it over still waits.
    pub fn put(&self, mark: Mark, plan: Arc<Plan>, deadline: Instant) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Ready { mark, plan, deadline, answer });
        answered
    }
}

impl Sender {
    pub async fn run(mut self) {
        let mut ready = VecDeque::new();
        loop {
            if ready.is_empty() {
                let Some(first) = self.queue.recv().await else { return };
                ready.push_back(first);
            }
            let Ok(way) = self.ways.clone().acquire_owned().await else { return };
            while let Ok(next) = self.queue.try_recv() {
                ready.push_back(next);
            }
            ready = ready.into_iter().filter_map(|one| self.post.if_wanted(one)).collect();
            let batch = take_together(&mut ready, self.post.together.load(Ordering::Relaxed));
            if !batch.is_empty() {
                // To its end, whoever still waits for it: of answers that come for what was given up HTTP/2 takes a thousand, and then ends the
                // connection, with everybody's watch on it.
                tokio::spawn(self.post.clone().send(batch, way));
            }
        }
    }
}

/// As many as can go at once, the first among them, and `most` at the most.
fn take_together(ready: &mut VecDeque<Ready>, most: usize) -> Vec<Ready> {
    let (mut batch, mut rest, mut bytes) = (Vec::<Ready>::new(), VecDeque::new(), 0);
    let (mut compared, mut written) = (HashSet::new(), HashSet::new());
    for one in ready.drain(..) {
        let fits = batch.first().is_none_or(|first| {
            let small = |one: &Ready| one.plan.parts() <= (most / 2).max(1);
            batch.len() < most && small(first) && small(&one) && bytes + one.plan.bytes() <= BYTES
        });
        let apart = |plan: &Plan| {
            !plan.ops.iter().any(|op| compared.contains(op.key()))
                && !plan.compares.iter().any(|(key, _)| written.contains(key))
        };
        if !fits || !apart(&one.plan) {
            rest.push_back(one);
            continue;
        }
        bytes += one.plan.bytes();
        compared.extend(one.plan.compares.iter().map(|(key, _)| key.clone()));
        written.extend(one.plan.ops.iter().map(|op| op.key().clone()));
        batch.push(one);
    }
    *ready = rest;
    batch
}

impl Post {
    fn if_wanted(&self, one: Ready) -> Option<Ready> {
        if one.answer.is_closed() {
            self.waiting.settled(one.mark);
            return None;
        }
        if Instant::now() > one.deadline {
            let why = "etcd has not answered in time what went before";
            self.tell(one, Answer::NotSent(Status::deadline_exceeded(why)));
            return None;
        }
        Some(one)
    }

    async fn send(self: Arc<Self>, batch: Vec<Ready>, way: OwnedSemaphorePermit) {
        let Some(request) = self.request(&batch) else {
            let why = Status::unavailable("there are no random numbers to encrypt with");
            batch.into_iter().for_each(|one| self.tell(one, Answer::NotSent(why.clone())));
            return;
        };
        let asked = self.members.ask();
        let mut kv = asked.kv();
        let answering = timeout(ANSWER, kv.txn(request));
        tokio::pin!(answering);
        let answer = tokio::select! {
            answer = &mut answering => answer,
            () = self.members.moved_on_from(asked.index()) => {
                // Another member is asked: what waits does not wait for this one.
                drop(way);
                answering.await
            }
        };
        let status = match answer {
            Ok(Ok(answer)) => return self.tell_all(batch, &answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded(format!("{} has not answered in time", asked.url())),
        };
        if batch.len() > 1 && is_too_much(&status) {
            // An etcd whose operator has set it narrower limits, to which it is kept from now on.
            self.together.fetch_min(batch.len() / 2, Ordering::Relaxed);
            batch.into_iter().for_each(|one| self.once_more(one));
            return;
        }
        if is_final(&status) {
            batch.into_iter().for_each(|one| self.tell(one, Answer::Refused(status.clone())));
            return;
        }
        asked.failed();
        if !not_sent(&status) {
            batch.into_iter().for_each(|one| self.tell(one, Answer::Lost(status.clone())));
            return;
        }
        tokio::time::sleep(PAUSE).await;
        for one in batch {
            if Instant::now() > one.deadline {
                self.tell(one, Answer::NotSent(status.clone()));
            } else {
                self.once_more(one);
            }
        }
    }

    fn once_more(&self, one: Ready) {
        // Who puts nothing in any more has closed the store.
        if let Some(queue) = self.queue.upgrade() {
            let _ = queue.send(one);
        }
    }

    /// None: a value cannot be sealed.
    fn request(&self, batch: &[Ready]) -> Option<TxnRequest> {
        let (marks, mut deleted, mut success) = (batch.iter().map(|one| one.mark).collect(), Vec::new(), Vec::new());
        let head = |marks, deleted| {
            let value = Head { marks, deleted }.bytes();
            op(Request::RequestPut(PutRequest { key: self.space.head(), value, lease: 0 }))
        };
        if let [one] = batch {
            let mut request = self.transaction(&one.plan, None)?;
            request.success.push(head(marks, deleted));
            return Some(request);
        }
        for (one, rank) in batch.iter().zip(0..) {
            let of_no_value = one.plan.ops.iter().filter(|op| op.value().is_none());
            deleted.extend(of_no_value.map(|op| (rank, op.key().clone())));
            success.push(op(Request::RequestTxn(self.transaction(&one.plan, Some(rank))?)));
        }
        success.push(head(marks, deleted));
        Some(TxnRequest { compare: Vec::new(), success })
    }

    fn transaction(&self, plan: &Plan, rank: Option<u8>) -> Option<TxnRequest> {
        let encryption = &self.cache.options().encryption;
        let compare =
            plan.compares.iter().map(|(key, revision)| unchanged(self.space.object(key), number(*revision))).collect();
        let success = plan.ops.iter().map(|one| {
            let key = self.space.object(one.key());
            Some(op(match one {
                Op::Put(name, value) => {
                    let value = envelope::wrap(encryption, name, value, rank)?;
                    Request::RequestPut(PutRequest { key, value, lease: 0 })
                }
                Op::Delete(_) => Request::RequestDeleteRange(DeleteRangeRequest { key }),
            }))
        });
        Some(TxnRequest { compare, success: success.collect::<Option<_>>()? })
    }

    fn tell_all(&self, batch: Vec<Ready>, answer: &TxnResponse) {
        let at = answer.header.as_ref().map_or(0, |header| header.revision);
        let alone = batch.len() == 1;
        for (one, rank) in batch.into_iter().zip(0_u8..) {
            let own = answer.responses.get(usize::from(rank)).and_then(|own| own.response.as_ref());
            let outcome = match (alone, own) {
                (true, _) => answer.succeeded.then(|| revisions::whole(at)),
                (false, Some(Response::ResponseTxn(own))) => own.succeeded.then(|| ranked(at, Some(rank))),
                (false, None) => {
                    self.tell(one, Answer::Lost(Status::internal("etcd has answered only a part of a batch")));
                    continue;
                }
            };
            self.tell(one, outcome.map_or(Answer::Overtaken, Answer::Done));
        }
    }

    fn tell(&self, one: Ready, answer: Answer) {
        // Also where nobody waits for it any more.
        if matches!(answer, Answer::Overtaken | Answer::NotSent(_)) {
            self.waiting.settled(one.mark);
        }
        let _ = one.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_api::{ResourceId, TenantId};

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", name).unwrap()
    }

    /// A transaction that compares some keys and writes others, of so many bytes together.
    fn ready(compares: &[&str], writes: &[&str], bytes: usize) -> Ready {
        let compares = compares.iter().chain(writes).map(|name| (key(name), Revision(1))).collect();
        let put = |name: &&str| Op::Put(key(name), vec![0; bytes / writes.len()].into());
        let plan = Arc::new(Plan { compares, ops: writes.iter().map(put).collect() });
        Ready { mark: Mark::new(), plan, deadline: Instant::now(), answer: oneshot::channel().0 }
    }

    fn batches(all: Vec<Ready>) -> Vec<Vec<usize>> {
        let marks: Vec<Mark> = all.iter().map(|one| one.mark).collect();
        let (mut ready, mut batches) = (VecDeque::from(all), Vec::new());
        while !ready.is_empty() {
            let batch = take_together(&mut ready, TOGETHER);
            batches.push(batch.iter().map(|one| marks.iter().position(|mark| *mark == one.mark).unwrap()).collect());
        }
        batches
    }

    #[test]
    fn what_one_writes_no_other_of_its_batch_compares() {
        // What is only compared may be so by all of them.
        let all = vec![ready(&["fence"], &["a"], 1), ready(&["fence"], &["b"], 1), ready(&["fence"], &["c", "d"], 1)];
        assert_eq!(batches(all), [[0, 1, 2]]);
        // The same key twice, and then something else.
        let all = vec![ready(&[], &["a"], 1), ready(&[], &["a"], 1), ready(&[], &["b"], 1), ready(&[], &["a", "c"], 1)];
        assert_eq!(batches(all), [vec![0, 2], vec![1], vec![3]]);
        // A fence that one of them takes away, whichever comes first.
        let all = vec![ready(&["fence"], &["a"], 1), ready(&[], &["fence"], 1), ready(&["fence"], &["b"], 1)];
        assert_eq!(batches(all), [vec![0, 2], vec![1]]);
        let all = vec![ready(&[], &["fence"], 1), ready(&["fence"], &["a"], 1), ready(&["fence"], &["b"], 1)];
        assert_eq!(batches(all), [vec![0], vec![1, 2]]);
        // Each would be refused after the other: one after the other they are not both carried out.
        let all = vec![ready(&["a"], &["b"], 1), ready(&["b"], &["a"], 1)];
        assert_eq!(batches(all), [[0], [1]]);
    }

    #[test]
    fn a_batch_is_no_more_than_etcd_takes_and_what_is_larger_goes_by_itself() {
        let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
        let one = |n: usize, bytes| ready(&[], &[&names[n]], bytes);
        let all: Vec<usize> = batches((0..100).map(|n| one(n, 1)).collect()).iter().map(Vec::len).collect();
        assert_eq!(all, [TOGETHER, 100 - TOGETHER]);
        let large = BYTES / 2;
        assert_eq!(batches(vec![one(0, large), one(1, large), one(2, 10)]), [vec![0, 2], vec![1]]);
        assert_eq!(batches(vec![one(0, 3 * BYTES), one(1, 1), one(2, 1)]), [vec![0], vec![1, 2]]);
        let of_many: Vec<&str> = names[..=TOGETHER / 2].iter().map(String::as_str).collect();
        let all = vec![one(98, 1), ready(&[], &of_many, 1), one(99, 1)];
        assert_eq!(batches(all), [vec![0, 2], vec![1]]);
        let all = vec![ready(&[], &of_many, 1), one(98, 1), one(99, 1)];
        assert_eq!(batches(all), [vec![0], vec![1, 2]]);
    }
}
