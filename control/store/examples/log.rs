//! What a commit costs on this disk: fdatasync alone, the store's log, and redb, with so many writers at once; and what opening
//! costs. `cargo run --release -p hypernetes-store --example log -- DIR`, or with the URL of an etcd instead: what one over that costs.
//!
//! Each writer commits objects of 1 KiB, one after the other, for some seconds. redb is given what waits as one transaction, as a
//! store over it would.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hypernetes_api::TenantId;
use hypernetes_store::{
    Encryption, Key, Op, Options, ResourceId, Store, Txn,
    log::etcd::{Config, Endpoints},
};
use redb::{Database, TableDefinition};
use tokio::sync::{mpsc, oneshot};

const VALUE: usize = 1024;
const LASTS: Duration = Duration::from_secs(5);
const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");

fn processor_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000);
    of(usage.user_time()) + of(usage.system_time())
}

fn report(what: &str, writers: usize, began: Instant, processor: Duration, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |part: f64| latencies[(latencies.len() as f64 * part) as usize].as_secs_f64() * 1e3;
    let each = processor.as_secs_f64() * 1e6 / latencies.len() as f64;
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    println!("{what:<22} {writers:>4} {rate:>9.0} {:>8.2} {:>8.2} {each:>9.0}", at(0.5), at(0.99));
}

fn key(writer: usize, index: usize) -> Key {
    let name = format!("w{writer}-{}", index % 2000);
    Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", &name).unwrap()
}

/// Runs writers, each of which calls `commit` again and again.
async fn run<F, Fut>(what: &str, writers: usize, commit: F)
where
    F: Fn(Key, Bytes) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (commit, began, before) = (Arc::new(commit), Instant::now(), processor_time());
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let commit = commit.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while began.elapsed() < LASTS {
                    let started = Instant::now();
                    commit(key(writer, latencies.len()), Bytes::from(vec![b'x'; VALUE])).await;
                    latencies.push(started.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    report(what, writers, began, processor_time() - before, latencies);
}

fn fdatasync(directory: &Path) {
    let file = File::create(directory.join("plain")).unwrap();
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    file.sync_data().unwrap();
    let (began, before, mut latencies) = (Instant::now(), processor_time(), Vec::new());
    let record = [1; VALUE + 128];
    while began.elapsed() < LASTS {
        let started = Instant::now();
        file.write_all_at(&record, (latencies.len() % 10_000 * record.len()) as u64).unwrap();
        file.sync_data().unwrap();
        latencies.push(started.elapsed());
    }
    report("write and fdatasync", 1, began, processor_time() - before, latencies);
}

type Waiting = (Key, Bytes, oneshot::Sender<()>);

fn redb(path: &Path) -> mpsc::UnboundedSender<Waiting> {
    let database = Database::create(path).unwrap();
    let (sender, mut queue) = mpsc::unbounded_channel::<Waiting>();
    std::thread::spawn(move || {
        let mut taken = Vec::new();
        while queue.blocking_recv_many(&mut taken, 1024) > 0 {
            let txn = database.begin_write().unwrap();
            {
                let mut table = txn.open_table(TABLE).unwrap();
                for (key, value, _) in &taken {
                    table.insert(key.as_str(), value.as_ref()).unwrap();
                }
            }
            txn.commit().unwrap();
            for (_, _, answer) in taken.drain(..) {
                let _ = answer.send(());
            }
        }
    });
    sender
}

/// Writes to a store until it has done so for long enough.
async fn run_store(what: &str, writers: usize, store: Arc<Store>) {
    run(what, writers, move |key, value| {
        let store = store.clone();
        async move {
            store.commit(Txn { guards: vec![], ops: vec![Op::Put(key, value)] }).await.unwrap();
        }
    })
    .await;
}

#[tokio::main]
async fn main() {
    let place = std::env::args().nth(1).expect("a directory on the disk that is asked about, or the URL of an etcd");
    if place.starts_with("http") {
        println!("{:<22} {:>4} {:>9} {:>8} {:>8} {:>9}", "", "by", "commits/s", "p50 ms", "p99 ms", "cpu us");
        for writers in [1, 8, 64] {
            let endpoints = Endpoints { urls: vec![place.clone()], ..Endpoints::default() };
            let config = Config { endpoints, prefix: format!("/log-{}/", std::process::id()), ..Config::default() };
            let store = Store::etcd(&config, Options::default()).await.unwrap();
            run_store("over etcd", writers, Arc::new(store)).await;
        }
        return;
    }
    let directory = tempfile::tempdir_in(place).unwrap();
    println!("{:<22} {:>4} {:>9} {:>8} {:>8} {:>9}", "", "by", "commits/s", "p50 ms", "p99 ms", "cpu us");
    fdatasync(directory.path());
    for writers in [1, 8, 64] {
        let sender = redb(&directory.path().join(format!("{writers}.redb")));
        run("redb", writers, move |key, value| {
            let sender = sender.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                sender.send((key, value, answer)).unwrap();
                answered.await.unwrap();
            }
        })
        .await;
        for (what, sealed) in [("log", false), ("log, encrypted", true)] {
            let mut options = Options::default();
            if sealed {
                let keys = directory.path().join("keys");
                std::fs::write(&keys, "1 MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
                options.encryption = Encryption::read(&keys).unwrap();
            }
            let path = directory.path().join(format!("{what}{writers}"));
            run_store(what, writers, Arc::new(Store::open(&path, options).unwrap())).await;
        }
    }
    opening(directory.path()).await;
}

/// Of 100,000 objects.
async fn opening(directory: &Path) {
    let options = || Options {
        encryption: Encryption::read(&directory.join("keys")).unwrap(),
        history_total_bytes: 1 << 20,
        ..Options::default()
    };
    let path = directory.join("large");
    let store = Arc::new(Store::open(&path, options()).unwrap());
    let writes = (0..200).map(|part| {
        let store = store.clone();
        async move {
            for index in 0..500 {
                let name = format!("n{part}-{index}");
                let key = Key::new(&ResourceId::new("", "configmaps"), &TenantId::system(), "default", &name).unwrap();
                let ops = vec![Op::Put(key, Bytes::from(vec![b'x'; VALUE]))];
                store.commit(Txn { guards: vec![], ops }).await.unwrap();
            }
        }
    });
    futures::future::join_all(writes).await;
    drop(store);
    for _ in 0..3 {
        let began = Instant::now();
        let store = Store::open(&path, options()).unwrap();
        println!("opening 100,000 objects of 1 KiB, encrypted: {:.3} s", began.elapsed().as_secs_f64());
        drop(store);
    }
}
