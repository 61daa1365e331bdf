//! Servers over one etcd, and snapshots between it and a directory.

mod common;

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use common::{BINARY, PATIENCE, Server, client, good, refused, refused_to_start};
use hypernetes_api::types::network::{Network, Port, Subnet};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, PostParams},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

struct Etcd {
    process: Child,
    directory: tempfile::TempDir,
    url: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Addresses that nobody else has: of clients and of members.
fn addresses() -> [String; 2] {
    static PORTS: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 + (high & 63), middle, low);
    [0; 2].map(|_: u8| format!("http://{host}:{}", PORTS.fetch_add(1, Ordering::Relaxed)))
}

impl Etcd {
    fn start() -> Self {
        let [url, peer] = addresses();
        let etcd = Self::begin(&url, &peer);
        let began = Instant::now();
        while std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).is_err() {
            assert!(began.elapsed() < PATIENCE, "etcd (package etcd-server) does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        etcd
    }

    /// One that may not listen yet.
    fn begin(url: &str, peer: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        // It ends with the test, by whatever.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name=one"])
            .arg(format!("--data-dir={}", directory.path().join("data").display()))
            .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=one={peer}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        Self { process, directory, url: url.to_owned() }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }
}

fn holds(directory: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, bytes);
        }
        std::fs::read(path).unwrap().windows(bytes.len()).any(|part| part == bytes)
    })
}

async fn secrets(server: &Server) -> Api<Secret> {
    Api::namespaced(operator(server).await, "kube-system")
}

fn password(server: &Server) -> String {
    let openrc = server.read("server/admin.openrc");
    openrc.lines().find(|line| line.contains("OS_PASSWORD")).unwrap().to_owned()
}

fn run(words: &[&str]) -> String {
    good(Command::new(BINARY).args(words).output().unwrap())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn servers_share_an_etcd_and_snapshots_move_what_is_in_it() {
    let (etcd, files) = (Etcd::start(), tempfile::tempdir().unwrap());
    let at = |name: &str| files.path().join(name).display().to_string();
    let keys = at("keys");
    std::fs::write(&keys, "1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    let store = format!("--store=etcd={}", etcd.url);
    let options = [store.as_str(), "--encryption-keys", &keys];

    let first = Server::start_with(tempfile::tempdir().unwrap(), &options);
    let object = json!({"metadata": {"name": "s"}, "stringData": {"k": "c2hvd24tdG8tbm9uZQ"}});
    let object: Secret = serde_json::from_value(object).unwrap();
    secrets(&first).await.create(&PostParams::default(), &object).await.unwrap();

    // Who has no token, or another authority, is no server of it.
    let place = tempfile::tempdir().unwrap();
    let why = refused_to_start(&place, &options);
    assert!(why.contains("--token-file"), "{why}");
    let alone = Server::start().killed();
    std::fs::remove_dir_all(alone.path().join("server/store")).unwrap();
    let why = refused_to_start(&alone, &options);
    assert!(why.contains("another authority"), "{why}");

    // A token is good until it is revoked, or its time is over.
    let root = first.path("server").display().to_string();
    let create = |file: &str| run(&["store", "token", "create", file, &store, "--root", &root]);
    let (revoked, token) = (at("revoked"), at("token"));
    let id = |said: String| said.split_once("token ").unwrap().1.split(',').next().unwrap().to_owned();
    let ended = id(create(&revoked));
    run(&["store", "token", "revoke", &ended, &store]);
    let with =
        |file: &str| options.iter().copied().chain(["--token-file", file]).map(str::to_owned).collect::<Vec<_>>();
    let refused_with = |file: &str| {
        let options = with(file);
        refused_to_start(&place, &options.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let why = refused_with(&revoked);
    assert!(why.contains(&ended) && why.contains("not good any more"), "{why}");
    let said = create(&token);
    let secret = std::fs::read_to_string(&token).unwrap();
    assert_eq!(mode(Path::new(&token)), 0o600);
    assert!(!said.contains(secret.trim().split_once('.').unwrap().1), "{said}");
    // Another's key for its ID.
    let forged = format!("{}.{}", id(said), std::fs::read_to_string(&revoked).unwrap().split_once('.').unwrap().1);
    std::fs::write(at("forged"), forged).unwrap();
    let why = refused_with(&at("forged"));
    assert!(why.contains("the token is not what the etcd has"), "{why}");
    assert!(!place.path().join("server/pki").exists() && !place.path().join("server/admin.openrc").exists());

    let words = with(&token);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let second = Server::start_with(place, &words);
    for name in ["server/pki/ca.crt", "server/pki/ca.key"] {
        assert_eq!(first.read(name), second.read(name));
    }
    assert_eq!(password(&first), password(&second));
    assert_eq!(mode(&second.path("server/pki/ca.key")), 0o600);
    assert!(secrets(&second).await.get_opt("s").await.unwrap().is_some());
    // Neither what was written nor what a token opens is in the etcd to be read.
    let data = etcd.directory.path().join("data");
    let admins = password(&first);
    let admins = admins.split('\'').nth(1).unwrap();
    for secret in ["c2hvd24tdG8tbm9uZQ", "PRIVATE KEY", "\"kube-system\"", admins] {
        assert!(!holds(&data, secret.as_bytes()), "{secret}");
    }
    // A server needs its token once.
    std::fs::remove_file(&token).unwrap();
    let second = Server::start_with(second.killed(), &words);

    // What is in it goes into another place of it, and from there into a directory: all of it.
    let (one, other) = (at("one"), at("other"));
    let root = second.path("server").display().to_string();
    run(&["snapshot", "save", &one, "--root", &root]);
    let place = second.killed();
    drop(first);
    let restore = ["snapshot", "restore", &one, "--encryption-keys", &keys, &store, "--etcd-prefix", "/restored/"];
    let said = run(&restore);
    assert!(said.contains("/restored/ in etcd"), "{said}");
    let why = refused(&restore.map(str::to_owned));
    assert!(why.contains("there is something under /restored/"), "{why}");
    let restored = Server::start_with(place, &[&options[..], &["--etcd-prefix", "/restored/"]].concat());
    let made = secrets(&restored).await.get("s").await.unwrap();
    assert_eq!(made.data.unwrap()["k"].0, b"c2hvd24tdG8tbm9uZQ");
    run(&["snapshot", "save", &other, "--root", &root]);
    let place = restored.killed();
    run(&["snapshot", "restore", &other, "--encryption-keys", &keys, "--root", &root]);
    let why = refused_to_start(&place, &["--encryption-keys", &keys]);
    assert!(why.contains("this server's data is in an etcd"), "{why}");
    std::fs::remove_file(place.path().join("server/store.etcd")).unwrap();
    let embedded = Server::start_with(place, &["--encryption-keys", &keys]);
    assert!(secrets(&embedded).await.get_opt("s").await.unwrap().is_some());

    // Another key, while it runs: then the old one is of no use.
    let (new, old) = ("2 //79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=\n", std::fs::read_to_string(&keys).unwrap());
    let root = embedded.path("server").display().to_string();
    let rotate = ["store", "rotate-keys", &keys, "--root", &root];
    std::fs::write(&keys, new).unwrap();
    let why = refused(&rotate.map(str::to_owned));
    assert!(why.contains("key 1 is still needed"), "{why}");
    std::fs::write(&keys, format!("{new}{old}")).unwrap();
    let said = run(&rotate);
    assert!(said.contains("another key than 2"), "{said}");
    std::fs::write(&keys, new).unwrap();
    let embedded = Server::start_with(embedded.killed(), &["--encryption-keys", &keys]);
    assert!(secrets(&embedded).await.get_opt("s").await.unwrap().is_some());
}

async fn operator(server: &Server) -> Client {
    client(&server.path("server/operator.kubeconfig")).await
}

async fn make<K>(client: &Client, object: Value)
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    Api::<K>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
}

async fn holder(client: &Client) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let lease = leases.get_opt("hypernetes-network").await.unwrap();
    lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
}

/// Until there is something.
async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        match attempt().await {
            Some(found) => return found,
            None => assert!(began.elapsed() < PATIENCE, "it does not come"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two servers of one etcd, and a network with a few hundred addresses in it.
async fn two(etcd: &Etcd, store: &str) -> [Server; 2] {
    let first = Server::start_with(tempfile::tempdir().unwrap(), &[store]);
    let token = etcd.directory.path().join("token").display().to_string();
    run(&["store", "token", "create", &token, store, "--root", &first.path("server").display().to_string()]);
    let second = Server::start_with(tempfile::tempdir().unwrap(), &[store, "--token-file", &token]);
    let client = operator(&first).await;
    make::<Network>(&client, json!({"metadata": {"name": "n"}, "spec": {}})).await;
    make::<Subnet>(&client, json!({"metadata": {"name": "s"}, "spec": {"network": "n", "cidr": "10.9.0.0/24"}})).await;
    [first, second]
}

const PORTS: usize = 12;

async fn make_ports(client: &Client, round: usize) {
    for number in 0..PORTS {
        make::<Port>(client, json!({"metadata": {"name": format!("p{round}-{number}")}, "spec": {"network": "n"}}))
            .await;
    }
}

/// All ports have an address, and no two the same, when there are so many.
async fn all_are_apart(client: &Client, ports: usize) {
    let api: Api<Port> = Api::all(client.clone());
    let found = eventually(async || {
        let found = api.list(&Default::default()).await.unwrap().items;
        let placed = found.iter().filter(|port| !port.spec.fixed_ips.is_empty()).count();
        (placed == ports).then_some(found)
    });
    let found = found.await;
    let addresses: BTreeSet<&str> = found.iter().map(|port| port.spec.fixed_ips[0].ip_address.as_str()).collect();
    let macs: BTreeSet<&str> = found.iter().map(|port| port.spec.mac_address.as_str()).collect();
    assert_eq!((addresses.len(), macs.len()), (ports, ports));
}

/// Whoever acts is stopped while it gives addresses, and the other goes on.
#[tokio::test]
async fn no_address_is_given_twice_where_servers_take_turns() {
    let etcd = Etcd::start();
    let store = format!("--store=etcd={}", etcd.url);
    let [mut one, mut other] = two(&etcd, &store).await;
    let mut holders = BTreeSet::new();
    for round in 0..4 {
        make_ports(&operator(&one).await, round).await;
        let place = one.stopped();
        let client = operator(&other).await;
        holders.insert(eventually(async || Some(holder(&client).await).filter(|holder| !holder.is_empty())).await);
        all_are_apart(&client, (round + 1) * PORTS).await;
        one = std::mem::replace(&mut other, Server::start_with(place, &[&store]));
    }
    assert!(holders.len() > 2, "{holders:?}");
}

/// By its lease, which is what pods find it by; one that ends takes that back at once.
#[tokio::test]
async fn each_server_says_that_it_is_there_until_it_ends() {
    let etcd = Etcd::start();
    let [one, other] = two(&etcd, &format!("--store=etcd={}", etcd.url)).await;
    let leases: Api<Lease> = Api::namespaced(operator(&other).await, "kube-system");
    let of_servers = ListParams::default().labels("apiserver.kubernetes.io/identity=kube-apiserver");
    let addresses = async || -> BTreeSet<String> {
        let found = leases.list(&of_servers).await.unwrap().items;
        found.iter().map(|lease| lease.annotations()["hypernetes.io/address"].clone()).collect()
    };
    let both = eventually(async || Some(addresses().await).filter(|addresses| addresses.len() == 2)).await;
    drop(one.stopped());
    let left = eventually(async || Some(addresses().await).filter(|addresses| addresses.len() < 2)).await;
    assert!(left.len() == 1 && left.is_subset(&both), "{left:?} of {both:?}");
}

/// Whoever acts stands still for so long that the other goes on, and then does what it was about to do. A quarter of a minute.
#[tokio::test]
#[ignore = "make test-long"]
async fn no_address_is_given_twice_where_a_server_stood_still() {
    let etcd = Etcd::start();
    let store = format!("--store=etcd={}", etcd.url);
    let servers = two(&etcd, &store).await;
    let mut made = 0;
    for [one, other] in [[0, 1], [1, 0]].map(|order| order.map(|index| &servers[index])) {
        let client = operator(other).await;
        make_ports(&operator(one).await, made).await;
        one.signal(Signal::SIGSTOP);
        make_ports(&client, made + 1).await;
        made += 2;
        all_are_apart(&client, made * PORTS).await;
        one.signal(Signal::SIGCONT);
        make_ports(&operator(one).await, made).await;
        made += 1;
        all_are_apart(&client, made * PORTS).await;
    }
}

/// It says so in seconds, and goes on trying.
#[tokio::test]
async fn a_server_says_that_it_waits_for_its_etcd_and_begins_when_there_is_one() {
    let [url, peer] = addresses();
    let (store, mut etcd, began) = (format!("--store=etcd={url}"), None, Instant::now());
    let mut said = None;
    let server = Server::start_when(tempfile::tempdir().unwrap(), &[&store], |log| {
        let waits = log.contains("etcd cannot be reached: waiting for it") && log.contains(&url);
        if waits && etcd.is_none() {
            said = Some(began.elapsed());
            etcd = Some(Etcd::begin(&url, &peer));
        }
        waits
    });
    println!("said after {said:?}");
    let (etcd, client) = (etcd.unwrap(), operator(&server).await);
    assert_eq!(health(&client, "/readyz").await, (200, "ok".into()));
    let verbose = (200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n".into());
    assert_eq!(health(&client, "/livez?verbose").await, verbose);

    // It goes away, and comes back.
    etcd.signal(Signal::SIGSTOP);
    let checks = async {
        for check in ["readyz", "livez"] {
            let told = format!("[+]ping ok\n[-]etcd failed: reason withheld\n{check} check failed\n");
            assert_eq!(health(&client, &format!("/{check}")).await, (500, told));
        }
    };
    // As upstream's answer is.
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap();
    let (all, posting) = (Default::default(), PostParams::default());
    let (got, listed, made, ()) = tokio::join!(maps.get("m"), maps.list(&all), maps.create(&posting, &map), checks);
    for error in [got.err(), listed.err(), made.err()] {
        let Some(kube::Error::Api(status)) = error else { panic!("{error:?}") };
        assert_eq!((status.code, status.reason.as_str()), (504, "Timeout"), "{status:?}");
        let message = "Timeout: request did not complete within requested timeout - ";
        assert!(status.message.starts_with(message), "{status:?}");
    }
    for path in ["/livez/ping", "/livez?exclude=etcd"] {
        assert_eq!(health(&client, path).await, (200, "ok".into()));
    }
    etcd.signal(Signal::SIGCONT);
    eventually(async || (health(&client, "/readyz").await.0 == 200).then_some(())).await;
}

/// What a check of health says, and whether that is success.
async fn health(client: &Client, path: &str) -> (u16, String) {
    use http_body_util::BodyExt;
    let request = http::Request::get(path).body(kube::client::Body::empty()).unwrap();
    let answer = client.send(request).await.unwrap();
    let (code, body) = (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes());
    (code, String::from_utf8(body.to_vec()).unwrap())
}
