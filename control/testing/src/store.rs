//! Where the API server in process has its objects: in a directory, or, where [`ETCD`] names one, in an etcd.

use std::{
    path::Path,
    sync::{OnceLock, mpsc},
    time::Duration,
};

use hypernetes_store::{
    Options, Store,
    log::etcd::{Config, Endpoints},
};
use tokio::runtime::{Builder, Runtime};

/// The variable with the endpoint of an etcd that tests share, each with a prefix of its own.
const ETCD: &str = "HYPERNETES_TEST_ETCD";

/// A store's place: the same one again for who opens it again.
pub(crate) fn open(directory: &Path, options: Options) -> Store {
    match std::env::var(ETCD) {
        Err(_) => Store::open(&directory.join("store"), options).unwrap(),
        Ok(url) => in_etcd(url, directory, options),
    }
}

/// Its connections have a runtime of their own: a test's may stand still while something is waited for.
fn in_etcd(url: String, directory: &Path, options: Options) -> Store {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let make = || Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = Config {
        endpoints: Endpoints { urls: vec![url], ..Endpoints::default() },
        prefix: prefix(directory),
        compaction: Duration::ZERO,
        ..Config::default()
    };
    let (sender, opened) = mpsc::channel();
    RUNTIME.get_or_init(make).spawn(async move { sender.send(Store::etcd(&config, options).await) });
    opened.recv().unwrap().unwrap()
}

/// Gives another directory's store the place of this one's. False: it is in the directory itself.
pub(crate) fn share(directory: &Path, other: &Path) -> bool {
    let in_etcd = std::env::var(ETCD).is_ok();
    if in_etcd {
        std::fs::write(other.join("prefix"), prefix(directory)).unwrap();
    }
    in_etcd
}

/// Said by a file, since directories' names come again.
fn prefix(directory: &Path) -> String {
    let file = directory.join("prefix");
    if let Ok(prefix) = std::fs::read_to_string(&file) {
        return prefix;
    }
    let prefix = format!("/{}/", uuid::Uuid::new_v4());
    std::fs::write(file, &prefix).unwrap();
    prefix
}
