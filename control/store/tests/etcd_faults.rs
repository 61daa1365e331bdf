//! What several servers over one etcd promise when members and servers are killed, paused and cut off: reads and writes are
//! linearizable, no acknowledged write is lost, and watches tell of every change once and in order.

mod common;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    cluster::{Cluster, MEMBERS},
    history::{Did, Operation, Outcome, Told, Value, check, check_watch},
};
use hypernetes_api::TenantId;
use hypernetes_store::{
    Change, Entry, Guard, Key, Op, Options, Prefix, ResourceId, Store, Txn, TxnError, log::etcd::Config,
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokio::sync::{mpsc, watch};

const SERVERS: usize = 3;
/// Each of them does one thing after the other; some of theirs are sent together.
const CLIENTS: usize = 6;
/// Keys that are written at one time.
const KEYS: u64 = 8;
/// After so many operations others are: long histories of one key are hard to check.
const OPERATIONS_PER_KEYS: u64 = 600;

fn configmaps() -> ResourceId {
    ResourceId::new("", "configmaps")
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn key(name: &str) -> Key {
    Key::new(&configmaps(), &tenant(), "default", name).unwrap()
}

fn all() -> Prefix {
    Prefix::tenant(&configmaps(), &tenant(), None).unwrap()
}

fn value(entry: Option<&Entry>) -> Value {
    entry.map(|entry| u64::from_be_bytes(entry.value[..8].try_into().unwrap()))
}

fn told(change: &Change) -> Told {
    let (key, revision) = (change.key.name().to_owned(), change.revision.0);
    Told { revision, key, before: value(change.before.as_ref()), now: value(change.now.as_ref()) }
}

/// What all clients have done.
struct Record {
    began: Instant,
    operations: Mutex<Vec<Operation>>,
    /// With the revision.
    acknowledged: Mutex<Vec<(u64, String, Value)>>,
    values: AtomicU64,
    done: AtomicU64,
    /// Every server's clients have done all that they do.
    over: tokio::sync::Barrier,
}

impl Record {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Working,
    Over,
}

/// Reads and writes keys while that is wanted.
async fn client(store: Arc<Store>, record: Arc<Record>, mut phase: watch::Receiver<Phase>, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    phase.wait_for(|phase| *phase != Phase::Waiting).await.unwrap();
    while *phase.borrow() == Phase::Working {
        let turn = record.done.fetch_add(1, Ordering::Relaxed) / OPERATIONS_PER_KEYS;
        let name = format!("k{turn}-{}", random.random_range(0..KEYS));
        let began = record.now();
        let Ok(found) = store.get(&key(&name)).await else { continue };
        let from = value(found.as_ref());
        let read = Operation { key: name.clone(), did: Did::Read(from), began, ended: record.now() };
        record.operations.lock().unwrap().push(read);
        if random.random_bool(0.3) {
            continue;
        }
        let to = (found.is_none() || random.random_bool(0.8)).then(|| record.values.fetch_add(1, Ordering::Relaxed));
        let op = match to {
            Some(number) => Op::Put(key(&name), Bytes::copy_from_slice(&number.to_be_bytes())),
            None => Op::Delete(key(&name)),
        };
        let guard = match &found {
            Some(entry) => Guard::Unchanged(key(&name), entry.mod_revision),
            None => Guard::Absent(key(&name)),
        };
        let began = record.now();
        let outcome = match store.commit(Txn { guards: vec![guard], ops: vec![op] }).await {
            Ok(revision) => {
                record.acknowledged.lock().unwrap().push((revision.0, name.clone(), to));
                Outcome::Done
            }
            Err(TxnError::Conflict { .. }) => Outcome::Refused,
            Err(TxnError::Unknown(_)) => Outcome::Unknown,
            // It has not happened: when it has, nothing explains what is read.
            Err(TxnError::Unavailable(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        let did = Did::Write { from, to, outcome };
        record.operations.lock().unwrap().push(Operation { key: name, did, began, ended: record.now() });
    }
}

/// A server in a thread of its own, which is all that it has.
struct Server {
    thread: thread::JoinHandle<Vec<Told>>,
    blocks: mpsc::UnboundedSender<Duration>,
}

/// Runs a store with clients and a watch. When it is stopped, what the watch told of.
fn server(
    config: Config,
    record: Arc<Record>,
    phase: watch::Receiver<Phase>,
    number: u64,
    ready: mpsc::Sender<()>,
) -> Server {
    let (blocks, mut blocking) = mpsc::unbounded_channel::<Duration>();
    let run = async move {
        let store = Arc::new(Store::etcd(&config, Options::default()).await.unwrap());
        // As whoever is stopped: nothing of the server runs meanwhile.
        tokio::spawn(async move {
            while let Some(time) = blocking.recv().await {
                thread::sleep(time);
            }
        });
        let mut changes = store.watch(&all(), store.revision().await.unwrap()).await.unwrap();
        ready.send(()).await.unwrap();
        let (last, mut end) = watch::channel(None);
        let watching = tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                tokio::select! {
                    change = changes.recv() => seen.push(told(&change.unwrap().unwrap())),
                    _ = end.wait_for(Option::is_some) => break,
                }
            }
            let end = (*end.borrow()).unwrap();
            while seen.last().map_or(0, |change: &Told| change.revision) < end {
                seen.push(told(&changes.recv().await.unwrap().unwrap()));
            }
            seen
        });
        let clients = (0..CLIENTS as u64).map(|client_number| {
            tokio::spawn(client(store.clone(), record.clone(), phase.clone(), number * 100 + client_number))
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        record.over.wait().await;
        // Everything is well again: each server can write, and sees what the others wrote last.
        let end = within(|| async {
            let put = Op::Put(key("end"), Bytes::copy_from_slice(&u64::MAX.to_be_bytes()));
            store.commit(Txn { guards: vec![], ops: vec![put] }).await.map(|revision| revision.0)
        });
        last.send_replace(Some(end.await));
        watching.await.unwrap()
    };
    let thread = thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run)
    });
    Server { thread, blocks }
}

/// Until it works.
async fn within<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(120), "{error}"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillMember(usize),
    PauseMember(usize),
    IsolateMember(usize),
    CutServer(usize),
    PauseServer(usize),
}

/// Has servers work while faults happen, each for so long, and checks what they did. Acknowledged writes.
fn survive(faults: &[(Fault, Duration)]) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut cluster = runtime.block_on(Cluster::start());
    let record = Arc::new(Record {
        began: Instant::now(),
        operations: Mutex::default(),
        acknowledged: Mutex::default(),
        values: AtomicU64::new(1),
        done: AtomicU64::new(0),
        over: tokio::sync::Barrier::new(SERVERS),
    });
    let phase = watch::Sender::new(Phase::Waiting);
    let (ready, mut are_ready) = mpsc::channel(SERVERS);
    let servers: Vec<Server> = (0..SERVERS)
        .map(|index| {
            let mut urls = runtime.block_on(cluster.urls_for(&format!("s{index}")));
            urls.rotate_left(index);
            let config = common::config(urls, "/faults/");
            server(config, record.clone(), phase.subscribe(), index as u64, ready.clone())
        })
        .collect();
    for _ in 0..SERVERS {
        runtime.block_on(are_ready.recv()).unwrap();
    }
    phase.send_replace(Phase::Working);
    let acknowledged = || record.acknowledged.lock().unwrap().len();
    let go_on = |what: &str| {
        let (began, before) = (Instant::now(), acknowledged());
        while acknowledged() < before + 20 {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}: nothing is written any more");
            thread::sleep(Duration::from_millis(20));
        }
    };
    go_on("at the start");
    for (fault, time) in faults {
        match *fault {
            Fault::KillMember(index) => {
                cluster.kill(index);
                thread::sleep(*time);
                cluster.restart(index);
            }
            Fault::PauseMember(index) => {
                cluster.pause(index);
                thread::sleep(*time);
                cluster.resume(index);
            }
            Fault::IsolateMember(index) => {
                cluster.isolate(index);
                thread::sleep(*time);
                cluster.rejoin(index);
            }
            Fault::CutServer(index) => {
                cluster.network.cut(&format!("s{index}"));
                thread::sleep(*time);
                cluster.network.mend(&format!("s{index}"));
            }
            Fault::PauseServer(index) => {
                servers[index].blocks.send(*time).unwrap();
                thread::sleep(*time);
            }
        }
        go_on(&format!("{fault:?}"));
    }
    phase.send_replace(Phase::Over);
    let watched: Vec<Vec<Told>> = servers.into_iter().map(|server| server.thread.join().unwrap()).collect();
    let operations = record.operations.lock().unwrap().clone();
    let acknowledged = record.acknowledged.lock().unwrap().clone();
    let tried: Vec<Value> = (1..record.values.load(Ordering::Relaxed)).chain([u64::MAX]).map(Some).collect();
    check(&operations).unwrap_or_else(|why| panic!("{why}"));
    for changes in &watched {
        check_watch(changes, &acknowledged, &tried).unwrap_or_else(|why| panic!("{why}"));
    }
    let unknown = operations.iter().filter(|done| matches!(done.did, Did::Write { outcome: Outcome::Unknown, .. }));
    let batches: BTreeSet<u64> = acknowledged.iter().map(|(revision, ..)| revision >> 8).collect();
    println!(
        "{} operations, {} acknowledged writes in {} batches, {} of unknown outcome",
        operations.len(),
        acknowledged.len(),
        batches.len(),
        unknown.count()
    );
    assert!(batches.len() < acknowledged.len(), "nothing was sent together");
    what_is_wrong_shows(&operations, &watched[0], &acknowledged, &tried);
    acknowledged.len()
}

/// The checkers refuse what has happened when a fault is planted in it.
fn what_is_wrong_shows(
    operations: &[Operation],
    watched: &[Told],
    acknowledged: &[(u64, String, Value)],
    tried: &[Value],
) {
    // A read that shows what was there before a write that had been acknowledged when it began.
    let done = |operation: &Operation| match operation.did {
        Did::Write { from, to, outcome: Outcome::Done } => Some((from, to)),
        _ => None,
    };
    let stale = operations.iter().enumerate().find_map(|(index, read)| {
        let Did::Read(now) = read.did else { return None };
        let wrote = |write: &&Operation| {
            write.key == read.key && write.ended < read.began && done(write).is_some_and(|(_, to)| to == now)
        };
        let (from, _) = done(operations.iter().find(wrote)?)?;
        Some((index, from))
    });
    let (index, before) = stale.expect("somebody has read what was written");
    let mut planted = operations.to_vec();
    planted[index].did = Did::Read(before);
    check(&planted).expect_err("a stale read");

    // A write that was acknowledged, and then is as if it had never been.
    let lost = operations.iter().find(|write| {
        let read = |read: &&Operation| read.key == write.key && write.ended < read.began;
        done(write).is_some() && operations.iter().filter(read).count() > 2
    });
    let lost = lost.expect("somebody has written");
    let (from, to) = done(lost).unwrap();
    let mut planted = operations.to_vec();
    for operation in planted.iter_mut().filter(|operation| operation.key == lost.key && operation.began > lost.ended) {
        if operation.did == Did::Read(to) {
            operation.did = Did::Read(from);
        }
    }
    let after = Operation { did: Did::Read(from), began: u64::MAX - 1, ended: u64::MAX, ..lost.clone() };
    planted.retain(|operation| operation.key != lost.key || operation.began <= lost.ended);
    planted.push(after);
    check(&planted).expect_err("a lost write");

    // Watches that told of two changes in the wrong order, of one twice, or not of one.
    let last = watched.len() - 1;
    let mut planted = watched.to_vec();
    planted.swap(last / 2, last / 2 + 1);
    check_watch(&planted, acknowledged, tried).expect_err("changes in the wrong order");
    let mut planted = watched.to_vec();
    planted.insert(last / 2, watched[last / 2].clone());
    check_watch(&planted, acknowledged, tried).expect_err("a change that came twice");
    let mut planted = watched.to_vec();
    let known = |change: &Told| acknowledged.iter().any(|(revision, ..)| *revision == change.revision);
    planted.remove(watched.iter().rposition(known).unwrap());
    check_watch(&planted, acknowledged, tried).expect_err("a change that is missing");
}

/// One of each kind.
#[test]
fn servers_agree_whatever_is_killed_paused_or_cut_off() {
    let time = Duration::from_millis(1500);
    let faults = [
        Fault::KillMember(0),
        Fault::IsolateMember(1),
        Fault::PauseMember(2),
        Fault::CutServer(0),
        Fault::PauseServer(1),
    ];
    survive(&faults.map(|fault| (fault, time)));
}

/// `HYPERNETES_FAULTS` of them, by `HYPERNETES_FAULT_SEED`.
#[test]
#[ignore = "takes long: scripts/test-long.sh"]
fn servers_agree_for_a_long_time() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let mut random = SmallRng::seed_from_u64(number("HYPERNETES_FAULT_SEED", 1));
    let faults: Vec<_> = (0..number("HYPERNETES_FAULTS", 60))
        .map(|_| {
            let (member, server) = (random.random_range(0..MEMBERS), random.random_range(0..SERVERS));
            let faults = [
                Fault::KillMember(member),
                Fault::PauseMember(member),
                Fault::IsolateMember(member),
                Fault::CutServer(server),
                Fault::PauseServer(server),
            ];
            (*faults.choose(&mut random).unwrap(), Duration::from_millis(random.random_range(50..6000)))
        })
        .collect();
    survive(&faults);
}

/// By hand, and so small that one sees it.
#[test]
fn histories_that_cannot_have_been_are_refused() {
    let operation = |did: Did, began, ended| Operation { key: "a".into(), did, began, ended };
    let write = |from, to| Did::Write { from, to, outcome: Outcome::Done };
    let good = [
        operation(write(None, Some(1)), 0, 10),
        operation(Did::Read(None), 5, 6),
        operation(Did::Write { from: Some(1), to: Some(2), outcome: Outcome::Unknown }, 20, 30),
        operation(Did::Read(Some(1)), 31, 32),
        operation(Did::Read(Some(2)), 33, 34),
        operation(Did::Write { from: Some(1), to: None, outcome: Outcome::Refused }, 35, 36),
    ];
    check(&good).unwrap();
    let with = |did: Did| check(&[&good[..], &[operation(did, 40, 41)]].concat());
    with(Did::Read(Some(2))).unwrap();
    // Stale, never written, lost, and done although it could not be.
    for wrong in [Did::Read(Some(1)), Did::Read(Some(3)), Did::Read(None), write(Some(1), Some(4))] {
        with(wrong.clone()).expect_err(&format!("{wrong:?}"));
    }
}
