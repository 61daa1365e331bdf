//! Work queues: a key is worked on by one worker at a time, and once for all changes that came meanwhile; tenants have
//! their turns one after the other, however many keys one of them has ([`lanes`]).

mod lanes;
mod timers;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use hypernetes_api::TenantId;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::{lanes::Lanes, timers::Timers};

/// Back-off of a key that fails: doubles from the first to the last.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LAST_DELAY: Duration = Duration::from_secs(300);
/// The longest that a key waits: whatever a tenant's object says, it is looked at once a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What belongs to a tenant: keys of a [`Queue`] do.
pub trait Tenanted {
    fn tenant(&self) -> &TenantId;
}

impl Tenanted for TenantId {
    fn tenant(&self) -> &TenantId {
        self
    }
}

struct State<K> {
    ready: Lanes<K>,
    /// In `ready`, or to be put there when the worker that has it is done.
    dirty: HashSet<K>,
    working: HashSet<K>,
    failures: HashMap<K, u32>,
    timers: Timers<K>,
}

impl<K: Clone + Eq + Hash + Tenanted> State<K> {
    fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push(key);
        }
    }

    /// The next one, also of those whose time has come.
    fn take(&mut self, now: Instant) -> Option<K> {
        while let Some(key) = self.timers.ring(now) {
            self.add(key);
        }
        let key = self.ready.take()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// The worker that had it has it no more. `failed`: it comes again after a while that grows.
    fn done(&mut self, key: K, failed: bool, now: Instant) {
        self.put_back(&key);
        if failed {
            let failures = self.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            let delay = FIRST_DELAY.saturating_mul(1 << (*failures - 1).min(20)).min(LAST_DELAY);
            self.timers.set(key, now + delay);
        } else {
            self.failures.remove(&key);
        }
    }

    fn put_back(&mut self, key: &K) {
        self.working.remove(key);
        if self.dirty.contains(key) {
            self.ready.push(key.clone());
        }
        self.ready.put_back(key.tenant());
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

/// A queue of keys. Cheap to clone. Workers that wait keep its timers: a key that waits costs no task.
pub struct Queue<K>(Arc<Shared<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: Lanes::default(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            failures: HashMap::new(),
            timers: Timers::default(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }))
    }
}

impl<K: Clone + Eq + Hash + Tenanted> Queue<K> {
    pub fn add(&self, key: K) {
        let next = {
            let mut state = self.0.state.lock();
            state.add(key);
            state.ready.has_next()
        };
        if next {
            self.0.wake.notify_one();
        }
    }

    /// Adds the key after a while, unless a timer of it rings earlier.
    pub fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay.min(LONGEST);
        if self.0.state.lock().timers.set(key, at) {
            self.0.wake.notify_one();
        }
    }

    /// One more that works on its keys.
    pub(crate) fn worker(&self) -> Worker<K> {
        self.0.state.lock().ready.enlist_worker();
        Worker { queue: self.clone(), has: None }
    }
}

/// Has one key of a queue at a time. When it is dropped, the key that it has is there for others again.
pub(crate) struct Worker<K: Clone + Eq + Hash + Tenanted> {
    queue: Queue<K>,
    has: Option<K>,
}

impl<K: Clone + Eq + Hash + Tenanted> Worker<K> {
    /// The next key, which nobody else gets until [`Worker::done`].
    pub async fn next(&mut self) -> K {
        let shared = &self.queue.0;
        loop {
            let first = {
                let mut state = shared.state.lock();
                if let Some(key) = state.take(Instant::now()) {
                    // One call may stand for several; and another one has to keep the timers from now on.
                    if state.ready.has_next() || state.timers.first().is_some() {
                        shared.wake.notify_one();
                    }
                    self.has = Some(key.clone());
                    return key;
                }
                state.timers.first()
            };
            let woken = shared.wake.notified();
            match first {
                Some(at) => drop(tokio::time::timeout_at(at, woken).await),
                None => woken.await,
            }
        }
    }

    /// After success the key waits for the next change, after failure for a while that grows.
    pub fn done(&mut self, failed: bool) {
        let Some(key) = self.has.take() else { return };
        self.queue.0.state.lock().done(key, failed, Instant::now());
        // Whoever was passed over for this one may have a worker now, and the timer may be the first.
        self.queue.0.wake.notify_one();
    }
}

impl<K: Clone + Eq + Hash + Tenanted> Drop for Worker<K> {
    fn drop(&mut self) {
        {
            let mut state = self.queue.0.state.lock();
            if let Some(key) = self.has.take() {
                state.dirty.insert(key.clone());
                state.put_back(&key);
            }
            state.ready.dismiss_worker();
        }
        self.queue.0.wake.notify_one();
    }
}
