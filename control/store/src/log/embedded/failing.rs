//! Disks that fail, and what the store makes of it.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hypernetes_api::TenantId;
use redb::{BackendError, StorageBackend, TableDefinition};

use super::{Embedded, OpenError, OpenFile, medium};
use crate::{Key, Op, Options, Prefix, RangeOptions, ResourceId, Store, Txn, TxnError, mvcc::Cache};

fn open_with(path: &Path, options: Options, open: OpenFile) -> Result<Store, OpenError> {
    let cache = Arc::new(Cache::new(options));
    let log = Embedded::open_with(path, cache.clone(), open)?;
    Ok(Store::of(cache, Box::new(log)))
}

/// Lets everything through until it is told to fail.
#[derive(Debug)]
struct Failing {
    file: Box<dyn StorageBackend>,
    sync: Arc<AtomicBool>,
    write: Arc<AtomicBool>,
}

impl Failing {
    fn broken(flag: &AtomicBool) -> io::Result<()> {
        if flag.load(Ordering::SeqCst) { Err(nix::errno::Errno::EIO.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::broken(&self.sync)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::broken(&self.write)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: std::ops::Bound<u64>, end: std::ops::Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: std::ops::Bound<u64>, end: std::ops::Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

fn put(name: &str) -> Txn {
    let key = Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", name).unwrap();
    Txn { guards: vec![], ops: vec![Op::Put(key, Bytes::from(vec![7; 300]))] }
}

fn failing(path: &Path, sync: &Arc<AtomicBool>, write: &Arc<AtomicBool>) -> Store {
    let (sync, write) = (sync.clone(), write.clone());
    let open = move |path: &Path| {
        let file = medium::open_file(path)?;
        Ok(Box::new(Failing { file, sync: sync.clone(), write: write.clone() }) as Box<dyn StorageBackend>)
    };
    open_with(path, Options::default(), Box::new(open)).unwrap()
}

/// A failed sync or write may be in the file or not: it is neither shown nor acknowledged, and nothing is built on it.
#[tokio::test]
async fn after_a_failure_in_doubt_the_store_ends() {
    for which in ["sync", "write"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let (sync, write) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let store = failing(&path, &sync, &write);
        let ended = store.ended();
        let good = store.commit(put("good")).await.unwrap();
        store.health().unwrap();

        let flag = if which == "sync" { &sync } else { &write };
        flag.store(true, Ordering::SeqCst);
        assert!(matches!(store.commit(put("doubtful")).await, Err(TxnError::Unknown(_))), "{which}");
        assert_eq!(store.revision().await.unwrap(), good, "what is in doubt is not seen");
        assert!(ended.await.contains("os error 5"), "{which}");
        // The disk is well again, but this process does not know what is on it.
        flag.store(false, Ordering::SeqCst);
        assert!(matches!(store.commit(put("later")).await, Err(TxnError::Unknown(_))));
        store.health().unwrap_err();
        drop(store);

        // The next one does.
        let store = Store::open(&path, Options::default()).unwrap();
        let after = store.revision().await.unwrap();
        assert!(after >= good);
        assert!(store.commit(put("after")).await.unwrap() > after);
    }
}

/// Does so many things to the file, and then no more: as a process that was killed.
#[derive(Debug)]
struct Mortal {
    file: Box<dyn StorageBackend>,
    left: Arc<AtomicUsize>,
}

impl Mortal {
    fn lives(&self) -> io::Result<()> {
        let less = |left: usize| left.checked_sub(1);
        let lives = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        lives.map(drop).map_err(|_| nix::errno::Errno::EIO.into())
    }
}

impl StorageBackend for Mortal {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lives()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.lives()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.lives()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: std::ops::Bound<u64>, end: std::ops::Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: std::ops::Bound<u64>, end: std::ops::Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
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

/// What is in a file, read by a process that lives.
async fn content(path: &Path) -> Vec<String> {
    let store = Store::open(path, small()).unwrap();
    let prefix = Prefix::tenant(&ResourceId::new("", "configmaps"), &TenantId::system(), None).unwrap();
    let listing = store.range(&prefix, RangeOptions::default()).await.unwrap();
    listing.entries.iter().map(|entry| entry.key.name().to_owned()).collect()
}

fn small() -> Options {
    Options { reserve_bytes: 4096, ..Options::default() }
}

/// Opening a file of before, repairing it, and writing what it is and the first changes: at whichever step of that the
/// process is killed, the next one finds everything, and goes on.
#[tokio::test]
async fn whoever_is_killed_while_opening_a_file_of_before_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let names: Vec<String> = (0..40).map(|index| format!("of-before-{index:02}")).collect();
    let (mut steps, mut killed_after_opening) = (0, 0);
    loop {
        file_of_before(&path, &names);
        let left = Arc::new(AtomicUsize::new(steps));
        let life = left.clone();
        let open = move |path: &Path| {
            let file = medium::open_file(path)?;
            Ok(Box::new(Mortal { file, left: life.clone() }) as Box<dyn StorageBackend>)
        };
        let mut acknowledged = Vec::new();
        let opened = open_with(&path, small(), Box::new(open));
        let lived = opened.is_ok();
        if let Ok(store) = opened {
            for name in ["z-first", "z-second"] {
                match store.commit(put(name)).await {
                    Ok(revision) => {
                        assert!(revision.0 > 40, "{revision}");
                        acknowledged.push(name.to_owned());
                    }
                    Err(error) => assert!(matches!(error, TxnError::Unknown(_)), "{error}"),
                }
            }
        }
        let found = content(&path).await;
        assert_eq!(&found[..names.len()], names, "killed after {steps} steps");
        assert!(found[names.len()..].starts_with(&acknowledged), "killed after {steps} steps: {found:?}");
        if acknowledged.len() == 2 && left.load(Ordering::SeqCst) > 0 {
            break;
        }
        killed_after_opening += usize::from(lived);
        steps += 1;
        assert!(steps < 1000, "it never lives long enough");
    }
    assert!(steps > killed_after_opening && killed_after_opening > 0, "{killed_after_opening} of {steps}");
}
