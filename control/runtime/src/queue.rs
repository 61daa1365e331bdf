//! Work queues: a key is worked on by one worker at a time, and once for all changes that came meanwhile.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Back-off of a key that fails: doubles from the first to the last.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LAST_DELAY: Duration = Duration::from_secs(300);
/// The longest that a key waits: whatever a tenant's object says, it is looked at once a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// When a key's timer rings; the number tells apart those that ring at once.
type Time = (Instant, u64);

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when the worker that has it is done.
    dirty: HashSet<K>,
    working: HashSet<K>,
    failures: HashMap<K, u32>,
    /// One for each key that waits.
    timers: BTreeMap<Time, K>,
    rings: HashMap<K, Time>,
    set: u64,
}

impl<K: Clone + Eq + Hash> State<K> {
    /// True when a worker can have it now.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// True when no other timer rings earlier.
    fn set_timer(&mut self, key: K, at: Instant) -> bool {
        match self.rings.get(&key) {
            Some((earlier, _)) if *earlier <= at => return false,
            Some(later) => drop(self.timers.remove(later)),
            None => {}
        }
        self.set += 1;
        let time = (at, self.set);
        self.timers.insert(time, key.clone());
        self.rings.insert(key, time);
        self.timers.first_key_value().is_some_and(|(first, _)| *first == time)
    }

    /// Adds those whose time has come.
    fn ring(&mut self, now: Instant) {
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            let key = timer.remove();
            self.rings.remove(&key);
            self.add(key);
        }
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
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            failures: HashMap::new(),
            timers: BTreeMap::new(),
            rings: HashMap::new(),
            set: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }))
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub fn add(&self, key: K) {
        if self.0.state.lock().add(key) {
            self.0.wake.notify_one();
        }
    }

    /// Adds the key after a while, unless a timer of it rings earlier.
    pub fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay.min(LONGEST);
        if self.0.state.lock().set_timer(key, at) {
            self.0.wake.notify_one();
        }
    }

    /// The next one, which nobody else gets until [`Queue::done`].
    pub(crate) async fn next(&self) -> K {
        loop {
            let first = {
                let mut state = self.0.state.lock();
                state.ring(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    // One call may stand for several; and another one has to keep the timers from now on.
                    if !state.ready.is_empty() || !state.timers.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return key;
                }
                state.timers.first_key_value().map(|((at, _), _)| *at)
            };
            let woken = self.0.wake.notified();
            match first {
                Some(at) => drop(tokio::time::timeout_at(at, woken).await),
                None => woken.await,
            }
        }
    }

    /// After success it waits for the next change, after failure for a while that grows.
    pub(crate) fn done(&self, key: K, failed: bool) {
        let mut state = self.0.state.lock();
        state.working.remove(&key);
        let mut wake = false;
        if state.dirty.contains(&key) {
            state.ready.push_back(key.clone());
            wake = true;
        }
        if failed {
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            let delay = FIRST_DELAY.saturating_mul(1 << (*failures - 1).min(20)).min(LAST_DELAY);
            wake |= state.set_timer(key, Instant::now() + delay);
        } else {
            state.failures.remove(&key);
        }
        drop(state);
        if wake {
            self.0.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_by_one_and_once() {
        let queue = Queue::default();
        for _ in 0..3 {
            queue.add("a");
        }
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        let waiting = tokio::time::timeout(Duration::from_secs(3600), queue.next()).await;
        assert!(waiting.is_err(), "a is being worked on");
        queue.done("a", false);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_key_comes_again_later() {
        let queue = Queue::default();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..20 {
            let began = Instant::now();
            let key = queue.next().await;
            waits.push(began.elapsed());
            queue.done(key, true);
        }
        assert!(waits[2] > waits[1] && waits[3] >= 4 * FIRST_DELAY, "{waits:?}");
        assert!(waits[19] >= LAST_DELAY && waits[19] < 2 * LAST_DELAY, "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn timers_ring_in_order_whoever_keeps_them() {
        let queue = Queue::default();
        // Three wait, each with what it took to be the first timer.
        let (sender, mut rung) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..3 {
            let (queue, sender) = (queue.clone(), sender.clone());
            tokio::spawn(async move {
                loop {
                    let key = queue.next().await;
                    sender.send((key, Instant::now())).unwrap();
                    // Busy for good with the one that takes long.
                    if key == 0 {
                        std::future::pending::<()>().await;
                    }
                    queue.done(key, false);
                }
            });
        }
        let began = Instant::now();
        queue.add_after(9, Duration::from_secs(90));
        queue.add_after(7, Duration::MAX);
        tokio::task::yield_now().await;
        queue.add_after(3, Duration::from_secs(30));
        queue.add_after(3, Duration::from_secs(60));
        queue.add_after(9, Duration::from_secs(40));
        queue.add(0);
        for (key, at) in [(0, 0), (3, 30), (9, 40), (7, LONGEST.as_secs())] {
            let (rang, when) = rung.recv().await.unwrap();
            assert_eq!((rang, (when - began).as_secs()), (key, at));
        }
    }
}
