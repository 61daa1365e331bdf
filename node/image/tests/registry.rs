//! Pulls from Debian's docker-registry and from one that misbehaves.

mod common;

use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{
    Layer, Mounted, gzip, layout, noise,
    registry::{Manners, OwnRegistry, RealRegistry, digest_of},
};
use hypernetes_image::{Credentials, ImageError, ImageStore, Options, Puller, Retries};
use serde_json::{Value, json};
use tempfile::TempDir;

/// bcrypt of `s3cret`.
const HTPASSWD: &str = "user:$2y$04$.dFrcySMG/dsETaewse4j.7ermkAIlUDuoapWLrDMMITzDUStDlam\n";

/// Who pulls in these tests.
const ACME: &str = "acme";

/// Somebody who may have as much as they like.
fn puller(id: &str) -> Puller {
    Puller { id: id.into(), max_bytes: u64::MAX }
}

fn acme() -> Puller {
    puller(ACME)
}

fn retries() -> Retries {
    Retries { attempts: 3, first_delay: Duration::from_millis(1), longest_delay: Duration::from_millis(5) }
}

fn open(directory: impl Into<std::path::PathBuf>) -> ImageStore {
    ImageStore::open_with(directory.into(), Options { internal_registries: true, ..Options::default() }).unwrap()
}

/// A store and a directory of registries' hosts.
struct Bench {
    directory: TempDir,
    store: Arc<ImageStore>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("hosts")).unwrap();
        let hosts = Some(directory.path().join("hosts"));
        let mut options = Options { hosts, retries: retries(), internal_registries: true, ..Options::default() };
        change(&mut options);
        let store = Arc::new(ImageStore::open_with(directory.path().join("store"), options).unwrap());
        Self { directory, store }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn hosts(&self, registry: &str, file: &str) {
        let place = self.path().join("hosts").join(registry);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("hosts.toml"), file).unwrap();
    }

    fn layout(&self, name: &str, layers: Vec<Layer>, index: bool) -> std::path::PathBuf {
        let root = self.path().join(name);
        let layers: Vec<_> = layers.into_iter().map(Layer::tar).map(|tar| (tar.clone(), gzip(&tar))).collect();
        layout(&root, &layers, index);
        root
    }

    /// Files of the store, without the index.
    fn left(&self) -> Vec<std::path::PathBuf> {
        let files = |directory: &str| fs::read_dir(self.path().join("store").join(directory)).unwrap();
        ["rootfs", "layers", "tmp"].into_iter().flat_map(files).map(|file| file.unwrap().path()).collect()
    }
}

fn basic(password: &str) -> Option<Credentials> {
    Some(Credentials::Basic { username: "user".into(), password: password.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_layers_share_them_on_disk() {
    let bench = Bench::new();
    let registry = RealRegistry::plain(bench.path());
    let base = || Layer::new().file("base", noise(3 << 20, 1));
    let first = bench.layout("first", vec![base(), Layer::new().file("one", "1")], true);
    registry.push(&first, "demo/first:1");
    let second = bench.path().join("second");
    let (tar, upper) = (base().tar(), Layer::new().file("two", noise(2 << 20, 2)).file(".wh.gone", "").tar());
    layout(&second, &[(tar.clone(), gzip(&tar)), (upper.clone(), zstd::encode_all(&*upper, 1).unwrap())], false);
    registry.push(&second, "demo/second:2");

    let name = format!("{}/demo/first:1", registry.address);
    let image = bench.store.pull(&name, None, &acme()).await.unwrap();
    assert_eq!(image.tags, [name.as_str()]);
    assert_eq!(image.digests, [format!("{}/demo/first@{}", registry.address, digest_of(&first))]);
    let before = bench.store.usage().0;
    let other = bench.store.pull(&format!("{}/demo/second:2", registry.address), None, &acme()).await.unwrap();
    let grown = bench.store.usage().0 - before;
    assert!(grown < (2 << 20) + (256 << 10), "the base is there once: {grown}");
    let (a, b) = (Mounted::new(&image.rootfs), Mounted::new(&other.rootfs));
    assert_eq!(fs::read(a.path("base")).unwrap(), noise(3 << 20, 1));
    assert_eq!(fs::read(b.path("base")).unwrap(), noise(3 << 20, 1));
    assert_eq!((a.read("one").as_str(), fs::read(b.path("two")).unwrap() == noise(2 << 20, 2)), ("1", true));

    // By digest, it is the same image, and no tag is made up.
    let by_digest = bench.store.pull(&image.digests[0], None, &acme()).await.unwrap();
    assert_eq!(by_digest, image);
    assert!(bench.store.get(&image.digests[0]).is_some());
    let error = bench.store.pull(&format!("{}/demo/first:none", registry.address), None, &acme()).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    let wrong = format!("{}/demo/first@sha256:{}", registry.address, "0".repeat(64));
    assert!(matches!(bench.store.pull(&wrong, None, &acme()).await, Err(ImageError::NotFound { .. })));

    // A shared layer goes with the last image that has it.
    drop((a, b));
    bench.store.remove(&name).await.unwrap();
    let kept = Mounted::new(&other.rootfs);
    assert_eq!(fs::read(kept.path("base")).unwrap(), noise(3 << 20, 1));
    bench.store.remove(&other.id.to_string()).await.unwrap();
    assert_eq!(bench.left(), Vec::<std::path::PathBuf>::new());
}

fn certificates(directory: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    fs::write(directory.join("server.pem"), server.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_own_authority_and_a_password() {
    let bench = Bench::new();
    certificates(bench.path());
    fs::write(bench.path().join("htpasswd"), HTPASSWD).unwrap();
    let root = bench.layout("image", vec![Layer::new().file("a", "secret")], false);
    RealRegistry::plain(bench.path()).push(&root, "demo/private:1");
    let tls = json!({"tls": {
        "certificate": bench.path().join("server.pem"), "key": bench.path().join("server.key")
    }});
    let auth = json!({"htpasswd": {"realm": "test", "path": bench.path().join("htpasswd")}});
    let registry = RealRegistry::start(bench.path(), tls, auth);
    let name = format!("{}/demo/private:1", registry.address);

    bench.hosts(&registry.address, &format!("server = \"https://{}\"", registry.address));
    let error = bench.store.pull(&name, basic("s3cret"), &acme()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");

    let file = format!("server = \"https://{}\"\nca = \"{}\"", registry.address, bench.path().join("ca.pem").display());
    bench.hosts(&registry.address, &file);
    for credentials in [None, basic("wrong"), Some(Credentials::Token("x".into()))] {
        let error = bench.store.pull(&name, credentials, &acme()).await.unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
        assert!(error.to_string().contains("pull access denied"), "{error}");
        assert!(!error.to_string().contains("wrong"), "no secret is told: {error}");
    }
    let private = bench.store.pull(&name, basic("s3cret"), &acme()).await.unwrap();
    // What one puller may have is not everybody's.
    assert!(bench.store.pull(&name, None, &acme()).await.is_err());
    let may = |puller: &str| bench.store.may_use(&private.id, puller);
    assert!(may(ACME) && !may("globex") && !may(""), "only who has shown it");
    assert!(bench.store.pull(&name, basic("wrong"), &puller("globex")).await.is_err() && !may("globex"));
    bench.store.pull(&name, basic("s3cret"), &puller("globex")).await.unwrap();
    assert!(may(ACME) && may("globex") && !may(""));
    assert!(bench.store.pullers().iter().eq([ACME, "globex"]));
    bench.store.forget_puller(ACME).unwrap();
    assert!(!may(ACME) && may("globex") && bench.store.pullers().iter().eq(["globex"]));
    // Also by the next process.
    let again = open(bench.path().join("store"));
    assert!(again.may_use(&private.id, "globex") && !again.may_use(&private.id, ACME));
}

/// Public images and others count alike: the tenant has had them brought here.
#[tokio::test(flavor = "multi_thread")]
async fn who_pulls_pays_until_the_image_is_gone() {
    let bench = Bench::new();
    let registry = OwnRegistry::start().await;
    let base = || Layer::new().file("base", noise(3 << 20, 1));
    for (tag, layers) in [
        ("1", vec![base()]),
        ("2", vec![base(), Layer::new().file("two", noise(2 << 20, 2))]),
        ("large", vec![Layer::new().file("large", noise(4 << 20, 3))]),
        // A few kilobytes until they are unpacked.
        ("bomb", vec![Layer::new().file("bomb", b"boom".repeat(1 << 20))]),
    ] {
        registry.load(&bench.layout(tag, layers, false), tag);
    }
    let acme = Puller { id: ACME.into(), max_bytes: 6 << 20 };
    let pull = async |tag: &str, puller: &Puller| bench.store.pull(&registry.name(tag), None, puller).await;
    let first = pull("1", &acme).await.unwrap();
    // What it shares with the first counts once; and the same again is nothing new.
    for tag in ["2", "2", "1"] {
        pull(tag, &acme).await.unwrap();
    }
    let before = bench.left();
    for tag in ["large", "bomb"] {
        let error = pull(tag, &acme).await.unwrap_err();
        assert!(matches!(error, ImageError::Quota { limit: 6_291_456, .. }), "{tag}: {error}");
        assert!(error.to_string().starts_with("exceeded quota: tenant, requested: imageBytes="), "{error}");
        assert_eq!(bench.left(), before, "{tag}");
    }
    // Also after a restart; and another tenant has its own, of the same image too.
    let again = open(bench.path().join("store"));
    assert!(matches!(again.pull(&registry.name("large"), None, &acme).await, Err(ImageError::Quota { .. })));
    pull("large", &puller("globex")).await.unwrap();
    assert!(matches!(pull("large", &acme).await, Err(ImageError::Quota { .. })));
    bench.store.remove(&registry.name("2")).await.unwrap();
    assert!(matches!(pull("large", &acme).await, Err(ImageError::Quota { .. })), "the first has the base");
    bench.store.remove(&first.id.to_string()).await.unwrap();
    pull("large", &acme).await.unwrap();
}

/// Gives tokens as docker-registry wants them.
struct TokenServer {
    key: ring::signature::EcdsaKeyPair,
    certificate: String,
}

impl TokenServer {
    fn token(&self, scope: &str, granted: bool) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let name = scope.split(':').nth(1).unwrap_or_default();
        let access =
            if granted { json!([{"type": "repository", "name": name, "actions": ["pull"]}]) } else { json!([]) };
        let claims = json!({
            "iss": "issuer", "sub": "user", "aud": "registry", "exp": now + 300, "nbf": now - 300, "iat": now,
            "jti": "1", "access": access,
        });
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(&ring::rand::SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[derive(serde::Deserialize)]
struct Asked {
    #[serde(default)]
    scope: String,
}

async fn by_password(
    State(server): State<Arc<TokenServer>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    use base64::engine::general_purpose::STANDARD;
    let good = format!("Basic {}", STANDARD.encode("user:s3cret"));
    match headers.get("authorization").map(|value| value.to_str().unwrap()) {
        None => Json(json!({"token": server.token(&asked.scope, false)})).into_response(),
        Some(value) if value == good => Json(json!({"token": server.token(&asked.scope, true)})).into_response(),
        Some(_) => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn by_refresh_token(State(server): State<Arc<TokenServer>>, body: String) -> Response {
    let form: reqwest::Url = format!("form:?{body}").parse().unwrap();
    let field = |name: &str| form.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    match (field("grant_type").as_deref(), field("refresh_token").as_deref(), field("scope")) {
        (Some("refresh_token"), Some("refresh"), Some(scope)) => {
            Json(json!({"access_token": server.token(&scope, true)})).into_response()
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_where_the_registry_says() {
    use base64::engine::general_purpose::STANDARD;
    let bench = Bench::new();
    let root = bench.layout("image", vec![Layer::new().file("a", "secret")], false);
    RealRegistry::plain(bench.path()).push(&root, "demo/private:1");

    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    fs::write(bench.path().join("issuer.pem"), certificate.pem()).unwrap();
    let signing = ring::signature::EcdsaKeyPair::from_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &key.serialize_der(),
        &ring::rand::SystemRandom::new(),
    );
    let server =
        Arc::new(TokenServer { key: signing.unwrap(), certificate: STANDARD.encode(certificate.der().as_ref()) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let realm = format!("http://{}/token", listener.local_addr().unwrap());
    let router = Router::new().route("/token", get(by_password).post(by_refresh_token)).with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });

    let auth = json!({"token": {
        "realm": realm, "service": "registry", "issuer": "issuer", "rootcertbundle": bench.path().join("issuer.pem")
    }});
    let registry = RealRegistry::start(bench.path(), json!({}), auth);
    let name = format!("{}/demo/private:1", registry.address);
    let bad = [None, basic("wrong"), Some(Credentials::Identity("stale".into())), Some(Credentials::Token("x".into()))];
    for credentials in bad {
        let error = bench.store.pull(&name, credentials.clone(), &acme()).await.unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{credentials:?}: {error}");
    }
    let token = server.token("repository:demo/private:pull", true);
    for credentials in [basic("s3cret"), Some(Credentials::Identity("refresh".into())), Some(Credentials::Token(token))]
    {
        bench.store.pull(&name, credentials, &acme()).await.unwrap();
        bench.store.remove(&name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_the_registry_itself_last() {
    let bench = Bench::new();
    let root = bench.layout("image", vec![Layer::new().file("a", "a")], false);
    let (mirror, origin) = (OwnRegistry::start().await, OwnRegistry::start().await);
    mirror.load(&root, "1");
    origin.load(&root, "1");
    origin.load(&root, "2");
    let (at_mirror, at_origin) = (mirror.address.lock().clone(), origin.address.lock().clone());
    bench.hosts("registry.example.com", &format!("server = \"http://{at_origin}\"\n[host.\"http://{at_mirror}\"]"));
    let image = bench.store.pull("registry.example.com/a/b:1", None, &acme()).await.unwrap();
    assert_eq!(image.tags, ["registry.example.com/a/b:1"]);
    assert_eq!(origin.blob_requests.load(Ordering::SeqCst), 0);
    // The mirror has no such tag.
    bench.store.pull("registry.example.com/a/b:2", None, &acme()).await.unwrap();
    assert_eq!(origin.manifest_requests.load(Ordering::SeqCst), 1);
    // The mirror lies, and the registry does not; a mirror that is gone is passed over.
    bench.store.remove(&image.id.to_string()).await.unwrap();
    mirror.manners.lock().lie = Some(b"\x1f\x8bnonsense".to_vec());
    bench.store.pull("registry.example.com/a/b:1", None, &acme()).await.unwrap();
    bench.hosts(
        "registry.example.com",
        &format!(
            "server = \"http://{at_origin}\"\n[host.\"http://127.0.0.1:1\"]\ncapabilities = [\"pull\", \"resolve\"]"
        ),
    );
    bench.store.pull("registry.example.com/a/b:1", None, &acme()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfers_go_on_where_they_were() {
    let bench = Bench::new();
    let registry = OwnRegistry::start().await;
    let root = bench.layout("image", vec![Layer::new().file("a", noise(1 << 20, 3))], false);
    registry.load(&root, "1");
    *registry.manners.lock() = Manners { break_after: Some(300 << 10), ..Manners::default() };
    let image = bench.store.pull(&registry.name("1"), None, &acme()).await.unwrap();
    // The configuration, and four parts of a layer of a little more than 1 MiB.
    assert_eq!(registry.blob_requests.load(Ordering::SeqCst), 5);
    assert_eq!(fs::read(Mounted::new(&image.rootfs).path("a")).unwrap(), noise(1 << 20, 3));

    // Without ranges it never gets to the end, and says why.
    bench.store.remove(&image.id.to_string()).await.unwrap();
    registry.manners.lock().ignore_ranges = true;
    let error = bench.store.pull(&registry.name("1"), None, &acme()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
    *registry.manners.lock() = Manners { busy: 2, ..Manners::default() };
    bench.store.pull(&registry.name("1"), None, &acme()).await.unwrap();
    bench.store.remove(&image.id.to_string()).await.unwrap();
    registry.manners.lock().busy = 9;
    let error = bench.store.pull(&registry.name("1"), None, &acme()).await.unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable") && error.to_string().contains("503"), "{error}");
    assert!(bench.store.list().is_empty() && bench.store.pulls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_found_before_anything_is_used() {
    let bench = Bench::new();
    let registry = OwnRegistry::start().await;
    let root = bench.layout("image", vec![Layer::new().file("a", "a")], false);
    registry.load(&root, "1");
    let right = registry.blobs.lock().values().find(|bytes| !bytes.starts_with(b"{")).unwrap().clone();
    let mut other = right.clone();
    other[20] ^= 1;
    for lie in [other, right[..right.len() - 1].to_vec(), [right, vec![0; 100_000]].concat()] {
        registry.manners.lock().lie = Some(lie);
        let error = bench.store.pull(&registry.name("1"), None, &acme()).await.unwrap_err();
        assert!(matches!(error, ImageError::Pull { .. }), "{error}");
    }
    // A manifest that is not what its digest says, and documents that are none.
    let digest = digest_of(&root).to_string();
    registry.manifests.lock().insert(digest.clone(), b"{}".to_vec());
    let by_digest = registry.name("1").replace(":1", &format!("@{digest}"));
    assert!(bench.store.pull(&by_digest, None, &acme()).await.unwrap_err().to_string().contains("has the digest"));
    let huge = [vec![b' '; 5 << 20], b"{}".to_vec()].concat();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let size = json!({"digest": zeros, "size": u64::MAX});
    let documents: Vec<Vec<u8>> = vec![
        b"not json".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        br#"{"schemaVersion": 1, "fsLayers": []}"#.to_vec(),
        json!({"manifests": []}).to_string().into(),
        json!({"manifests": [{"digest": "sha512:00"}]}).to_string().into(),
        json!({"config": size, "layers": vec![size.clone(); 300]}).to_string().into(),
        json!({"config": size, "layers": []}).to_string().into(),
        huge,
    ];
    for document in documents {
        registry.manifests.lock().insert("1".into(), document.clone());
        let error = bench.store.pull(&registry.name("1"), None, &acme()).await;
        assert!(error.is_err(), "{}", String::from_utf8_lossy(&document[..document.len().min(100)]));
    }
    assert!(bench.store.list().is_empty());
    bench.store.remove("x").await.unwrap();
    assert!(bench.left().is_empty(), "{:?}", bench.left());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_do_the_work_once() {
    let bench = Bench::new();
    let registry = OwnRegistry::start().await;
    let layers = (0..5).map(|i| Layer::new().file(&format!("f{i}"), noise(64 << 10, i))).collect();
    registry.load(&bench.layout("image", layers, false), "1");
    registry.load(&bench.path().join("image"), "2");
    registry.manners.lock().pause = Duration::from_millis(20);
    let pulls: Vec<_> = (0..10)
        .map(|i| {
            let (store, name) = (bench.store.clone(), registry.name(if i % 2 == 0 { "1" } else { "2" }));
            tokio::spawn(async move { store.pull(&name, None, &acme()).await })
        })
        .collect();
    let mut seen = (0, 0);
    while (seen.0 == 0 || bench.store.pulls().len() == 10) && !pulls.iter().all(tokio::task::JoinHandle::is_finished) {
        let pulls = bench.store.pulls();
        seen = pulls.iter().map(|p| (p.received_bytes, p.total_bytes)).max().unwrap_or(seen).max(seen);
        assert!(pulls.iter().all(|p| p.received_bytes <= p.total_bytes));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.list().len(), 1);
    assert_eq!(bench.store.list()[0].tags.len(), 2);
    // Each layer once; the configuration for each pull, since each has to be allowed.
    assert_eq!(registry.blob_requests.load(Ordering::SeqCst), 5 + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_registry_has_to_serve_a_layer_before_its_pullers_get_it() {
    let bench = Bench::new();
    let (ours, theirs) = (OwnRegistry::start().await, OwnRegistry::start().await);
    let root = bench.layout("image", vec![Layer::new().file("a", "another tenant's")], false);
    ours.load(&root, "1");
    theirs.load(&root, "1");
    theirs.blobs.lock().retain(|_, bytes| bytes.starts_with(b"{"));
    bench.store.pull(&ours.name("1"), None, &acme()).await.unwrap();
    // They know all digests, and not the bytes.
    let error = bench.store.pull(&theirs.name("1"), None, &acme()).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    theirs.load(&root, "1");
    bench.store.pull(&theirs.name("1"), None, &acme()).await.unwrap();
    assert_eq!(bench.store.list().len(), 1);
}

/// Not a test by itself: what the next one kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is run by another test"]
async fn child_that_pulls() {
    let (store, name) = (std::env::var("STORE").unwrap(), std::env::var("NAME").unwrap());
    open(store).pull(&name, None, &acme()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_nothing_half_usable_is_left() {
    let bench = Bench::new();
    let registry = OwnRegistry::start().await;
    let layers = vec![Layer::new().file("a", noise(2 << 20, 7)), Layer::new().file("b", noise(64 << 10, 8))];
    registry.load(&bench.layout("image", layers, false), "1");
    registry.manners.lock().pause = Duration::from_millis(2);
    let store = bench.path().join("killed");
    let mut whole = 0;
    for step in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_pulls", "--ignored", "--quiet"])
            .env("STORE", &store)
            .env("NAME", registry.name("1"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(40 + step * 60)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let opened = open(store.clone());
        let images = opened.list();
        let files: Vec<_> =
            ["rootfs", "layers", "tmp"].iter().flat_map(|d| fs::read_dir(store.join(d)).unwrap()).collect();
        match images.as_slice() {
            [] => assert!(files.is_empty(), "step {step}: {files:?}"),
            [image] => {
                whole += 1;
                assert_eq!(fs::read(Mounted::new(&image.rootfs).path("a")).unwrap(), noise(2 << 20, 7));
                opened.remove(&image.id.to_string()).await.unwrap();
            }
            _ => panic!("{images:?}"),
        }
    }
    assert!(whole < 8, "every child was killed too late");
    open(store).pull(&registry.name("1"), None, &acme()).await.unwrap();
}

/// A small file system, unmounted when dropped.
struct Small(TempDir);

impl Small {
    fn new(kib: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={kib}k");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(directory.path()).status();
        assert!(status.unwrap().success(), "this test mounts a file system: run it as root");
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let bench = Bench::new();
    let registry = OwnRegistry::start().await;
    // 1 MiB as it comes, 3 MiB as it is kept.
    let content = [noise(1 << 20, 9), vec![7; 2 << 20]].concat();
    registry.load(&bench.layout("image", vec![Layer::new().file("a", content)], false), "1");
    let mut told = HashSet::new();
    for kib in [64, 512, 1100, 2500, 4200, 4600] {
        let small = Small::new(kib);
        let store = open(small.0.path().join("store"));
        let before = store.usage().0;
        match store.pull(&registry.name("1"), None, &acme()).await {
            Ok(_) => drop(told.insert("enough")),
            Err(error) => {
                assert!(matches!(error, ImageError::NoSpace(_)), "{kib} KiB: {error}");
                assert!(store.list().is_empty());
                assert_eq!(store.usage().0, before, "{kib} KiB: nothing is leaked");
                told.insert("full");
            }
        }
    }
    assert_eq!(told.len(), 2, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_images_go_the_oldest_first() {
    let bench = Bench::with(|options| options.pinned = vec!["127.0.0.1:1/pinned:1".into()]);
    let import = async |name: &str, seed: u64| {
        let layers = vec![Layer::new().file("base", noise(1 << 20, 1)), Layer::new().file("own", noise(1 << 20, seed))];
        let root = bench.layout("image", layers, false);
        bench.store.import(&root, Some(name), tokio::sync::mpsc::channel(8).0).await.unwrap()
    };
    let (pinned, used) = (import("127.0.0.1:1/pinned:1", 2).await, import("used:1", 3).await);
    let (old, new) = (import("old:1", 4).await, import("new:1", 5).await);
    let in_use = HashSet::from([used.id]);
    let young = bench.store.collect(1, &in_use, Duration::from_secs(3600)).await.unwrap();
    assert!(young.images.is_empty());
    let one = bench.store.collect(1, &in_use, Duration::ZERO).await.unwrap();
    assert_eq!(one.images, [old.id]);
    assert!(one.bytes > 1 << 20 && one.bytes < 3 << 19, "only its own layer went: {}", one.bytes);
    let all = bench.store.collect(u64::MAX, &in_use, Duration::ZERO).await.unwrap();
    assert_eq!(all.images, [new.id]);
    assert!(bench.store.is_pinned(&pinned));
    assert_eq!(bench.store.list().len(), 2);
}

fn sign(key: &rcgen::KeyPair, name: &str, digest: &str) -> (Vec<u8>, String) {
    use base64::engine::general_purpose::STANDARD;
    let payload = json!({"critical": {
        "identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature"}, "optional": null});
    let payload = payload.to_string().into_bytes();
    let random = ring::rand::SystemRandom::new();
    let signing = ring::signature::EcdsaKeyPair::from_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        &key.serialize_der(),
        &random,
    );
    let signature = STANDARD.encode(signing.unwrap().sign(&random, &payload).unwrap());
    (payload, signature)
}

/// Puts signatures where cosign does.
fn attach(registry: &OwnRegistry, digest: &str, signatures: &[(Vec<u8>, String)]) {
    let layers: Vec<Value> = signatures
        .iter()
        .map(|(payload, signature)| {
            let mut layer = common::descriptor(payload, "application/vnd.dev.cosign.simplesigning.v1+json");
            layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
            registry.blobs.lock().insert(layer["digest"].as_str().unwrap().into(), payload.clone());
            layer
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": common::descriptor(b"{}", "x"), "layers": layers});
    let tag = format!("{}.sig", digest.replace(':', "-"));
    registry.manifests.lock().insert(tag, manifest.to_string().into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_which_images_are_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.json");
    let bench = Bench::with(|options| options.policy = Some(policy.clone()));
    let registry = OwnRegistry::start().await;
    let root = bench.layout("image", vec![Layer::new().file("a", "a")], false);
    registry.load(&root, "1");
    let (name, digest) = (registry.name("1"), digest_of(&root).to_string());
    let refused = async |why: &str| {
        let error = bench.store.pull(&name, None, &acme()).await.unwrap_err().to_string();
        assert!(error.starts_with("SignatureValidationFailed") && error.contains(why), "{error}");
    };
    let write = |policy: &Path, requirement: Value| {
        let scope = registry.address.lock().clone();
        let text = json!({"default": [{"type": "reject"}], "transports": {"docker": {scope: [requirement]}}});
        fs::write(policy, text.to_string()).unwrap();
    };

    let missing = bench.store.pull(&name, None, &acme()).await.unwrap_err();
    assert!(matches!(missing, ImageError::Configuration { .. }), "{missing}");
    write(&policy, json!({"type": "reject"}));
    refused("refuses it").await;
    write(&policy, json!({"type": "digestRequired"}));
    refused("wants a digest").await;
    bench.store.pull(&name.replace(":1", &format!("@{digest}")), None, &acme()).await.unwrap();

    let (good, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let key = directory.path().join("cosign.pub");
    fs::write(&key, good.public_key_pem()).unwrap();
    write(&policy, json!({"type": "sigstoreSigned", "keyPath": key}));
    refused("no signature of").await;
    let repository = name.trim_end_matches(":1");
    attach(&registry, &digest, &[sign(&other, repository, &digest)]);
    refused("no signature is by a key").await;
    attach(&registry, &digest, &[sign(&good, repository, &format!("sha256:{}", "1".repeat(64)))]);
    refused("another image").await;
    attach(&registry, &digest, &[sign(&good, "elsewhere.example.com/a/b", &digest)]);
    refused("elsewhere").await;
    attach(&registry, &digest, &[sign(&other, repository, &digest), sign(&good, repository, &digest)]);
    bench.store.pull(&name, None, &acme()).await.unwrap();
    fs::write(&key, "not a key").unwrap();
    assert!(matches!(bench.store.pull(&name, None, &acme()).await, Err(ImageError::Configuration { .. })));
}

/// What an image's name, a tenant's text, cannot make this host do: ask what is inside of the operator's network.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_nobody_configured_is_not_asked_at_internal_addresses() {
    let bench = Bench::with(|options| options.internal_registries = false);
    let internal = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    internal.set_nonblocking(true).unwrap();
    let port = internal.local_addr().unwrap().port();
    let said = async |host: &str| {
        let error = bench.store.pull(&format!("{host}/a:1"), None, &acme()).await.unwrap_err();
        assert!(matches!(error, ImageError::Unavailable { .. }), "{host}: {error}");
        error.to_string().replace(host, "HOST")
    };
    // Whether something listens there, and whether there is such a host at all, cannot be told.
    let open = said(&format!("127.0.0.1:{port}")).await;
    assert_eq!(open, said("127.0.0.1:1").await);
    assert_eq!(open, said("169.254.169.254").await);
    let named = said(&format!("localhost:{port}")).await;
    assert_eq!(named.contains("no such host"), open.contains("no such host"));
    assert!(said("none.invalid").await.contains("no such host"));
    let asked = internal.accept();
    assert!(asked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it was connected to");

    // One that has a place in the configuration is.
    let registry = OwnRegistry::start().await;
    registry.load(&bench.layout("image", vec![Layer::new().file("a", noise(1 << 10, 3))], false), "1");
    assert!(bench.store.pull(&registry.name("1"), None, &acme()).await.is_err());
    bench.hosts(registry.name("1").split('/').next().unwrap(), "");
    let image = bench.store.pull(&registry.name("1"), None, &acme()).await.unwrap();
    // What needs no credentials is everybody's.
    assert!(bench.store.may_use(&image.id, "globex"));
}
