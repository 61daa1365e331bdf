//! What the engine over etcd does besides the contract: how it starts, catches up, and shares quotas with other servers.

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use common::proxy::{Caller, Network};
use hypernetes_api::TenantId;
use hypernetes_store::{
    Encryption, Exceeded, Guard, Key, METERED, Op, Options, Prefix, Quota, RangeOptions, ReadError, ResourceId,
    RotationError, Store, Txn, TxnError, WatchError,
    log::{
        embedded::Contents,
        etcd::{Config, StartError},
    },
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

fn put(name: &str, value: &[u8]) -> Op {
    Op::Put(key(name), Bytes::copy_from_slice(value))
}

fn txn(ops: Vec<Op>) -> Txn {
    Txn { guards: vec![], ops }
}

async fn names(store: &Store) -> Vec<String> {
    let listing = store.range(&all(), RangeOptions::default()).await.unwrap();
    listing.entries.iter().map(|entry| entry.key.name().to_owned()).collect()
}

/// A store that can be cut off, and one that is not, over one etcd.
async fn pair(network: &Network, prefix: &str) -> (Store, Store) {
    pair_at(network, common::shared(), prefix, Duration::ZERO).await
}

async fn pair_at(network: &Network, url: String, prefix: &str, compaction: Duration) -> (Store, Store) {
    let way = common::address();
    network.way(Caller::Named("a".into()), "", way, url.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let a = common::config(vec![format!("http://{way}")], prefix);
    let b = Config { compaction, ..common::config(vec![url], prefix) };
    let open = async |config: Config| Store::etcd(&config, Options::default()).await.unwrap();
    (open(a).await, open(b).await)
}

/// Until it works.
async fn within<T, E: std::fmt::Display>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let began = std::time::Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(120), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn servers_see_at_once_what_others_wrote() {
    let network = Network::default();
    let (a, b) = pair(&network, "/at-once/").await;
    for round in 0..20_u8 {
        let (one, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let revision = one.commit(txn(vec![put("x", &[round])])).await.unwrap();
        let seen = other.get(&key("x")).await.unwrap().unwrap();
        assert_eq!((&*seen.value, seen.mod_revision), (&[round][..], revision));
        // What somebody else has seen can be built on.
        let guard = Guard::Unchanged(key("x"), revision);
        other.commit(Txn { guards: vec![guard], ops: vec![put("x", &[round])] }).await.unwrap();
    }
}

/// More than etcd sends at once: in parts, of which none is shown before its transaction is whole.
#[tokio::test]
async fn a_server_that_was_away_catches_up_with_large_transactions_whole() {
    let network = Network::default();
    let (a, b) = pair(&network, "/catches-up/").await;
    let start = a.revision().await.unwrap();
    let mut changes = a.watch(&Prefix::tenant(&configmaps(), &TenantId::system(), None).unwrap(), start).await.unwrap();
    let of = |name: &str| Key::new(&configmaps(), &TenantId::system(), "default", name).unwrap();
    network.cut("a");
    let (mut revisions, large) = (Vec::new(), vec![7; 520 << 10]);
    for _ in 0..6 {
        let ops = ["one", "other", "third"].map(|name| Op::Put(of(name), Bytes::from(large.clone())));
        // A transaction of more than etcd takes.
        let refused = b.commit(txn(ops.to_vec())).await;
        assert!(matches!(refused, Err(TxnError::TooLarge(_))), "{refused:?}");
        revisions.push(b.commit(txn(ops[..2].to_vec())).await.unwrap());
    }
    // Meanwhile nothing is said that may not be so any more.
    assert!(matches!(a.health().await, Err(ReadError::Unavailable(_))) && b.health().await.is_ok());
    assert!(matches!(a.get(&of("one")).await, Err(ReadError::Unavailable(_))));
    let refused = a.commit(txn(vec![Op::Put(of("one"), Bytes::new())])).await;
    assert!(matches!(refused, Err(TxnError::Unknown(_) | TxnError::Unavailable(_))), "{refused:?}");
    network.mend("a");
    for revision in revisions {
        for name in ["one", "other"] {
            let change = changes.recv().await.unwrap().unwrap();
            assert_eq!((change.revision, change.key.name()), (revision, name));
        }
    }
    within(async || a.get(&of("one")).await).await.unwrap();
    a.health().await.unwrap();
}

/// What an etcd answers over HTTP.
async fn http(url: &str, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Has etcd do something that it offers as JSON, too.
async fn post(url: &str, path: &str, body: &str) -> String {
    let head = format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
    let answer = http(url, &format!("{head}\r\n\r\n{body}")).await;
    assert!(answer.split("\r\n").next().unwrap().contains(" 200 "), "{answer}");
    answer
}

/// Until which revision an etcd has forgotten the past.
async fn compacted(url: &str) -> i64 {
    let text = http(url, "GET /metrics HTTP/1.0\r\n\r\n").await;
    let line = text.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_compact_revision "));
    line.unwrap().parse::<f64>().unwrap() as i64
}

#[tokio::test]
async fn what_was_compacted_meanwhile_is_loaded_anew() {
    let (directory, network) = (tempfile::tempdir().unwrap(), Network::default());
    let (_process, url) = common::single(directory.path(), Path::new(""));
    let (a, b) = pair_at(&network, url.clone(), "/compacted/", Duration::from_millis(50)).await;
    a.commit(txn(vec![put("gone", b"1"), put("stays", b"1")])).await.unwrap();
    let mut changes = a.watch(&all(), a.revision().await.unwrap()).await.unwrap();
    network.cut("a");
    let mut last = b.commit(txn(vec![Op::Delete(key("gone"))])).await.unwrap();
    let deleted = last;
    while compacted(&url).await <= i64::try_from(deleted.0 >> 8).unwrap() {
        last = b.commit(txn(vec![put("stays", &last.0.to_be_bytes())])).await.unwrap();
    }
    drop(b);
    network.mend("a");
    assert_eq!(changes.recv().await, Some(Err(WatchError::Lagged)));
    let entry = within(async || a.get(&key("stays")).await).await.unwrap();
    assert_eq!(entry.mod_revision, last);
    assert_eq!(names(&a).await, ["stays"]);
    assert!(matches!(a.watch(&all(), deleted).await, Err(ReadError::Compacted { .. })));
    // It goes on.
    let mut changes = a.watch(&all(), a.revision().await.unwrap()).await.unwrap();
    let b = Store::etcd(&common::config(vec![url], "/compacted/"), Options::default()).await.unwrap();
    let revision = b.commit(txn(vec![put("new", b"1")])).await.unwrap();
    assert_eq!(changes.recv().await.unwrap().unwrap().revision, revision);
}

/// Each of two servers may be behind by what the other has begun, which is a sixteenth of the quota.
#[tokio::test]
async fn servers_exceed_a_quota_by_a_slice_at_most() {
    let network = Network::default();
    let (a, b) = pair(&network, "/quota/").await;
    let stores = [Arc::new(a), Arc::new(b)];
    let quota = Quota { objects: 64, bytes: 1 << 30, metered: [u64::MAX; METERED] };
    for store in &stores {
        store.quotas().set_default(quota);
    }
    let attempts = (0..120).map(|index| {
        let store = stores[index % 2].clone();
        tokio::spawn(async move { store.commit(txn(vec![put(&format!("n{index:03}"), b"1")])).await })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) | Err(TxnError::Quota { what: Exceeded::Objects, limit: 64, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for store in &stores {
        let count = store.count(&all()).await.unwrap();
        assert!((64..=64 + 64 / 16).contains(&count), "{count}");
        let more = store.commit(txn(vec![put("more", b"1")])).await;
        assert!(matches!(more, Err(TxnError::Quota { .. })), "{more:?}");
    }
}

#[tokio::test]
async fn without_its_etcd_it_does_not_start_and_says_what_to_do() {
    let start = async |config: Config| Store::etcd(&config, Options::default()).await.err().expect("it is refused");
    let nowhere = format!("http://{}", common::address());
    let config = Config { patience: Duration::from_millis(100), ..common::config(vec![nowhere.clone()], "/x/") };
    let error = start(config).await;
    assert!(matches!(error, StartError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&nowhere), "{error}");
    // An etcd in which there is nothing, where there was something.
    let config = Config { must_exist: true, ..common::config(vec![common::shared()], "/nothing/") };
    let error = start(config.clone()).await;
    assert!(matches!(error, StartError::Missing { .. }), "{error}");
    // And one in which there is.
    drop(Store::etcd(&Config { must_exist: false, ..config.clone() }, Options::default()).await.unwrap());
    drop(Store::etcd(&config, Options::default()).await.unwrap());
    // Somebody else's: a prefix above that of a store.
    drop(Store::etcd(&common::config(vec![common::shared()], "/else/of/"), Options::default()).await.unwrap());
    let error = start(common::config(vec![common::shared()], "/else/")).await;
    assert!(matches!(error, StartError::Foreign(_)), "{error}");
    for (url, wrong) in [("ftp://a:1", "ftp"), ("https://a:1", "--etcd-cafile"), ("http://a:1/b", "HOST")] {
        let error = start(common::config(vec![url.into()], "/x/")).await;
        assert!(matches!(error, StartError::Endpoint(_)) && error.to_string().contains(wrong), "{error}");
    }
}

/// As if every object had been deleted: going on would end every pod.
#[tokio::test]
async fn a_store_that_vanishes_ends_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let client = common::address();
    let url = format!("http://{client}");
    let none = Path::new("");
    let process = common::single_at(directory.path(), none, client, &url, &[]);
    let store = Store::etcd(&common::config(vec![url.clone()], "/vanishes/"), Options::default()).await.unwrap();
    store.commit(txn(vec![put("a", b"1")])).await.unwrap();
    let mut changes = store.watch(&all(), store.revision().await.unwrap()).await.unwrap();
    drop(process);
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();
    let _process = common::single_at(directory.path(), none, client, &url, &[]);
    let ended = store.ended();
    let reads = async {
        loop {
            // It asks how far etcd is, which is less far than it was.
            assert!(store.get(&key("a")).await.is_err(), "what is gone is not shown as if it were true");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let why = tokio::select! { why = ended => why, () = reads => unreachable!() };
    assert!(why.contains("/vanishes/"), "{why}");
    store.health().await.unwrap_err();
    assert_eq!(changes.try_recv(), Ok(None), "nobody was told that anything was deleted");
}

fn identity(
    directory: &Path,
    name: &str,
    issuer: &Issuer<'static, KeyPair>,
    usage: ExtendedKeyUsagePurpose,
) -> [String; 2] {
    let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(vec![name.into()]).unwrap());
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, issuer).unwrap();
    let file = |end: &str, text: String| {
        let path = directory.join(format!("{name}.{end}"));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    [file("crt", certificate.pem()), file("key", key.serialize_pem())]
}

#[tokio::test]
async fn an_etcd_that_asks_for_certificates_is_shown_one() {
    let directory = tempfile::tempdir().unwrap();
    let (key_pair, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = directory.path().join("ca.crt");
    std::fs::write(&authority, params.self_signed(&key_pair).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key_pair);
    let client = common::address();
    let [certificate, secret] =
        identity(directory.path(), &client.ip().to_string(), &issuer, ExtendedKeyUsagePurpose::ServerAuth);
    let ours = identity(directory.path(), "hypernetes", &issuer, ExtendedKeyUsagePurpose::ClientAuth);
    let url = format!("https://{client}");
    let options = [
        format!("--cert-file={certificate}"),
        format!("--key-file={secret}"),
        format!("--trusted-ca-file={}", authority.display()),
        "--client-cert-auth".to_owned(),
    ];
    let options = options.each_ref().map(String::as_str);
    let _process = common::single_at(directory.path(), Path::new(""), client, &url, &options);
    let mut config = common::config(vec![url], "/secret/");
    config.endpoints.authority = Some(authority);
    config.patience = Duration::from_secs(2);
    let error = Store::etcd(&config, Options::default()).await.err().expect("it shows no certificate");
    assert!(matches!(error, StartError::Unreachable { .. }), "{error}");
    config.endpoints.certificate = Some(ours.map(Into::into).into());
    config.patience = Duration::from_secs(60);
    let store = Store::etcd(&config, Options::default()).await.unwrap();
    store.commit(txn(vec![put("a", b"1")])).await.unwrap();
    assert_eq!(names(&store).await, ["a"]);
}

/// Keys of these numbers, the first of which seals.
fn keys(directory: &Path, numbers: &[u8]) -> Encryption {
    let file = directory.join("keys");
    let lines: Vec<String> = numbers.iter().map(|n| format!("{n} {}", STANDARD.encode([*n; 32]))).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    Encryption::read(&file).unwrap()
}

/// Whether a file beneath has these bytes.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, bytes);
        }
        std::fs::read(path).unwrap().windows(bytes.len()).any(|part| part == bytes)
    })
}

#[tokio::test]
async fn what_is_in_etcd_is_sealed_with_the_operators_keys_and_anew_with_a_new_one() {
    let (directory, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_process, url) = common::single(directory.path(), Path::new(""));
    let open = async |numbers: &[u8]| {
        let encryption = if numbers.is_empty() { Encryption::none() } else { keys(files.path(), numbers) };
        let mut config = common::config(vec![url.clone()], "/sealed/");
        config.patience = Duration::from_secs(2);
        Store::etcd(&config, Options { encryption, ..Options::default() }).await
    };
    let refused = async |numbers: &[u8]| match open(numbers).await {
        Err(StartError::Foreign(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opens with keys {numbers:?}"),
    };
    let plain = open(&[]).await.unwrap();
    plain.commit(txn(vec![put("plain", b"shown-to-all")])).await.unwrap();
    assert!(holds(&directory.path().join("data"), b"shown-to-all"));

    // A server that does not know the key ends rather than misreading what others write.
    let first = open(&[4]).await.unwrap();
    let ended = plain.ended();
    first.commit(txn(vec![put("sealed", b"shown-to-none")])).await.unwrap();
    let why = ended.await;
    assert!(why.contains("encryption key 4"), "{why}");
    assert!(!holds(&directory.path().join("data"), b"shown-to-none"));
    let why = refused(&[]).await;
    assert!(why.contains("encryption key 4") && why.contains("--encryption-keys"), "{why}");
    drop(first);

    // What there was before is sealed, too, and all of it with a new first key: then the old one is not needed.
    let rotating = open(&[9, 4]).await.unwrap();
    assert_eq!(names(&rotating).await, ["plain", "sealed"]);
    within(async || open(&[9]).await).await;
    for name in ["plain", "sealed"] {
        let entry = rotating.get(&key(name)).await.unwrap().unwrap();
        assert!(entry.create_revision < entry.mod_revision && entry.value.starts_with(b"shown-to-"));
    }
    let why = refused(&[4]).await;
    assert!(why.contains("encryption key 9"), "{why}");
}

/// Key and value of all that a store has.
async fn content(store: &Store) -> Vec<(String, Bytes)> {
    let listing = store.range(&all(), RangeOptions::default()).await.unwrap();
    listing.entries.iter().map(|entry| (entry.key.as_str().to_owned(), entry.value.clone())).collect()
}

#[tokio::test]
async fn snapshots_go_from_one_engine_to_the_other_whole_and_over_nothing_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let encryption = keys(directory.path(), &[3]);
    let options = || Options { encryption: encryption.clone(), ..Options::default() };
    let embedded = Store::open(&at("store"), options()).unwrap();
    // More objects than there are in one transaction, more bytes, and what begins like something else.
    for index in 0..230_u16 {
        embedded.commit(txn(vec![put(&format!("n{index}"), &index.to_be_bytes())])).await.unwrap();
    }
    for (index, value) in [vec![7; 1_500_000], vec![7; 600_000], vec![0, 1, 2], vec![]].iter().enumerate() {
        embedded.commit(txn(vec![put(&format!("large{index}"), value)])).await.unwrap();
    }
    let before = content(&embedded).await;
    assert_eq!(before.len(), 234);
    let save = |store: &Store, name: &str| {
        std::fs::write(at(name), store.snapshot().flatten().collect::<Vec<u8>>()).unwrap();
        Contents::read(&at(name), &encryption).unwrap()
    };
    let config = common::config(vec![common::shared()], "/restored/");
    Store::restore_to_etcd(&config, save(&embedded, "one"), &encryption).await.unwrap();
    let again = Store::restore_to_etcd(&config, save(&embedded, "one"), &encryption).await;
    assert!(matches!(again, Err(StartError::Occupied { .. })), "{again:?}");
    let etcd = Store::etcd(&config, options()).await.unwrap();
    assert_eq!(content(&etcd).await, before);
    let back = save(&etcd, "other");
    back.restore(&at("back"), &encryption).unwrap();
    let back = Store::open(&at("back"), options()).unwrap();
    assert_eq!(content(&back).await, before);

    // It is a store like any other.
    etcd.commit(txn(vec![put("n0", b"changed")])).await.unwrap();
    drop(etcd);
    let etcd = Store::etcd(&config, options()).await.unwrap();
    assert_eq!(&*etcd.get(&key("n0")).await.unwrap().unwrap().value, b"changed");
}

/// While servers run: a new key is made known to all of them behind the old one, then used by all of them, and then the old one is of no use.
#[tokio::test]
async fn keys_are_changed_while_servers_run() {
    let files = tempfile::tempdir().unwrap();
    let config = common::config(vec![common::shared()], "/rotated/");
    let open = async |numbers: &[u8]| {
        let encryption = keys(files.path(), numbers);
        Store::etcd(&config, Options { encryption, ..Options::default() }).await
    };
    let (a, b) = (open(&[4]).await.unwrap(), open(&[4]).await.unwrap());
    a.commit(txn(vec![put("a", b"1"), put("both", b"1")])).await.unwrap();
    // What others have is needed, and a server that does not know a key would end.
    for (numbers, missing) in [(&[9][..], 4), (&[9, 8], 4)] {
        assert_eq!(a.rotate(keys(files.path(), numbers)).await, Err(RotationError::Missing(missing)));
    }
    for store in [&a, &b] {
        store.rotate(keys(files.path(), &[4, 9])).await.unwrap();
    }
    a.rotate(keys(files.path(), &[9, 4])).await.unwrap();
    // The other still has the old one first.
    b.commit(txn(vec![put("b", b"1"), put("both", b"2")])).await.unwrap();
    assert_eq!(names(&a).await, ["a", "b", "both"]);
    assert!(open(&[9]).await.is_err());
    b.rotate(keys(files.path(), &[9, 4])).await.unwrap();
    for store in [&a, &b] {
        store.rotate(keys(files.path(), &[9])).await.unwrap();
        store.commit(txn(vec![put("both", b"3")])).await.unwrap();
    }
    drop((a, b));
    let after = open(&[9]).await.unwrap();
    assert_eq!((names(&after).await.len(), &*after.get(&key("both")).await.unwrap().unwrap().value), (3, &b"3"[..]));
}

/// By the command, and by a start: values that were written over and those that were not.
#[tokio::test]
async fn after_other_keys_and_a_defragmentation_etcds_file_has_nothing_of_the_old_one() {
    for by_start in [false, true] {
        let (directory, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (_process, url) = common::single(directory.path(), Path::new(""));
        let open = async |numbers: &[u8]| {
            let options = Options { encryption: keys(files.path(), numbers), ..Options::default() };
            Store::etcd(&common::config(vec![url.clone()], "/old/"), options).await.unwrap()
        };
        let in_file = |bytes: &[u8]| holds(&directory.path().join("data/member/snap"), bytes);
        let store = open(&[4]).await;
        let mut sealed = Vec::new();
        for value in [&b"first"[..], b"second"] {
            store.commit(txn(vec![put("a", value)])).await.unwrap();
            let name = STANDARD.encode(format!("/old/{}", key("a").as_str()));
            let found = post(&url, "/v3/kv/range", &format!(r#"{{"key":"{name}"}}"#)).await;
            let found = found.split_once(r#""value":""#).unwrap().1.split('"').next().unwrap();
            sealed.push(STANDARD.decode(found).unwrap());
        }
        // etcd writes it a little later than it says so.
        while !sealed.iter().all(|old| in_file(old)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let store = if by_start {
            drop(store);
            open(&[9, 4]).await
        } else {
            store.rotate(keys(files.path(), &[9, 4])).await.unwrap();
            store
        };
        let left = || sealed.iter().filter(|old| in_file(old)).count();
        within(async || {
            post(&url, "/v3/maintenance/defragment", "{}").await;
            match left() {
                0 => Ok(()),
                // What is begun with a start goes on while the server works.
                left if by_start => Err(format!("{left} of them are there")),
                left => panic!("{left} of them are there"),
            }
        })
        .await;
        let entry = within(async || store.get(&key("a")).await).await.unwrap();
        assert_eq!(&*entry.value, b"second");
    }
}

/// As versions before wrote it: values without a rank, and a head with one mark.
#[tokio::test]
async fn what_versions_before_wrote_is_read_and_what_a_newer_one_wrote_is_not() {
    let url = common::shared();
    let write = async |name: &str, value: &[u8]| {
        let [key, value] = [format!("/before/{name}").as_bytes(), value].map(|bytes| STANDARD.encode(bytes));
        post(&url, "/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#)).await;
    };
    write("format", b"1").await;
    write("head", &[7; 16]).await;
    for (name, value) in [("a", &b"plain"[..]), ("b", b"\0\0\0begins with a zero")] {
        write(key(name).as_str(), value).await;
    }
    let open = async || Store::etcd(&common::config(vec![url.clone()], "/before/"), Options::default()).await;
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    let found = one.get(&key("b")).await.unwrap().unwrap();
    assert_eq!((names(&one).await.len(), &*found.value), (2, &b"\0begins with a zero"[..]));
    let guards = vec![Guard::Unchanged(key("b"), found.mod_revision)];
    one.commit(Txn { guards, ops: vec![put("b", b"2")] }).await.unwrap();
    assert_eq!(&*other.get(&key("b")).await.unwrap().unwrap().value, b"2");
    // A server that runs when a newer one starts ends, and does not start any more.
    let ended = one.ended();
    write("format", b"4").await;
    for why in [ended.await, open().await.err().expect("it is refused").to_string()] {
        assert!(why.contains("has format 4, this program knows 3"), "{why}");
    }
}

/// A watch of before a server started goes on where etcd has not forgotten what came since.
#[tokio::test]
async fn who_starts_knows_what_etcd_has_not_forgotten() {
    let (directory, network) = (tempfile::tempdir().unwrap(), Network::default());
    let (_process, url) = common::single(directory.path(), Path::new(""));
    let config = common::config(vec![url.clone()], "/past/");
    let open = async |config: &Config| Store::etcd(config, Options::default()).await.unwrap();
    let store = open(&config).await;
    let first = store.commit(txn(vec![put("a", b"1"), put("b", b"1")])).await.unwrap();
    let second = store.commit(txn(vec![Op::Delete(key("a"))])).await.unwrap();
    let third = store.commit(txn(vec![put("a", b"2")])).await.unwrap();
    drop(store);
    let store = open(&config).await;
    let mut changes = store.watch(&all(), first).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..2 {
        let change = changes.recv().await.unwrap().unwrap();
        told.push((change.revision, change.before.is_some(), change.now.as_ref().map(|now| now.value.to_vec())));
    }
    assert_eq!(told, [(second, true, None), (third, false, Some(b"2".to_vec()))]);
    let then = store.range(&all(), RangeOptions { revision: Some(second), ..RangeOptions::default() }).await.unwrap();
    assert_eq!(then.entries.iter().map(|entry| entry.key.name()).collect::<Vec<_>>(), ["b"]);
    // It goes on with what is new.
    let fourth = store.commit(txn(vec![put("c", b"1")])).await.unwrap();
    assert_eq!(changes.recv().await.unwrap().unwrap().revision, fourth);
    drop(store);

    // What is forgotten is: who was told less lists anew.
    let (_, compacting) = pair_at(&network, url.clone(), "/past/", Duration::from_millis(50)).await;
    let mut last = fourth;
    while compacted(&url).await <= i64::try_from(fourth.0 >> 8).unwrap() {
        last = compacting.commit(txn(vec![put("c", &last.0.to_be_bytes())])).await.unwrap();
    }
    drop(compacting);
    let store = open(&config).await;
    assert!(matches!(store.watch(&all(), third).await, Err(ReadError::Compacted { .. })));
    assert_eq!(store.get(&key("c")).await.unwrap().unwrap().mod_revision, last);
    store.watch(&all(), last).await.unwrap();
}
