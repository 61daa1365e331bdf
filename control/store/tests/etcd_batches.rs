//! Transactions that wait together and become one of etcd's: each is told what became of itself, has a revision of its own that
//! every server knows, and none harms another.

mod common;

use std::{collections::BTreeSet, path::Path};

use bytes::Bytes;
use common::frames::{CountedFrames, RESET};
use hypernetes_api::TenantId;
use hypernetes_store::{
    Guard, Key, Op, Options, Prefix, RangeOptions, ResourceId, Revision, Store, Txn, TxnError, log::etcd::Config,
};

fn configmaps() -> ResourceId {
    ResourceId::new("", "configmaps")
}

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn key(name: &str) -> Key {
    Key::new(&configmaps(), &acme(), "default", name).unwrap()
}

fn all() -> Prefix {
    Prefix::tenant(&configmaps(), &acme(), None).unwrap()
}

fn put(name: &str, value: &str) -> Op {
    Op::Put(key(name), Bytes::copy_from_slice(value.as_bytes()))
}

fn txn(ops: Vec<Op>) -> Txn {
    Txn { guards: vec![], ops }
}

async fn open(config: &Config) -> Store {
    Store::etcd(config, Options::default()).await.unwrap()
}

/// All at once: what they are told, in the same order.
async fn commit_all(store: &Store, all: Vec<Txn>) -> Vec<Result<Revision, TxnError>> {
    futures::future::join_all(all.into_iter().map(|txn| store.commit(txn))).await
}

/// etcd's revision of one of the store's.
fn of_etcd(revision: Revision) -> u64 {
    revision.0 >> 8
}

/// What a watch from a revision tells of: so many changes.
async fn told(store: &Store, from: Revision, count: usize) -> Vec<(Revision, String, Option<Bytes>)> {
    let mut changes = store.watch(&all(), from).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..count {
        let change = changes.recv().await.unwrap().unwrap();
        told.push((change.revision, change.key.name().to_owned(), change.now.as_ref().map(|now| now.value.clone())));
    }
    told
}

#[tokio::test]
async fn each_has_a_revision_that_every_server_knows_and_a_watch_goes_on_after() {
    let (directory, none) = (tempfile::tempdir().unwrap(), Path::new(""));
    let (_process, url) = common::single(directory.path(), none);
    let config = common::config(vec![url], "/revisions/");
    let (one, other) = (open(&config).await, open(&config).await);
    let start = one.revision().await.unwrap();
    let creates = (0..40).map(|n| txn(vec![put(&format!("n{n:02}"), "1")])).collect();
    let mut committed: Vec<(Revision, usize)> = Vec::new();
    for (n, revision) in commit_all(&one, creates).await.into_iter().enumerate() {
        committed.push((revision.unwrap(), n));
    }
    // Half of them are deleted, two at a time, the others written over.
    let changes = (0..20).map(|n| match n % 2 {
        0 => txn(vec![Op::Delete(key(&format!("n{:02}", 2 * n))), Op::Delete(key(&format!("n{:02}", 2 * n + 1)))]),
        _ => txn(vec![put(&format!("n{:02}", 2 * n), "2"), put(&format!("n{:02}", 2 * n + 1), "2")]),
    });
    let mut twice = BTreeSet::new();
    for (n, revision) in commit_all(&one, changes.collect()).await.into_iter().enumerate() {
        twice.insert((revision.unwrap(), n));
    }
    let revisions: BTreeSet<Revision> = committed.iter().chain(&twice).map(|(revision, _)| *revision).collect();
    assert_eq!(revisions.len(), 60, "each has its own");
    let batches: BTreeSet<u64> = revisions.iter().copied().map(of_etcd).collect();
    assert!(batches.len() < 20, "they went together: {}", batches.len());

    // Who has followed, who follows anew, and who has read the past of etcd: all are told the same, in order.
    let third = open(&config).await;
    let history = told(&one, start, 80).await;
    assert!(history.is_sorted_by_key(|(revision, ..)| *revision));
    assert_eq!(history.iter().map(|(revision, ..)| *revision).collect::<BTreeSet<_>>(), revisions);
    for store in [&other, &third] {
        assert_eq!(told(store, start, 80).await, history);
    }
    for (revision, n) in &committed {
        let created = (*revision, format!("n{n:02}"), Some(Bytes::from_static(b"1")));
        assert!(history.contains(&created), "{created:?}");
    }
    // What has one revision is one transaction, and a watch goes on behind it, whoever is asked.
    for (revision, ..) in history.iter().step_by(7) {
        let rest: Vec<_> = history.iter().filter(|(later, ..)| later > revision).cloned().collect();
        for store in [&one, &other, &third] {
            assert_eq!(told(store, *revision, rest.len()).await, rest);
        }
    }
    let fourth = open(&config).await;
    for store in [&one, &other, &third, &fourth] {
        let listing = store.range(&all(), RangeOptions::default()).await.unwrap();
        assert_eq!(listing.entries.len(), 20);
        for entry in &listing.entries {
            let last = history.iter().rfind(|(_, name, _)| name == entry.key.name()).unwrap();
            assert_eq!((entry.mod_revision, Some(entry.value.clone())), (last.0, last.2.clone()));
        }
    }
    // What one server has shown another compares, once.
    let entry = fourth.get(&key("n03")).await.unwrap().unwrap();
    let guarded = || Txn { guards: vec![Guard::Unchanged(key("n03"), entry.mod_revision)], ops: vec![put("n03", "3")] };
    let current = Some(one.commit(guarded()).await.unwrap());
    let late = other.commit(guarded()).await;
    assert!(matches!(&late, Err(TxnError::Conflict { current: now, .. }) if *now == current), "{late:?}");
}

#[tokio::test]
async fn of_those_that_are_in_conflict_one_is_done_and_their_neighbours_all() {
    let store = open(&common::config(vec![common::shared()], "/conflicts/")).await;
    let create = |name: &str, value: &str| Txn { guards: vec![Guard::Absent(key(name))], ops: vec![put(name, value)] };
    // Three attempts at each of some, between others.
    let attempts: Vec<(String, bool)> = (0..90)
        .map(|n| if n % 3 == 0 { (format!("same{}", n / 3 % 10), true) } else { (format!("n{n}"), false) })
        .collect();
    let all = attempts.iter().enumerate().map(|(n, (name, _))| create(name, &n.to_string())).collect();
    let outcomes = commit_all(&store, all).await;
    let mut done = BTreeSet::new();
    for (n, ((name, contended), outcome)) in attempts.iter().zip(outcomes).enumerate() {
        let entry = store.get(&key(name)).await.unwrap().unwrap();
        match outcome {
            Ok(revision) => {
                assert_eq!((entry.mod_revision, &*entry.value), (revision, n.to_string().as_bytes()));
                assert!(done.insert(name.clone()), "{name} was created twice");
            }
            Err(TxnError::Conflict { key: of, current }) => {
                assert!(*contended);
                assert_eq!((of, current), (key(name), Some(entry.mod_revision)));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(done.len(), 70);
    // What nothing guards is done by each, one after the other.
    let revisions = commit_all(&store, (0..20).map(|n| txn(vec![put("same0", &n.to_string())])).collect()).await;
    let revisions: BTreeSet<Revision> = revisions.into_iter().map(Result::unwrap).collect();
    assert_eq!(revisions.len(), 20);
    assert_eq!(store.get(&key("same0")).await.unwrap().unwrap().mod_revision, *revisions.last().unwrap());
}

/// What is fenced is done before the fence is lost, or not at all.
#[tokio::test]
async fn a_fence_that_is_lost_in_the_middle_lets_nothing_through_after() {
    let store = open(&common::config(vec![common::shared()], "/fences/")).await;
    for (round, place) in [0, 10, 20].into_iter().enumerate() {
        let held = store.commit(txn(vec![put("fence", "mine")])).await.unwrap();
        let mut all: Vec<Txn> = (0..20)
            .map(|n| Txn {
                guards: vec![Guard::Unchanged(key("fence"), held)],
                ops: vec![put(&format!("round{round}-{n}"), "1")],
            })
            .collect();
        let lost = Txn { guards: vec![Guard::Unchanged(key("fence"), held)], ops: vec![put("fence", "another's")] };
        all.insert(place, lost);
        let mut outcomes = commit_all(&store, all).await;
        let lost = outcomes.remove(place).unwrap();
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let found = store.get(&key(&format!("round{round}-{n}"))).await.unwrap();
            match outcome {
                Ok(revision) => {
                    assert!(revision < lost, "{revision} is not before {lost}");
                    assert_eq!(found.unwrap().mod_revision, revision);
                }
                Err(TxnError::Conflict { key: of, .. }) => assert_eq!((of, found), (key("fence"), None)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn what_etcd_refuses_harms_no_neighbour_and_its_narrower_limits_are_kept_to() {
    let (directory, client) = (tempfile::tempdir().unwrap(), common::address());
    let (url, limit) = (format!("http://{client}"), ["--max-txn-ops=8"]);
    let _process = common::single_at(directory.path(), Path::new(""), client, &url, &limit);
    let store = open(&common::config(vec![url], "/narrow/")).await;
    let mut all: Vec<Txn> = (0..60).map(|n| txn(vec![put(&format!("n{n}"), "1")])).collect();
    all.insert(30, txn((0..20).map(|n| put(&format!("too-many{n}"), "1")).collect()));
    all.insert(31, txn(["one", "other"].map(|name| put(name, &"x".repeat(900 << 10))).into()));
    let mut outcomes = commit_all(&store, all).await;
    for refused in [outcomes.remove(31), outcomes.remove(30)] {
        assert!(matches!(refused, Err(TxnError::TooLarge(_))), "{refused:?}");
    }
    let first: BTreeSet<Revision> = outcomes.into_iter().map(Result::unwrap).collect();
    let again = commit_all(&store, (0..60).map(|n| txn(vec![put(&format!("n{n}"), "2")])).collect()).await;
    let again: BTreeSet<Revision> = again.into_iter().map(Result::unwrap).collect();
    assert_eq!((first.len(), again.len()), (60, 60));
    // What it takes has been found out.
    assert!(again.into_iter().map(of_etcd).collect::<BTreeSet<_>>().len() < 60);
}

/// Also not what used up its quota, which etcd may carry out and say that it has not.
#[tokio::test]
async fn of_an_etcd_that_is_full_what_was_refused_is_not_there() {
    let (directory, client) = (tempfile::tempdir().unwrap(), common::address());
    let (url, limit) = (format!("http://{client}"), ["--quota-backend-bytes=4194304"]);
    let _process = common::single_at(directory.path(), Path::new(""), client, &url, &limit);
    let store = open(&common::config(vec![url], "/full/")).await;
    let text = "x".repeat(40 << 10);
    let (mut done, mut refused) = (0, 0);
    for round in 0.. {
        let names: Vec<String> = (0..16).map(|n| format!("round{round}-{n}")).collect();
        let outcomes = commit_all(&store, names.iter().map(|name| txn(vec![put(name, &text)])).collect()).await;
        for (name, outcome) in names.iter().zip(outcomes) {
            let found = store.get(&key(name)).await.unwrap().map(|entry| entry.mod_revision);
            match outcome {
                Ok(revision) => assert_eq!((found, { done += 1 }), (Some(revision), ())),
                Err(TxnError::NoSpace(_)) => assert_eq!((found, { refused += 1 }), (None, ()), "{name}"),
                Err(error) => panic!("{error}"),
            }
        }
        if refused > 16 {
            break;
        }
    }
    assert!(done > 16);
}

/// HTTP/2 takes a thousand answers for requests that were given up, and then ends the connection.
#[tokio::test]
async fn what_went_out_is_carried_to_its_answer_whoever_waits_for_it() {
    let frames = CountedFrames::before(&common::shared()).await;
    let store = open(&common::config(vec![frames.url()], "/given-up/")).await;
    for round in 0..20 {
        frames.hold_answers(true);
        let name = format!("n{round}");
        let mut committing = Box::pin(store.commit(txn(vec![put(&name, "1")])));
        // Until the request has gone out, of which nothing comes back.
        tokio::select! {
            _ = &mut committing => panic!("it was answered"),
            () = frames.sent_data() => {}
        }
        drop(committing);
        frames.hold_answers(false);
        let entry = loop {
            if let Some(entry) = store.get(&key(&name)).await.unwrap() {
                break entry;
            }
            assert_eq!(frames.of_type(RESET), 0);
        };
        assert_eq!(&*entry.value, b"1");
    }
    // What has been seen in the watch before it was answered is not given up either.
    commit_all(&store, (0..200).map(|n| txn(vec![put(&format!("n{n}"), "2")])).collect()).await;
    store.health().await.unwrap();
    assert_eq!(frames.of_type(RESET), 0);
}
