use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Named(TenantId, &'static str);

impl Tenanted for Named {
    fn tenant(&self) -> &TenantId {
        &self.0
    }
}

fn named(tenant: &str, name: &'static str) -> Named {
    Named(tenant.parse().unwrap(), name)
}

fn key(name: &'static str) -> Named {
    named("acme", name)
}

#[tokio::test(start_paused = true)]
async fn a_key_is_worked_on_by_one_and_once() {
    let queue = Queue::default();
    let (mut one, mut other, mut third) = (queue.worker(), queue.worker(), queue.worker());
    for _ in 0..3 {
        queue.add(key("a"));
    }
    queue.add(key("b"));
    assert_eq!(one.next().await, key("a"));
    queue.add(key("a"));
    assert_eq!(other.next().await, key("b"));
    let waiting = tokio::time::timeout(Duration::from_secs(3600), third.next()).await;
    assert!(waiting.is_err(), "a is being worked on");
    one.done(false);
    assert_eq!(third.next().await, key("a"));
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_comes_again_later() {
    let queue = Queue::default();
    let mut worker = queue.worker();
    queue.add(key("a"));
    let mut waits = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        worker.next().await;
        waits.push(began.elapsed());
        worker.done(true);
    }
    assert!(waits[2] > waits[1] && waits[3] >= 4 * FIRST_DELAY, "{waits:?}");
    assert!(waits[19] >= LAST_DELAY && waits[19] < 2 * LAST_DELAY, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn timers_ring_in_order_whoever_keeps_them() {
    let queue = Queue::<Named>::default();
    // Three wait, each with what it took to be the first timer.
    let (sender, mut rung) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..3 {
        let (mut worker, sender) = (queue.worker(), sender.clone());
        tokio::spawn(async move {
            loop {
                let key = worker.next().await;
                sender.send((key.1, Instant::now())).unwrap();
                // Busy for good with the one that takes long.
                if key.1 == "long" {
                    std::future::pending::<()>().await;
                }
                worker.done(false);
            }
        });
    }
    let began = Instant::now();
    queue.add_after(key("9"), Duration::from_secs(90));
    queue.add_after(key("7"), Duration::MAX);
    tokio::task::yield_now().await;
    queue.add_after(key("3"), Duration::from_secs(30));
    queue.add_after(key("3"), Duration::from_secs(60));
    queue.add_after(key("9"), Duration::from_secs(40));
    queue.add(key("long"));
    for (key, at) in [("long", 0), ("3", 30), ("9", 40), ("7", LONGEST.as_secs())] {
        let (rang, when) = rung.recv().await.unwrap();
        assert_eq!((rang, (when - began).as_secs()), (key, at));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_had_when_it_was_dropped_is_there_for_others() {
    let queue = Queue::default();
    let (mut gone, mut other) = (queue.worker(), queue.worker());
    queue.add(key("a"));
    assert_eq!(gone.next().await, key("a"));
    drop(gone);
    assert_eq!(other.next().await, key("a"));
}

/// Slow keys of one tenant leave a worker for another's.
#[tokio::test(start_paused = true)]
async fn slow_keys_of_one_tenant_hold_half_of_the_workers() {
    let queue = Queue::default();
    let mut workers: Vec<_> = (0..4).map(|_| queue.worker()).collect();
    for name in ["a", "b", "c", "d"] {
        queue.add(key(name));
    }
    let mut workers = workers.iter_mut();
    for _ in 0..2 {
        workers.next().unwrap().next().await;
    }
    let worker = workers.next().unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(3600), worker.next()).await;
    assert!(waiting.is_err(), "two are idle, and kept for others");
    queue.add(named("globex", "a"));
    assert_eq!(worker.next().await, named("globex", "a"));
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8),
    /// Of a key that may be worked on, or waits for its timer.
    Take,
    Done(u8, bool),
    Later(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..6, 0u8..6).prop_map(|(tenant, key)| Step::Add(tenant, key)),
        // One with very many.
        6 => (0u8..60).prop_map(|key| Step::Add(0, key)),
        8 => Just(Step::Take),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(which, failed)| Step::Done(which, failed)),
        1 => (1u64..1000).prop_map(Step::Later),
    ];
    prop::collection::vec(step, 0..300)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Numbered(TenantId, u8);

impl Tenanted for Numbered {
    fn tenant(&self) -> &TenantId {
        &self.0
    }
}

proptest! {
    /// No key is lost, none is worked on twice at once; and of a tenant of whose keys none is worked on, the first that
    /// is ready waits for one key of each other tenant at most, whatever the others add.
    #[test]
    fn fair_between_tenants(workers in 1usize..9, steps in steps()) {
        let queue = Queue::<Numbered>::default();
        let _workers: Vec<_> = (0..workers).map(|_| queue.worker()).collect();
        let mut state = queue.0.state.lock();
        let began = Instant::now();
        let mut now = began;
        // What is owed: added, or failed, and not taken since.
        let mut owed: BTreeSet<Numbered> = BTreeSet::new();
        let mut working: Vec<Numbered> = Vec::new();
        // Their timers ring even if they have been taken for a change before.
        let mut failed_once: BTreeSet<Numbered> = BTreeSet::new();
        // Of tenants that wait: how many keys of each other one have been taken meanwhile.
        let mut passed: BTreeMap<TenantId, BTreeMap<TenantId, usize>> = BTreeMap::new();
        let all = steps.into_iter().chain(std::iter::repeat_n(Step::Later(400_000), 1));
        for step in all {
            match step {
                Step::Add(tenant, number) => {
                    let key = Numbered(format!("tenant{tenant}").parse().unwrap(), number);
                    state.add(key.clone());
                    owed.insert(key);
                }
                Step::Take => {
                    let Some(key) = state.take(now) else {
                        let idle = workers - working.len();
                        for key in state.dirty.iter().filter(|key| !working.contains(key)) {
                            let held = working.iter().filter(|other| other.0 == key.0).count();
                            prop_assert!(held >= idle, "{key:?} is ready, and {idle} are idle");
                        }
                        continue;
                    };
                    let asked = owed.remove(&key) || failed_once.contains(&key);
                    prop_assert!(asked, "{key:?} was asked for by nobody");
                    prop_assert!(!working.contains(&key), "{key:?} is worked on already");
                    let tenant = key.0.clone();
                    passed.remove(&tenant);
                    working.push(key);
                    for (waiting, others) in &mut passed {
                        let taken = others.entry(tenant.clone()).or_default();
                        *taken += 1;
                        prop_assert!(*taken <= 1, "{tenant} twice, while {waiting} waited");
                    }
                    let held = working.iter().filter(|other| other.0 == tenant).count();
                    prop_assert!(held <= workers.div_ceil(2), "{held} of {workers}");
                }
                Step::Done(which, failed) => {
                    if working.is_empty() {
                        continue;
                    }
                    let key = working.remove(usize::from(which) % working.len());
                    if failed {
                        owed.insert(key.clone());
                        failed_once.insert(key.clone());
                    }
                    state.done(key, failed, now);
                }
                Step::Later(milliseconds) => now += Duration::from_millis(milliseconds),
            }
            // Those that begin to wait: something of theirs is ready, and none is worked on.
            for key in &owed {
                let busy = working.iter().any(|other| other.0 == key.0);
                if busy {
                    passed.remove(&key.0);
                } else if state.dirty.contains(key) {
                    passed.entry(key.0.clone()).or_default();
                }
            }
        }
        // To the end: everything that is owed comes.
        loop {
            for key in std::mem::take(&mut working) {
                state.done(key, false, now);
            }
            match state.take(now) {
                Some(key) => {
                    prop_assert!(owed.remove(&key) || failed_once.contains(&key));
                    working.push(key);
                }
                None => break,
            }
        }
        prop_assert!(owed.is_empty(), "lost: {owed:?}");
        prop_assert!(state.ready.is_empty() && state.dirty.is_empty() && state.working.is_empty());
    }
}
