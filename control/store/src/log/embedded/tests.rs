//! Disks that fail, machines that lose power, processes that are killed, bits that change; and what the store makes of it.

mod rotation;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hypernetes_api::TenantId;
use parking_lot::Mutex;
use proptest::prelude::*;
use redb::TableDefinition;

use super::{
    Embedded, OpenError, Unopened,
    medium::{Blob, Disk, Medium},
};
use crate::Encryption;
use crate::{Key, Op, Options, Prefix, RangeOptions, ResourceId, Store, Txn, TxnError, mvcc::Cache};

fn open_with(path: &Path, options: Options, medium: Arc<dyn Medium>) -> Result<Store, OpenError> {
    let cache = Arc::new(Cache::new(options));
    let log = Embedded::open_with(path, cache.clone(), medium)?;
    Ok(Store::of(cache, Box::new(log)))
}

fn key(name: &str) -> Key {
    Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", name).unwrap()
}

fn put(name: &str, value: &[u8]) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Put(key(name), Bytes::copy_from_slice(value))] }
}

fn delete(name: &str) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Delete(key(name))] }
}

async fn content(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let prefix = Prefix::tenant(&ResourceId::new("", "configmaps"), &TenantId::system(), None).unwrap();
    let listing = store.range(&prefix, RangeOptions::default()).await.unwrap();
    listing.entries.iter().map(|entry| (entry.key.name().to_owned(), entry.value.to_vec())).collect()
}

/// Segments of 4 KiB: a few dozen changes go through all that happens to a log.
fn small() -> Options {
    Options { reserve_bytes: 4096, ..Options::default() }
}

/// What a machine's disk does on a loss of power to what was written since the last sync.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Kept,
    Dropped,
    /// Only the first half of its sectors are there.
    Torn,
}

#[derive(Default, Clone)]
struct Content {
    durable: Vec<u8>,
    /// As the process sees it.
    seen: Vec<u8>,
    /// Since the last sync.
    writes: Vec<(usize, Vec<u8>)>,
}

/// A machine's memory and disk: names are durable at once.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<BTreeMap<PathBuf, Content>>>);

struct OnMachine(Machine, PathBuf);

const SECTOR: usize = 512;

fn put_at(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl Machine {
    fn lose_power(&self, fates: &[Fate]) {
        let mut fates = fates.iter().cycle();
        for content in self.0.lock().values_mut() {
            for (at, data) in std::mem::take(&mut content.writes) {
                match fates.next().unwrap() {
                    Fate::Kept => put_at(&mut content.durable, at, &data),
                    Fate::Dropped => {}
                    Fate::Torn => {
                        let half = (data.len() / 2).next_multiple_of(SECTOR).min(data.len());
                        put_at(&mut content.durable, at, &data[..half]);
                    }
                }
            }
            // A file is as long as it was made, whatever is in it.
            let length = content.seen.len().max(content.durable.len());
            content.durable.resize(length, 0);
            content.seen = content.durable.clone();
        }
    }
}

impl Medium for Machine {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn Blob>> {
        let mut files = self.0.lock();
        if create {
            files.entry(path.to_owned()).or_default();
        }
        // What is read is durable: a process that was killed may have left what it had not made so.
        let content = files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
        content.writes.clear();
        content.durable = content.seen.clone();
        Ok(Box::new(OnMachine(self.clone(), path.to_owned())))
    }

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = self.0.lock();
        let within = files.keys().filter(|path| path.parent() == Some(directory));
        Ok(within.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl OnMachine {
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> T {
        // One that was removed is written to no longer.
        work(self.0.0.lock().get_mut(&self.1).unwrap_or(&mut Content::default()))
    }
}

impl Blob for OnMachine {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|content| content.seen.len() as u64))
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|content| {
            let found = content.seen.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.with(|content| {
            put_at(&mut content.seen, offset as usize, data);
            content.writes.push((offset as usize, data.to_vec()));
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|content| {
            content.writes.clear();
            content.durable = content.seen.clone();
        });
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|content| content.seen.resize(content.seen.len().max(len as usize), 0));
        Ok(())
    }
}

/// Does so many things, and then no more: as a process that was killed. Or fails for good, or as long as it is told to.
struct Mortal<M> {
    medium: M,
    left: Arc<AtomicUsize>,
    fails: Arc<Fails>,
}

#[derive(Default)]
struct Fails {
    sync: AtomicBool,
    write: AtomicBool,
}

struct MortalBlob(Box<dyn Blob>, Arc<AtomicUsize>, Arc<Fails>);

fn lives(left: &AtomicUsize) -> io::Result<()> {
    let less = |left: usize| left.checked_sub(1);
    let lives = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    lives.map(drop).map_err(|_| nix::errno::Errno::EIO.into())
}

fn broken(flag: &AtomicBool) -> io::Result<()> {
    if flag.load(Ordering::SeqCst) { Err(nix::errno::Errno::EIO.into()) } else { Ok(()) }
}

impl<M: Medium> Medium for Mortal<M> {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn Blob>> {
        Ok(Box::new(MortalBlob(self.medium.open(path, create)?, self.left.clone(), self.fails.clone())))
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.medium.make_directory(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.medium.names(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        lives(&self.left)?;
        self.medium.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lives(&self.left)?;
        self.medium.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.medium.sync_directory(path)
    }
}

impl Blob for MortalBlob {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        broken(&self.2.write)?;
        lives(&self.1)?;
        self.0.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        broken(&self.2.sync)?;
        lives(&self.1)?;
        self.0.sync()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        lives(&self.1)?;
        self.0.allocate(len)
    }
}

/// A failed sync or write may be in the log or not: it is neither shown nor acknowledged, and nothing is built on it.
#[tokio::test]
async fn after_a_failure_in_doubt_the_store_ends() {
    for which in ["sync", "write"] {
        let (machine, path) = (Machine::default(), PathBuf::from("/store"));
        let fails = Arc::new(Fails::default());
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let mortal = Mortal { medium: machine.clone(), left, fails: fails.clone() };
        let store = open_with(&path, small(), Arc::new(mortal)).unwrap();
        let ended = store.ended();
        let good = store.commit(put("good", b"1")).await.unwrap();
        store.health().await.unwrap();

        let flag = if which == "sync" { &fails.sync } else { &fails.write };
        flag.store(true, Ordering::SeqCst);
        assert!(matches!(store.commit(put("doubtful", b"2")).await, Err(TxnError::Unknown(_))), "{which}");
        assert_eq!(store.revision().await.unwrap(), good, "what is in doubt is not seen");
        assert!(ended.await.contains("os error 5"), "{which}");
        // The disk is well again, but this process does not know what is on it.
        flag.store(false, Ordering::SeqCst);
        assert!(matches!(store.commit(put("later", b"3")).await, Err(TxnError::Unknown(_))));
        store.health().await.unwrap_err();
        drop(store);

        // The next one does, also after the power has failed.
        machine.lose_power(&[if which == "sync" { Fate::Dropped } else { Fate::Kept }]);
        let store = open_with(&path, small(), Arc::new(machine)).unwrap();
        let after = store.revision().await.unwrap();
        assert!(after >= good && content(&store).await.contains_key("good"));
        assert!(store.commit(put("after", b"4")).await.unwrap() > after);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    /// The process is killed after so many more things that it does to files, and then the power fails.
    LosePower(usize, Vec<Fate>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![Just(Fate::Kept), Just(Fate::Dropped), Just(Fate::Torn)];
    let step = prop_oneof![
        12 => (0..9u8, 0..900u16).prop_map(|(k, size)| Step::Put(k, size)),
        4 => (0..9u8).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
        2 => (0..12usize, proptest::collection::vec(fate, 1..5)).prop_map(|(n, fates)| Step::LosePower(n, fates)),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whenever the power fails, and whatever the disk makes of what was not durable: nothing that was acknowledged is lost, what
    /// was not is there as a whole or not at all, and versions never go back.
    #[test]
    fn no_loss_of_power_loses_what_was_acknowledged(steps in steps(), sealed in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (machine, path) = (Machine::default(), PathBuf::from("/store"));
        let options = || Options {
            encryption: if sealed { Encryption::test(&[1]) } else { Encryption::none() },
            ..small()
        };
        let open = |machine: &Machine, left: &Arc<AtomicUsize>| {
            let mortal = Mortal { medium: machine.clone(), left: left.clone(), fails: Arc::default() };
            open_with(&path, options(), Arc::new(mortal)).unwrap()
        };
        let mut left = Arc::new(AtomicUsize::new(usize::MAX));
        let mut store = open(&machine, &left);
        // What each key may hold: one value, but for what is in doubt.
        let mut model = BTreeMap::<String, Vec<Option<Vec<u8>>>>::new();
        runtime.block_on(async {
            let mut last = store.revision().await.unwrap();
            for (index, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put(k, size) => {
                        let (name, value) = (format!("k{k}"), vec![index as u8; size as usize]);
                        match store.commit(put(&name, &value)).await {
                            Ok(_) => drop(model.insert(name, vec![Some(value)])),
                            Err(_) => model.entry(name).or_insert_with(|| vec![None]).push(Some(value)),
                        }
                    }
                    Step::Delete(k) => {
                        let name = format!("k{k}");
                        match store.commit(delete(&name)).await {
                            Ok(_) => drop(model.insert(name, vec![None])),
                            Err(_) => model.entry(name).or_insert_with(|| vec![None]).push(None),
                        }
                    }
                    Step::LosePower(more, fates) => {
                        left.store(more, Ordering::SeqCst);
                        let name = format!("k{}", index % 9);
                        match store.commit(put(&name, b"before the end")).await {
                            Ok(_) => drop(model.insert(name, vec![Some(b"before the end".to_vec())])),
                            Err(_) => model.entry(name).or_insert_with(|| vec![None]).push(Some(b"before the end".to_vec())),
                        }
                        left.store(0, Ordering::SeqCst);
                        drop(store);
                        machine.lose_power(&fates);
                        left = Arc::new(AtomicUsize::new(usize::MAX));
                        store = open(&machine, &left);
                    }
                    Step::Reopen => {
                        drop(store);
                        store = open(&machine, &left);
                    }
                }
                let revision = store.revision().await.unwrap();
                assert!(revision >= last, "{revision} after {last}");
                last = revision;
                let found = content(&store).await;
                for (name, may) in &mut model {
                    let value = found.get(name).cloned();
                    assert!(may.contains(&value), "{name}: {:?}", value.map(|value| value.len()));
                    // After an opening there is no doubt any more; before, what is seen is what was acknowledged.
                    if store.health().await.is_ok() {
                        *may = vec![value];
                    }
                }
                assert!(found.keys().all(|name| model.contains_key(name)));
            }
        });
    }

    /// One changed bit of anything that was acknowledged and followed by something else: it is refused, or it was in nothing that is
    /// of use any more. Nothing else is served as if it were true.
    #[test]
    fn no_changed_bit_is_served(at in any::<prop::sample::Index>(), file in any::<prop::sample::Index>(), bit in 0..8u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (machine, path) = (Machine::default(), PathBuf::from("/store"));
        runtime.block_on(async {
            let store = open_with(&path, small(), Arc::new(machine.clone())).unwrap();
            for index in 0..60u8 {
                store.commit(put(&format!("k{}", index % 20), &[index; 150])).await.unwrap();
            }
            let expected = content(&store).await;
            drop(store);
            {
                let mut files = machine.0.lock();
                let names: Vec<_> = files.keys().filter(|path| path.extension().is_none()).cloned().collect();
                let content = files.get_mut(&names[file.index(names.len())]).unwrap();
                let used = content.seen.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
                content.seen[at.index(used)] ^= 1 << bit;
            }
            match open_with(&path, small(), Arc::new(machine.clone())) {
                Ok(store) => assert_eq!(content(&store).await, expected),
                Err(error) => {
                    assert!(matches!(error.why, Unopened::Damaged { .. } | Unopened::Older { .. }), "{error}");
                }
            }
        });
    }
}

/// The last frame of a log may be torn. One that others follow was whole.
#[tokio::test]
async fn what_was_acknowledged_and_is_not_whole_any_more_is_no_torn_frame() {
    let (machine, path) = (Machine::default(), PathBuf::from("/store"));
    let options = || Options { reserve_bytes: 64 << 10, ..Options::default() };
    let store = open_with(&path, options(), Arc::new(machine.clone())).unwrap();
    for name in ["a", "b", "c"] {
        store.commit(put(name, b"value")).await.unwrap();
    }
    // The process was killed.
    let killed = machine.0.lock().clone();
    drop(store);
    let log = PathBuf::from("/store/log-0");
    let ends: Vec<usize> =
        killed[&log].seen.windows(5).enumerate().filter(|(_, w)| w == b"value").map(|(at, _)| at).collect();
    for (index, at) in ends.into_iter().enumerate() {
        *machine.0.lock() = killed.clone();
        machine.0.lock().get_mut(&log).unwrap().seen[at] ^= 1;
        let opened = open_with(&path, options(), Arc::new(machine.clone()));
        match (index, opened) {
            (2, Ok(store)) => assert_eq!(content(&store).await.len(), 2),
            (0 | 1, Err(error)) => assert!(matches!(error.why, Unopened::Damaged { .. }), "{error}"),
            (_, opened) => panic!("{index}: {:?}", opened.err()),
        }
    }
}

#[tokio::test]
async fn an_older_copy_is_not_taken_for_the_store_and_a_missing_piece_is_missed() {
    let (machine, path) = (Machine::default(), PathBuf::from("/store"));
    let store = open_with(&path, small(), Arc::new(machine.clone())).unwrap();
    store.commit(put("a", b"1")).await.unwrap();
    drop(store);
    let copy = machine.0.lock().clone();
    let store = open_with(&path, small(), Arc::new(machine.clone())).unwrap();
    for index in 0..40u8 {
        store.commit(put(&format!("k{index}"), &[index; 200])).await.unwrap();
    }
    let expected = content(&store).await;
    drop(store);
    let now = machine.0.lock().clone();

    // The copy in its place, but for what is remembered beside it.
    *machine.0.lock() = copy;
    let seen = PathBuf::from("/store.seen");
    machine.0.lock().insert(seen.clone(), now[&seen].clone());
    let error = open_with(&path, small(), Arc::new(machine.clone())).err().unwrap();
    assert!(matches!(error.why, Unopened::Older { .. }), "{error}");
    assert!(error.to_string().contains("remove /store.seen"), "{error}");
    machine.remove(&seen).unwrap();
    let store = open_with(&path, small(), Arc::new(machine.clone())).unwrap();
    assert_eq!(content(&store).await.len(), 1);
    drop(store);

    for lost in now.keys().filter(|path| path.parent() == Some(Path::new("/store"))) {
        *machine.0.lock() = now.clone();
        machine.remove(lost).unwrap();
        match open_with(&path, small(), Arc::new(machine.clone())) {
            Ok(store) => assert_eq!(content(&store).await, expected, "{} is of no use", lost.display()),
            Err(error) => assert!(matches!(error.why, Unopened::Damaged { .. } | Unopened::Older { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn keys_are_changed_by_a_checkpoint_and_what_is_sealed_stays_so_without_them() {
    let (machine, path) = (Machine::default(), PathBuf::from("/store"));
    let open = |ids: &[u32]| {
        let options = Options { encryption: Encryption::test(ids), ..small() };
        open_with(&path, options, Arc::new(machine.clone()))
    };
    let store = open(&[1]).unwrap();
    store.commit(put("a", b"a secret of a tenant")).await.unwrap();
    drop(store);
    let text = |machine: &Machine| machine.0.lock().values().flat_map(|c| c.seen.clone()).collect::<Vec<u8>>();
    assert!(!text(&machine).windows(8).any(|window| window == b"a secret"));
    for without in [&[][..], &[2]] {
        let error = open(without).err().unwrap();
        assert!(matches!(error.why, Unopened::Sealed { key: 1 }), "{error}");
    }
    // With another key before it everything is sealed anew, by opening it alone.
    let store = open(&[2, 1]).unwrap();
    let expected = content(&store).await;
    drop(store);
    let store = open(&[2]).unwrap();
    assert_eq!(content(&store).await, expected);
    // What was plain, likewise.
    drop(store);
    drop(open(&[]).err().unwrap());
    let plain = Machine::default();
    let open = |ids: &[u32]| {
        let options = Options { encryption: Encryption::test(ids), ..small() };
        open_with(&path, options, Arc::new(plain.clone())).unwrap()
    };
    open(&[]).commit(put("a", b"a secret of a tenant")).await.unwrap();
    drop(open(&[5]));
    assert_eq!(content(&open(&[5])).await, expected);
}

/// As e5e31f4 wrote it, whose process was killed: no magic, no format, not closed.
fn file_of_before(path: &Path, names: &[String]) {
    let making = path.with_extension("making");
    let database = redb::Database::create(&making).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut entries = txn.open_table(TableDefinition::<&str, &[u8]>::new("entries")).unwrap();
        for (index, name) in names.iter().enumerate() {
            let revision = (index as u64 + 1).to_be_bytes();
            let row = [&revision[..], &revision[..], name.as_bytes()].concat();
            let key = format!("//configmaps/system/default/{name}");
            entries.insert(key.as_str(), row.as_slice()).unwrap();
        }
        txn.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("revision", 40).unwrap();
    }
    txn.commit().unwrap();
    std::fs::copy(&making, path).unwrap();
}

/// Taking over what a version before wrote: at whichever step of that the process is killed, the next one finds everything, and
/// goes on.
#[tokio::test]
async fn whoever_is_killed_while_taking_over_loses_nothing() {
    let names: Vec<String> = (0..40).map(|index| format!("of-before-{index:02}")).collect();
    let (mut steps, mut killed_before) = (0, 0);
    loop {
        let directory = tempfile::tempdir().unwrap();
        let (path, before) = (directory.path().join("store"), directory.path().join("store.redb"));
        file_of_before(&before, &names);
        let left = Arc::new(AtomicUsize::new(steps));
        let mut acknowledged = names.clone();
        let opened =
            open_with(&path, small(), Arc::new(Mortal { medium: Disk, left: left.clone(), fails: Arc::default() }));
        let done = opened.is_ok();
        if let Ok(store) = opened {
            assert!(!before.exists());
            if store.commit(put("new", b"1")).await.is_ok() {
                acknowledged.push("new".into());
            }
        } else {
            killed_before += 1;
        }
        let store = open_with(&path, small(), Arc::new(Disk)).unwrap();
        acknowledged.sort();
        let found: Vec<String> = content(&store).await.into_keys().collect();
        assert!(acknowledged.iter().all(|name| found.contains(name)), "after {steps}: {found:?}");
        assert!(store.revision().await.unwrap().0 >= 40);
        steps += 1;
        if done && left.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    assert!(killed_before > 5, "{killed_before}");
}
