//! A work queue of volumes: each waits at most once, and is worked on by one worker at a time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hypernetes_api::TenantId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// A volume, or where its attachment would be: they have the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub tenant: TenantId,
    pub name: String,
}

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    /// Asked for while it was worked on.
    again: HashSet<Key>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    pub fn add(&self, key: Key) {
        let mut state = self.state.lock();
        if state.running.contains(&key) {
            state.again.insert(key);
        } else if state.queued.insert(key.clone()) {
            state.waiting.push_back(key);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The next one, which nobody else gets until [`Queue::done`].
    pub async fn next(&self) -> Key {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = self.state.lock();
                if let Some(key) = state.waiting.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    if !state.waiting.is_empty() {
                        // One notice may stand for several.
                        self.wake.notify_one();
                    }
                    return key;
                }
            }
            woken.await;
        }
    }

    /// After success it waits for the next change, after failure for a while that grows.
    pub fn done(self: &Arc<Self>, key: Key, success: bool) {
        let (again, delay) = {
            let mut state = self.state.lock();
            state.running.remove(&key);
            let delay = if success {
                state.failures.remove(&key);
                None
            } else {
                let failures = state.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                Some((FIRST_RETRY * 2u32.pow((*failures - 1).min(16))).min(LAST_RETRY))
            };
            (state.again.remove(&key), delay)
        };
        if again {
            self.add(key);
        } else if let Some(delay) = delay {
            let queue = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                if let Some(queue) = queue.upgrade() {
                    queue.add(key);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { tenant: "acme".parse().unwrap(), name: name.into() }
    }

    #[tokio::test]
    async fn one_worker_at_a_time() {
        let queue = Arc::new(Queue::default());
        queue.add(key("a"));
        queue.add(key("a"));
        let first = queue.next().await;
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("b"), "a is being worked on");
        queue.done(first, true);
        assert_eq!(queue.next().await, key("a"));
        queue.done(key("a"), true);
        let nothing = tokio::time::timeout(Duration::from_millis(50), queue.next()).await;
        assert!(nothing.is_err());
    }

    #[tokio::test]
    async fn failures_come_again() {
        let queue = Arc::new(Queue::default());
        queue.add(key("a"));
        let first = queue.next().await;
        queue.done(first, false);
        assert_eq!(queue.next().await, key("a"));
    }
}
