//! What every engine promises. A new engine adds one line to `engines`.

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hypernetes_api::{AllTenants, TenantId};
use hypernetes_store::{
    Exceeded, Guard, Key, MAX_VALUE_BYTES, METERED, Op, Options, Prefix, Quota, RangeOptions, ReadError, ResourceId,
    Revision, Store, Txn, TxnError, Usage, Values, WatchError, WatchLimits, log::etcd::Config,
};
use proptest::prelude::*;
use tempfile::TempDir;

struct Engine {
    store: Arc<Store>,
    _directory: Option<TempDir>,
}

async fn engines(options: Options) -> Vec<Engine> {
    let directory = tempfile::tempdir().unwrap();
    let embedded = Store::open(&directory.path().join("store"), options.clone()).unwrap();
    let etcd = Store::etcd(&config(), options).await.unwrap();
    let engine = |store, directory| Engine { store: Arc::new(store), _directory: directory };
    vec![engine(embedded, Some(directory)), engine(etcd, None)]
}

/// A place of its own in the etcd that all these tests share.
fn config() -> Config {
    static PLACES: AtomicUsize = AtomicUsize::new(0);
    let place = PLACES.fetch_add(1, Ordering::Relaxed);
    common::config(vec![common::shared()], &format!("/contract-{place}/"))
}

fn pods() -> ResourceId {
    ResourceId::new("", "pods")
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn key(t: &str, name: &str) -> Key {
    Key::new(&pods(), &tenant(t), "default", name).unwrap()
}

fn put(key: Key, value: &str) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Put(key, Bytes::copy_from_slice(value.as_bytes()))] }
}

#[tokio::test]
async fn transactions_are_guarded_and_counted() {
    for Engine { store, .. } in engines(Options::default()).await {
        let a = key("acme", "a");
        let create = Txn { guards: vec![Guard::Absent(a.clone())], ops: put(a.clone(), "1").ops };
        let first = store.commit(create.clone()).await.unwrap();
        let Err(TxnError::Conflict { current, .. }) = store.commit(create).await else { panic!("created twice") };
        assert_eq!(current, Some(first));

        let update = Txn { guards: vec![Guard::Unchanged(a.clone(), first)], ops: put(a.clone(), "2").ops };
        let second = store.commit(update.clone()).await.unwrap();
        assert!(second > first);
        assert!(matches!(store.commit(update).await, Err(TxnError::Conflict { .. })));
        let entry = store.get(&a).await.unwrap().unwrap();
        assert_eq!((entry.create_revision, entry.mod_revision, &*entry.value), (first, second, &b"2"[..]));

        // A transaction whose guard fails does none of its ops.
        let b = key("acme", "b");
        let half = Txn { guards: vec![Guard::Absent(a.clone())], ops: put(b.clone(), "x").ops };
        assert!(store.commit(half).await.is_err());
        assert_eq!(store.get(&b).await.unwrap(), None);

        // Deleting what is absent is no change.
        let before = store.revision().await.unwrap();
        let none = store.commit(Txn { guards: vec![], ops: vec![Op::Delete(b)] }).await.unwrap();
        assert_eq!(none, before);
        let of_size = |size: usize| Txn { guards: vec![], ops: vec![Op::Put(a.clone(), vec![0; size].into())] };
        store.commit(of_size(MAX_VALUE_BYTES)).await.unwrap();
        assert!(matches!(store.commit(of_size(MAX_VALUE_BYTES + 1)).await, Err(TxnError::TooLarge(_))));
    }
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    for Engine { store, .. } in engines(Options::default()).await {
        for t in ["acme", "acme-2", "globex"] {
            store.commit(put(key(t, "same"), t)).await.unwrap();
        }
        let listing = store
            .range(&Prefix::tenant(&pods(), &tenant("acme"), None).unwrap(), RangeOptions::default())
            .await
            .unwrap();
        assert_eq!(listing.entries.iter().map(|e| e.key.tenant()).collect::<Vec<_>>(), ["acme"]);
        let all = Prefix::all_tenants(&pods(), &AllTenants::grant());
        assert_eq!(store.count(&all).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    for Engine { store, .. } in engines(Options::default()).await {
        for i in 0..10 {
            store.commit(put(key("acme", &format!("p{i}")), "old")).await.unwrap();
        }
        let prefix = Prefix::tenant(&pods(), &tenant("acme"), Some("default")).unwrap();
        let page = |after, revision| RangeOptions { after, limit: 4, revision };
        let first = store.range(&prefix, page(None, None)).await.unwrap();
        assert!(first.more && first.entries.len() == 4);
        store.commit(put(key("acme", "p9"), "new")).await.unwrap();
        store.commit(Txn { guards: vec![], ops: vec![Op::Delete(key("acme", "p5"))] }).await.unwrap();
        // What is after the page is counted as of the page, at once or in parts.
        let last = first.entries.last().map(|entry| &entry.key).unwrap();
        assert_eq!(store.count_after(&prefix, last, first.revision, 100).await.unwrap(), (6, None));
        let (some, after) = store.count_after(&prefix, last, first.revision, 4).await.unwrap();
        assert_eq!((some, after.as_ref().map(Key::name)), (4, Some("p7")));
        assert_eq!(store.count_after(&prefix, &after.unwrap(), first.revision, 4).await.unwrap(), (2, None));
        let now = store.revision().await.unwrap();
        assert_eq!(store.count_after(&prefix, last, now, 100).await.unwrap(), (5, None));
        let mut names = Vec::new();
        let mut listing = first.clone();
        loop {
            for entry in &listing.entries {
                assert_eq!(&*entry.value, b"old");
                names.push(entry.key.name().to_owned());
            }
            if !listing.more {
                break;
            }
            let last = listing.entries.last().map(|e| e.key.clone());
            listing = store.range(&prefix, page(last, Some(first.revision))).await.unwrap();
        }
        assert_eq!(names.len(), 10);
        store.compact(store.revision().await.unwrap()).await.unwrap();
        let compacted = store.range(&prefix, page(None, Some(first.revision))).await;
        assert!(matches!(compacted, Err(ReadError::Compacted { .. })));
    }
}

#[tokio::test]
async fn a_watch_sees_every_change_in_order() {
    for Engine { store, .. } in engines(Options::default()).await {
        let start = store.commit(put(key("acme", "a"), "0")).await.unwrap();
        store.commit(put(key("acme", "a"), "1")).await.unwrap();
        let mut changes = store.watch(&Prefix::tenant(&pods(), &tenant("acme"), None).unwrap(), start).await.unwrap();
        store.commit(put(key("globex", "a"), "not ours")).await.unwrap();
        store.commit(Txn { guards: vec![], ops: vec![Op::Delete(key("acme", "a"))] }).await.unwrap();
        let one = changes.recv().await.unwrap().unwrap();
        assert_eq!((&*one.now.as_ref().unwrap().value, &*one.before.as_ref().unwrap().value), (&b"1"[..], &b"0"[..]));
        let two = changes.recv().await.unwrap().unwrap();
        assert_eq!((two.now.is_none(), &*two.before.as_ref().unwrap().value), (true, &b"1"[..]));
        assert!(two.revision > one.revision);
        assert!(matches!(
            store.watch(&Prefix::tenant(&pods(), &tenant("acme"), None).unwrap(), Revision(1 << 40)).await,
            Err(ReadError::Future(_))
        ));
    }
}

#[tokio::test]
async fn a_slow_watcher_is_told_and_harms_nobody() {
    for Engine { store, .. } in
        engines(Options { tenant_watch: WatchLimits { bytes: 1200, tenant_bytes: 1 << 20 }, ..Options::default() })
            .await
    {
        let prefix = Prefix::tenant(&pods(), &tenant("acme"), None).unwrap();
        let mut slow = store.watch(&prefix, store.revision().await.unwrap()).await.unwrap();
        for i in 0..20 {
            store.commit(put(key("acme", &format!("p{i}")), "v")).await.unwrap();
        }
        let mut seen = 0;
        let end = loop {
            match slow.recv().await {
                Some(Ok(_)) => seen += 1,
                other => break other,
            }
        };
        assert_eq!(end, Some(Err(WatchError::Lagged)));
        assert!((4..20).contains(&seen));
    }
}

#[tokio::test]
async fn the_past_is_bounded() {
    for Engine { store, .. } in engines(Options { history_changes: 10, ..Options::default() }).await {
        let mut revisions = Vec::new();
        for i in 0..100 {
            revisions.push(store.commit(put(key("acme", "a"), &i.to_string())).await.unwrap());
        }
        let prefix = Prefix::tenant(&pods(), &tenant("acme"), None).unwrap();
        assert!(matches!(store.watch(&prefix, revisions[4]).await, Err(ReadError::Compacted { .. })));
        let mut recent = store.watch(&prefix, revisions[94]).await.unwrap();
        assert_eq!(recent.recv().await.unwrap().unwrap().revision, revisions[95]);
    }
}

#[tokio::test]
async fn a_flood_of_one_resource_leaves_the_past_of_the_others() {
    for Engine { store, .. } in engines(Options { history_bytes: 100 << 10, ..Options::default() }).await {
        let events = ResourceId::new("", "events");
        let of = |resource: &ResourceId| Prefix::tenant(resource, &tenant("acme"), None).unwrap();
        store.commit(put(key("acme", "old"), "0")).await.unwrap();
        let start = store.revision().await.unwrap();
        for i in 0..200 {
            let key = Key::new(&events, &tenant("acme"), "default", &format!("e{i}")).unwrap();
            store.commit(put(key, &"x".repeat(1000))).await.unwrap();
        }
        store.commit(put(key("acme", "new"), "1")).await.unwrap();
        assert!(matches!(store.watch(&of(&events), start).await, Err(ReadError::Compacted { .. })));
        let mut pods = store.watch(&of(&pods()), start).await.unwrap();
        assert_eq!(pods.recv().await.unwrap().unwrap().key.name(), "new");
        // Whoever is told of everything has missed something.
        let everything = Prefix::everything(&AllTenants::grant());
        assert!(matches!(store.watch(&everything, start).await, Err(ReadError::Compacted { .. })));
    }
}

#[tokio::test]
async fn what_is_told_is_no_more_than_what_watches_have() {
    for Engine { store, .. } in engines(Options::default()).await {
        let prefix = Prefix::tenant(&pods(), &tenant("acme"), None).unwrap();
        let mut changes = store.watch(&prefix, store.revision().await.unwrap()).await.unwrap();
        let writer = {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..300 {
                    store.commit(put(key("acme", &format!("p{i}")), "v")).await.unwrap();
                }
            })
        };
        let mut seen = store.revision().await.unwrap();
        while !writer.is_finished() || store.told() > seen {
            let told = store.told();
            while let Some(change) = changes.try_recv().unwrap() {
                seen = change.revision;
            }
            assert!(seen >= told, "told of {told}, and has no more than {seen}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_told_first_can_wait_for_the_others() {
    for Engine { store, .. } in engines(Options::default()).await {
        let prefix = Prefix::tenant(&pods(), &tenant("acme"), None).unwrap();
        let from = store.revision().await.unwrap();
        let mut first = store.watch(&prefix, from).await.unwrap();
        // They are told one after the other.
        let mut others = Vec::new();
        for _ in 0..20_000 {
            others.push(store.watch(&prefix, from).await.unwrap());
        }
        let writer = store.clone();
        tokio::spawn(async move { writer.commit(put(key("acme", "a"), "v")).await.unwrap() });
        let change = first.recv().await.unwrap().unwrap();
        store.all_told(change.revision).await;
        let told = others.iter_mut().map(|watch| watch.try_recv().unwrap()).filter(Option::is_some).count();
        assert_eq!(told, others.len());
    }
}

#[tokio::test]
async fn nobody_pushes_out_the_past_of_another() {
    let options = Options { history_bytes: 1 << 20, history_total_bytes: 2 << 20, ..Options::default() };
    for Engine { store, .. } in engines(options).await {
        let prefix = |t: &str| Prefix::tenant(&pods(), &tenant(t), None).unwrap();
        let start = store.commit(put(key("acme", "a"), "0")).await.unwrap();
        store.commit(put(key("acme", "a"), "1")).await.unwrap();
        let large = "x".repeat(1 << 20);
        for noisy in ["globex", "initech", "umbrella"] {
            for i in 0..3 {
                store.commit(put(key(noisy, &format!("p{i}")), &large)).await.unwrap();
                // What is deleted weighs what it did.
                store
                    .commit(Txn { guards: vec![], ops: vec![Op::Delete(key(noisy, &format!("p{i}")))] })
                    .await
                    .unwrap();
            }
            let theirs = store.watch(&prefix(noisy), start).await;
            assert!(matches!(theirs, Err(ReadError::Compacted { .. })), "{noisy}");
        }
        let mut ours = store.watch(&prefix("acme"), start).await.unwrap();
        assert_eq!(&*ours.recv().await.unwrap().unwrap().now.as_ref().unwrap().value, b"1");
        let at = RangeOptions { revision: Some(start), ..RangeOptions::default() };
        let before = store.range(&prefix("acme"), at.clone()).await.unwrap();
        assert_eq!(&*before.entries[0].value, b"0");
        // Whoever looks at all of them has to start anew.
        let all = Prefix::all_tenants(&pods(), &AllTenants::grant());
        assert!(matches!(store.watch(&all, start).await, Err(ReadError::Compacted { .. })));
        assert!(matches!(store.range(&all, at).await, Err(ReadError::Compacted { .. })));
    }
}

#[tokio::test]
async fn what_waits_for_watchers_is_bounded_in_bytes_for_each_and_for_their_tenant() {
    let limits = WatchLimits { bytes: 300 << 10, tenant_bytes: 500 << 10 };
    for Engine { store, .. } in engines(Options { tenant_watch: limits, ..Options::default() }).await {
        let watch = async |t: &str| {
            let revision = store.revision().await.unwrap();
            store.watch(&Prefix::tenant(&pods(), &tenant(t), None).unwrap(), revision).await.unwrap()
        };
        let text = "x".repeat(90 << 10);
        let (mut first, mut second, mut other) = (watch("acme").await, watch("acme").await, watch("globex").await);
        for i in 0..4 {
            store.commit(put(key("acme", &format!("p{i}")), &text)).await.unwrap();
            store.commit(put(key("globex", &format!("p{i}")), "small")).await.unwrap();
        }
        let read = async |changes: &mut hypernetes_store::Changes| {
            let mut seen = 0;
            while let Some(change) = changes.recv().await {
                match change {
                    Ok(_) => seen += 1,
                    Err(error) => return (seen, error),
                }
            }
            panic!("a watch ended without a word");
        };
        // Three fit into one's limit, five into both's.
        assert_eq!(read(&mut first).await, (3, WatchError::Lagged));
        assert_eq!(read(&mut second).await, (2, WatchError::Lagged));
        for _ in 0..4 {
            other.recv().await.unwrap().unwrap();
        }
        // What was read, or given up, makes room.
        drop(watch("acme").await);
        let mut again = watch("acme").await;
        store.commit(put(key("acme", "p9"), &text)).await.unwrap();
        again.recv().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_tenant_keeps_no_more_than_its_quota() {
    for Engine { store, .. } in engines(Options::default()).await {
        let create = |t: &str, name: &str, size: usize| put(key(t, name), &"x".repeat(size));
        let delete = |name: &str| Txn { guards: vec![], ops: vec![Op::Delete(key("acme", name))] };
        store.quotas().set_default(Quota { objects: 3, bytes: 10_000, metered: [u64::MAX; METERED] });
        for name in ["a", "b", "c"] {
            store.commit(create("acme", name, 2000)).await.unwrap();
        }
        // Many at once are no way past it.
        let attempts = (0..8).map(|i| store.commit(create("acme", &format!("d{i}"), 10)));
        for attempt in futures::future::join_all(attempts).await {
            let exceeded = matches!(attempt, Err(TxnError::Quota { what: Exceeded::Objects, used: 3, limit: 3 }));
            assert!(exceeded, "{attempt:?}");
        }
        let error = store.commit(create("acme", "a", 6500)).await.unwrap_err();
        assert!(matches!(error, TxnError::Quota { what: Exceeded::Bytes, .. }), "{error}");
        // Others go on, and so does the tenant with less.
        store.commit(create("globex", "a", 2000)).await.unwrap();
        store.commit(create("acme", "a", 1000)).await.unwrap();
        store.commit(delete("b")).await.unwrap();
        store.commit(create("acme", "d", 10)).await.unwrap();
        // A quota that shrinks below what is there stops growth, not deletion, nor the little that begins one.
        store.quotas().set(&tenant("acme"), Some(Quota { objects: 1, bytes: 3100, metered: [u64::MAX; METERED] }));
        store.commit(create("acme", "a", 1100)).await.unwrap();
        store.commit(create("acme", "a", 2200)).await.unwrap_err();
        store.commit(delete("a")).await.unwrap();
        store.commit(create("acme", "e", 1)).await.unwrap_err();
        store.commit(delete("c")).await.unwrap();
        store.commit(delete("d")).await.unwrap();
        assert_eq!(store.usage(&tenant("acme")), Usage::default());
        store.quotas().set(&tenant("acme"), None);
        for name in ["a", "b", "c"] {
            store.commit(create("acme", name, 1)).await.unwrap();
        }
        // The operator's own has none.
        for i in 0..10 {
            store.commit(create("system", &format!("s{i}"), 2000)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_the_meter_counts_has_a_quota() {
    let meter = |_: &Key, value: &[u8]| [value.len() as u64, 0, 1, 0];
    let values = Values { meter, ..Values::default() };
    for Engine { store, .. } in engines(Options { values, ..Options::default() }).await {
        let write = |name: &str, size: usize| put(key("acme", name), &"x".repeat(size));
        let mut quota = Quota { objects: 100, bytes: 1 << 20, metered: [u64::MAX; METERED] };
        (quota.metered[0], quota.metered[2]) = (100, 3);
        store.quotas().set_default(quota);
        store.commit(write("a", 60)).await.unwrap();
        let error = store.commit(write("b", 50)).await.unwrap_err();
        assert!(matches!(error, TxnError::Quota { what: Exceeded::Metered(0), used: 60, limit: 100 }), "{error}");
        store.commit(write("a", 40)).await.unwrap();
        store.commit(write("b", 50)).await.unwrap();
        store.commit(write("c", 1)).await.unwrap();
        let error = store.commit(write("d", 1)).await.unwrap_err();
        assert!(matches!(error, TxnError::Quota { what: Exceeded::Metered(2), used: 3, limit: 3 }), "{error}");
        assert_eq!(store.usage(&tenant("acme")).metered, [91, 0, 3, 0]);
        // What takes less is never refused.
        store.quotas().set(&tenant("acme"), Some(Quota { metered: [0; METERED], ..quota }));
        store.commit(write("b", 49)).await.unwrap();
        store.commit(write("b", 50)).await.unwrap_err();
        store.commit(Txn { guards: vec![], ops: vec![Op::Delete(key("acme", "a"))] }).await.unwrap();
        assert_eq!(store.usage(&tenant("acme")).metered, [50, 0, 2, 0]);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Create(u8, u8),
    Delete(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        2 => (0..6u8, any::<u8>()).prop_map(|(k, v)| Step::Create(k, v)),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is done, closed and opened again: the store holds what a map would.
    #[test]
    fn it_behaves_as_a_map(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        // Small enough for checkpoints now and then.
        let options = || Options { reserve_bytes: 4096, ..Options::default() };
        let mut store = Store::open(&path, options()).unwrap();
        let mut model = BTreeMap::<String, String>::new();
        runtime.block_on(async {
            let mut last = Revision(0);
            for step in steps {
                let name = |k: u8| format!("k{k}");
                match step {
                    Step::Put(k, v) => {
                        store.commit(put(key("acme", &name(k)), &v.to_string())).await.unwrap();
                        model.insert(name(k), v.to_string());
                    }
                    Step::Create(k, v) => {
                        let id = key("acme", &name(k));
                        let txn = Txn { guards: vec![Guard::Absent(id.clone())], ops: put(id, &v.to_string()).ops };
                        assert_eq!(store.commit(txn).await.is_ok(), !model.contains_key(&name(k)));
                        model.entry(name(k)).or_insert(v.to_string());
                    }
                    Step::Delete(k) => {
                        store.commit(Txn { guards: vec![], ops: vec![Op::Delete(key("acme", &name(k)))] }).await.unwrap();
                        model.remove(&name(k));
                    }
                    Step::Reopen => {
                        drop(store);
                        store = Store::open(&path, options()).unwrap();
                    }
                }
                let revision = store.revision().await.unwrap();
                assert!(revision >= last);
                last = revision;
                let listing = store
                    .range(&Prefix::tenant(&pods(), &tenant("acme"), None).unwrap(), RangeOptions::default())
                    .await
                    .unwrap();
                let found: BTreeMap<String, String> = listing
                    .entries
                    .iter()
                    .map(|e| (e.key.name().to_owned(), String::from_utf8(e.value.to_vec()).unwrap()))
                    .collect();
                assert_eq!(found, model);
                let bytes = listing.entries.iter().map(|e| (e.key.as_str().len() + e.value.len()) as u64).sum();
                let usage = Usage { objects: model.len() as u64, bytes, ..Usage::default() };
                assert_eq!(store.usage(&tenant("acme")), usage);
            }
        });
    }
}
