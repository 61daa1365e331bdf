//! Disks that fail, and what the store makes of it.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use hypernetes_api::TenantId;
use redb::{BackendError, StorageBackend};

use super::{EmbeddedStore, Options, medium};
use crate::{Key, Op, ResourceId, Store, Txn, TxnError};

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

fn failing(path: &Path, sync: &Arc<AtomicBool>, write: &Arc<AtomicBool>) -> EmbeddedStore {
    let (sync, write) = (sync.clone(), write.clone());
    let open = move |path: &Path| {
        let file = medium::open_file(path)?;
        Ok(Box::new(Failing { file, sync: sync.clone(), write: write.clone() }) as Box<dyn StorageBackend>)
    };
    EmbeddedStore::open_with(path, Options::default(), Box::new(open)).unwrap()
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
        assert!(matches!(store.commit(put("doubtful")).await, Err(TxnError::Io(_))), "{which}");
        assert_eq!(store.revision().await.unwrap(), good, "what is in doubt is not seen");
        assert!(ended.await.contains("os error 5"), "{which}");
        // The disk is well again, but this process does not know what is on it.
        flag.store(false, Ordering::SeqCst);
        assert!(matches!(store.commit(put("later")).await, Err(TxnError::Io(_))));
        store.health().unwrap_err();
        drop(store);

        // The next one does.
        let store = EmbeddedStore::open(&path, Options::default()).unwrap();
        let after = store.revision().await.unwrap();
        assert!(after >= good);
        assert!(store.commit(put("after")).await.unwrap() > after);
    }
}
