//! The work queue: what has to be looked at waits at most once, and is worked on by one worker at a time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hypernetes_api::TenantId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What has to be looked at: by `metadata.name`, but a pod by its uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Network(TenantId, String),
    Subnet(TenantId, String),
    Port(TenantId, String),
    Pod(TenantId, String),
}

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    work: Mutex<Work>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    /// Asked for while it was worked on.
    again: HashSet<Key>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    pub fn add(&self, key: Key) {
        let mut work = self.work.lock();
        if work.running.contains(&key) {
            work.again.insert(key);
        } else if work.queued.insert(key.clone()) {
            work.waiting.push_back(key);
            drop(work);
            self.wake.notify_one();
        }
    }

    /// The next one, which nobody else gets until [`Queue::done`].
    pub async fn next(&self) -> Key {
        loop {
            let woken = self.wake.notified();
            {
                let mut work = self.work.lock();
                if let Some(key) = work.waiting.pop_front() {
                    work.queued.remove(&key);
                    work.running.insert(key.clone());
                    if !work.waiting.is_empty() {
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
        let mut work = self.work.lock();
        work.running.remove(&key);
        let again = work.again.remove(&key);
        if success {
            work.failures.remove(&key);
            drop(work);
            if again {
                self.add(key);
            }
            return;
        }
        let failures = work.failures.entry(key.clone()).or_default();
        let delay = (FIRST_RETRY * 2u32.pow((*failures).min(16))).min(LAST_RETRY);
        *failures = failures.saturating_add(1);
        let queue = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(queue) = queue.upgrade() {
                queue.add(key);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::Port("acme".parse().unwrap(), name.into())
    }

    #[tokio::test]
    async fn one_worker_at_a_time_and_failures_come_again() {
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
        assert!(tokio::time::timeout(Duration::from_millis(20), queue.next()).await.is_err());
        queue.done(key("b"), false);
        assert_eq!(queue.next().await, key("b"));
    }
}
