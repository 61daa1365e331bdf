//! What the embedded engine promises when the world fails: kill -9, a full disk, two owners.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use hypernetes_api::TenantId;
use hypernetes_store::{
    EmbeddedStore, Key, Op, Prefix, RangeOptions, ResourceId, Store, Txn, TxnError, embedded::Options,
};

fn key(name: &str) -> Key {
    Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", name).unwrap()
}

fn put(name: &str, value: Vec<u8>) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Put(key(name), Bytes::from(value))] }
}

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, Options::default()).unwrap()
}

const CHILD: &str = "STORE_TEST_CHILD";

/// Not a test by itself: the process that `kill_9_loses_nothing_acknowledged` kills.
#[test]
#[ignore = "is run by another test"]
fn child_that_writes_and_tells() {
    let path = std::env::var(CHILD).unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let store = open(Path::new(&path));
        let first = store
            .count(&Prefix::tenant(&ResourceId::new("", "configmaps"), &TenantId::system(), None).unwrap())
            .await
            .unwrap();
        for i in first.. {
            store.commit(put(&format!("n{i}"), vec![7; 300])).await.unwrap();
            println!("acknowledged n{i}");
        }
    });
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_writes_and_tells", "--exact", "--ignored", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|l| Some(l.split_once("acknowledged ")?.1.to_owned()))
            .take(17 * round)
        {
            acknowledged.push(line);
        }
        child.kill().unwrap();
        acknowledged
            .extend(lines.map_while(Result::ok).filter_map(|l| Some(l.split_once("acknowledged ")?.1.to_owned())));
        child.wait().unwrap();
        let store = open(&path);
        for name in &acknowledged {
            assert!(store.get(&key(name)).await.unwrap().is_some(), "{name} was acknowledged and is lost");
        }
    }
    assert!(acknowledged.len() > 100);
}

/// A file system of a few MiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Some("size=4m");
        nix::mount::mount(Some("tmpfs"), directory.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), options)
            .expect("this test mounts a tmpfs: run it as root");
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.0.path());
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_none() {
    let disk = SmallDisk::new();
    let path = disk.0.path().join("store.redb");
    let ballast = disk.0.path().join("ballast");
    let store = open(&path);
    let mut acknowledged = Vec::new();
    let error = loop {
        let name = format!("n{}", acknowledged.len());
        match store.commit(put(&name, vec![b'x'; 20_000])).await {
            Ok(_) => acknowledged.push(name),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 1000, "the disk never filled");
        if acknowledged.len() == 5 {
            std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
        }
    };
    assert!(matches!(error, TxnError::NoSpace(_)), "{error}");
    let prefix = Prefix::tenant(&ResourceId::new("", "configmaps"), &TenantId::system(), None).unwrap();
    let listing = store.range(&prefix, RangeOptions::default()).await.unwrap();
    assert_eq!(listing.entries.len(), acknowledged.len(), "reads go on, and show only what is durable");

    // With room again, the same process writes again.
    std::fs::remove_file(&ballast).unwrap();
    store.commit(put("after", vec![1])).await.unwrap();
    drop(store);
    let store = open(&path);
    for name in acknowledged.iter().map(String::as_str).chain(["after"]) {
        assert!(store.get(&key(name)).await.unwrap().is_some(), "{name}");
    }
}

#[tokio::test]
async fn the_file_has_one_owner_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path);
    assert!(EmbeddedStore::open(&path, Options::default()).is_err());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(store);
    open(&path);
    std::fs::write(&path, b"not a database, and more than a few bytes long").unwrap();
    let error = EmbeddedStore::open(&path, Options::default()).err().expect("garbage is refused");
    assert!(error.to_string().contains("store.redb"));
}
