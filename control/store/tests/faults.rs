//! What the embedded engine promises when the world fails: kill -9, a full disk, two owners.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use hypernetes_api::TenantId;
use hypernetes_store::{
    Key, Op, Options, Prefix, RangeOptions, ResourceId, Store, Txn, TxnError, log::embedded::Unopened,
};

fn key(name: &str) -> Key {
    Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", name).unwrap()
}

fn put(name: &str, value: Vec<u8>) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Put(key(name), Bytes::from(value))] }
}

fn open(path: &Path) -> Store {
    Store::open(path, Options::default()).unwrap()
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
    let path = directory.path().join("store");
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

/// Of a reserve that fits on [`SmallDisk`].
fn open_small(path: &Path) -> Store {
    Store::open(path, Options { reserve_bytes: 1 << 20, ..Options::default() }).unwrap()
}

async fn names(store: &Store) -> Vec<String> {
    let prefix = Prefix::tenant(&ResourceId::new("", "configmaps"), &TenantId::system(), None).unwrap();
    let listing = store.range(&prefix, RangeOptions::default()).await.unwrap();
    listing.entries.iter().map(|entry| entry.key.name().to_owned()).collect()
}

fn delete(name: &str) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Delete(key(name))] }
}

/// Writes until there is no room.
async fn fill(store: &Store) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        let name = format!("n{:03}", acknowledged.len());
        match store.commit(put(&name, vec![b'x'; 20_000])).await {
            Ok(_) => acknowledged.push(name),
            Err(TxnError::NoSpace(_)) => return acknowledged,
            Err(error) => panic!("{error}"),
        }
        assert!(acknowledged.len() < 1000, "the disk never filled");
    }
}

/// Until there is room again, which is looked for once a second.
async fn commit_in_time(store: &Store, txn: Txn) {
    let began = std::time::Instant::now();
    while let Err(error) = store.commit(txn.clone()).await {
        assert!(matches!(error, TxnError::NoSpace(_)), "{error}");
        assert!(began.elapsed().as_secs() < 20, "there is room, and it is not found");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_none() {
    let disk = SmallDisk::new();
    let path = disk.0.path().join("store");
    let ballast = disk.0.path().join("ballast");
    let store = open_small(&path);
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let acknowledged = fill(&store).await;
    assert!(acknowledged.len() > 5);
    assert_eq!(names(&store).await, acknowledged, "reads go on, and show only what is durable");
    store.health().await.unwrap();

    // With room again, the same process writes again.
    std::fs::remove_file(&ballast).unwrap();
    commit_in_time(&store, put("z-after", vec![1; 20_000])).await;
    drop(store);
    let mut all = acknowledged;
    all.push("z-after".into());
    assert_eq!(names(&open_small(&path)).await, all);
}

#[tokio::test]
async fn on_a_full_disk_everything_can_be_deleted_and_then_written() {
    let disk = SmallDisk::new();
    let path = disk.0.path().join("store");
    let store = open_small(&path);
    let acknowledged = fill(&store).await;
    // Somebody else takes what is left.
    let mut ballast = std::fs::File::create(disk.0.path().join("ballast")).unwrap();
    while std::io::Write::write(&mut ballast, &[0; 4096]).is_ok() {}

    // A small change to each, as deletion begins with one, and its deletion.
    for (i, name) in acknowledged.iter().enumerate() {
        store.commit(put(name, vec![b'y'; 20_100])).await.unwrap_or_else(|error| panic!("{i} {name}: {error}"));
        assert!(matches!(store.commit(put("new", vec![0; 20_000])).await, Ok(_) | Err(TxnError::NoSpace(_))));
        store.commit(delete(name)).await.unwrap_or_else(|error| panic!("{i} {name}: {error}"));
        if i == acknowledged.len() / 2 {
            break;
        }
    }
    // It opens again, as full as the disk is, and goes on.
    drop(store);
    let store = open_small(&path);
    for name in names(&store).await {
        store.commit(delete(&name)).await.unwrap();
    }
    assert!(names(&store).await.is_empty());
    // What was deleted makes room, although the disk is as full as before.
    commit_in_time(&store, put("after", vec![1; 20_000])).await;
}

/// What a version before wrote.
fn file_of_before(path: &Path, format: Option<u64>, magic: Option<u64>) {
    let database = redb::Database::create(path).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut meta = txn.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap();
        meta.insert("revision", 7).unwrap();
        for (name, value) in [("format", format), ("magic", magic)] {
            if let Some(value) = value {
                meta.insert(name, value).unwrap();
            }
        }
        let mut entries = txn.open_table(redb::TableDefinition::<&str, &[u8]>::new("entries")).unwrap();
        let row = [&3u64.to_be_bytes()[..], &5u64.to_be_bytes()[..], b"value"].concat();
        entries.insert("//configmaps/system/default/a", row.as_slice()).unwrap();
    }
    txn.commit().unwrap();
}

const OURS: u64 = u64::from_be_bytes(*b"hypernet");

#[tokio::test]
async fn what_a_version_before_wrote_is_taken_over_once() {
    for (format, magic) in [(None, None), (Some(1), Some(OURS))] {
        let directory = tempfile::tempdir().unwrap();
        let (path, before) = (directory.path().join("store"), directory.path().join("store.redb"));
        file_of_before(&before, format, magic);
        let store = open(&path);
        let entry = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!((entry.create_revision.0, entry.mod_revision.0, &*entry.value), (3, 5, &b"value"[..]));
        assert_eq!(store.commit(put("b", vec![1])).await.unwrap().0, 8);
        assert!(!before.exists());
        drop(store);
        assert_eq!(names(&open(&path)).await, ["a", "b"]);
    }
}

#[tokio::test]
async fn what_is_newer_or_another_programs_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Store::open(path, Options::default()).err().expect("it is refused");
    let (path, before) = (directory.path().join("store"), directory.path().join("store.redb"));
    file_of_before(&before, Some(2), Some(OURS));
    let error = refused(&path);
    assert!(matches!(error.why, Unopened::Newer { found: 2, known: 1 }), "{error}");
    let text = error.to_string();
    assert!(text.contains("store") && text.contains("format 2") && text.contains("knows 1"), "{text}");
    std::fs::remove_file(&before).unwrap();
    file_of_before(&before, Some(1), Some(7));
    assert!(matches!(refused(&path).why, Unopened::Foreign));
    std::fs::remove_file(&before).unwrap();
    let database = redb::Database::create(&before).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<u64, &str>::new("songs")).unwrap().insert(1, "la").unwrap();
    txn.commit().unwrap();
    drop(database);
    assert!(matches!(refused(&path).why, Unopened::Foreign));
    assert!(before.exists(), "it is left as it is");
    // A database in which there is nothing: its process was killed before the first change.
    std::fs::remove_file(&before).unwrap();
    drop(redb::Database::create(&before).unwrap());
    open(&path).commit(put("a", vec![1])).await.unwrap();
}

#[tokio::test]
async fn a_store_has_one_owner_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path);
    let error = Store::open(&path, Options::default()).err().expect("it is open already");
    assert!(matches!(error.why, Unopened::Locked), "{error}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in std::fs::read_dir(&path).unwrap().flatten().filter(|file| file.file_name() != "lock") {
        assert_eq!(mode(&file.path()), 0o600, "{:?}", file.path());
    }
    drop(store);
    drop(open(&path));
    for name in ["checkpoint-a", "checkpoint-b"] {
        std::fs::write(path.join(name), [b'x'; 300]).unwrap();
    }
    let error = Store::open(&path, Options::default()).err().expect("garbage is refused");
    assert!(matches!(error.why, Unopened::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("checkpoint-") && error.to_string().contains("snapshot restore"), "{error}");
}

/// Opening reads the data, and what was written since the last checkpoint.
#[tokio::test]
async fn the_log_does_not_grow_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let options = || Options { reserve_bytes: 64 << 10, ..Options::default() };
    let store = Store::open(&path, options()).unwrap();
    for i in 0..600u32 {
        store.commit(put(&format!("n{}", i % 7), vec![i as u8; 10_000])).await.unwrap();
    }
    drop(store);
    let size: u64 = std::fs::read_dir(&path).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum();
    assert!(size < 2 << 20, "{size} bytes for 70 KB, of 6 MB that were written");
    assert_eq!(names(&Store::open(&path, options()).unwrap()).await.len(), 7);
}
