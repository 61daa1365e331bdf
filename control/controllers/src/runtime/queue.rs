//! Work queues: a key is worked on by one worker at a time, and once for all changes that came meanwhile.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Error, Informers};

/// Back-off of a key that fails: doubles from the first to the last.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LAST_DELAY: Duration = Duration::from_secs(300);

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when the worker that has it is done.
    dirty: HashSet<K>,
    working: HashSet<K>,
    failures: HashMap<K, u32>,
    /// When the earliest timer of a key rings.
    timers: HashMap<K, Instant>,
}

/// A queue of keys. Cheap to clone.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    wake: Arc<Notify>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), wake: self.wake.clone() }
    }
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            failures: HashMap::new(),
            timers: HashMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), wake: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Queue<K> {
    pub fn add(&self, key: K) {
        let mut state = self.state.lock();
        if state.dirty.insert(key.clone()) && !state.working.contains(&key) {
            state.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    /// Adds the key after a while, unless a timer rings earlier.
    pub fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        {
            let mut state = self.state.lock();
            if state.timers.get(&key).is_some_and(|earlier| *earlier <= at) {
                return;
            }
            state.timers.insert(key.clone(), at);
        }
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            // An earlier timer may have been set meanwhile, and then this one is of no more use.
            {
                let mut state = queue.state.lock();
                if state.timers.get(&key) != Some(&at) {
                    return;
                }
                state.timers.remove(&key);
            }
            queue.add(key);
        });
    }

    async fn next(&self) -> K {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
            }
            self.wake.notified().await;
        }
    }

    fn done(&self, key: K, failed: bool) {
        let delay = {
            let mut state = self.state.lock();
            state.working.remove(&key);
            if state.dirty.contains(&key) {
                state.ready.push_back(key.clone());
                self.wake.notify_one();
            }
            if failed {
                let failures = state.failures.entry(key.clone()).or_default();
                *failures += 1;
                Some(FIRST_DELAY.saturating_mul(1 << (*failures - 1).min(20)).min(LAST_DELAY))
            } else {
                state.failures.remove(&key);
                None
            }
        };
        if let Some(delay) = delay {
            self.add_after(key, delay);
        }
    }
}

/// Brings what a key names to where it should be, from whatever state it is in.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    const NAME: &'static str;
    type Key: Clone + Eq + Hash + Send + Sync + std::fmt::Debug + 'static;

    /// `Some`: look again after that time, though nothing changes.
    ///
    /// # Errors
    /// The key is tried again later; conflicts with other writers are among the errors and quite normal.
    async fn reconcile(&self, key: &Self::Key) -> Result<Option<Duration>, Error>;
}

/// Runs `workers` workers once the caches are filled, until `stop`.
pub fn drive<R: Reconciler>(
    tasks: &TaskTracker,
    informers: &Informers,
    reconciler: R,
    queue: Queue<R::Key>,
    workers: usize,
    stop: &CancellationToken,
) {
    let reconciler = Arc::new(reconciler);
    for _ in 0..workers {
        let (reconciler, queue, informers) = (reconciler.clone(), queue.clone(), informers.clone());
        let work = async move {
            informers.synced().await;
            loop {
                let key = queue.next().await;
                let outcome = reconciler.reconcile(&key).await;
                match &outcome {
                    Ok(Some(delay)) => queue.add_after(key.clone(), *delay),
                    Ok(None) => {}
                    Err(error) if error.is_passing() => tracing::debug!(controller = R::NAME, ?key, %error, "again"),
                    Err(error) => tracing::warn!(controller = R::NAME, ?key, %error, "not reconciled"),
                }
                queue.done(key, outcome.is_err());
            }
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_key_is_worked_on_by_one_and_once() {
        let queue = Queue::default();
        for _ in 0..3 {
            queue.add("a");
        }
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        let waiting = tokio::time::timeout(Duration::from_millis(100), queue.next()).await;
        assert!(waiting.is_err(), "a is being worked on");
        queue.done("a", false);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test]
    async fn a_failing_key_comes_again_later() {
        let queue = Queue::default();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..4 {
            let began = Instant::now();
            let key = queue.next().await;
            waits.push(began.elapsed());
            queue.done(key, true);
        }
        assert!(waits[2] > waits[1] && waits[3] >= 4 * FIRST_DELAY, "{waits:?}");
    }
}
