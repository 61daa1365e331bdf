//! Every budget is attacked by one tenant while another goes on; every deadline and place before authentication, too.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hypernetes_api::{AllTenants, auth::UserInfo, names};
use hypernetes_apiserver::{
    ApiServer, Config, Deadlines, Limits, TlsConfig,
    budget::{Budget, TABLE},
    serve_within,
};
use hypernetes_store::{EmbeddedStore, embedded::Options};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const ACME: &str = "0123456789abcdef0123456789abcdef";
const GLOBEX: &str = "fedcba9876543210fedcba9876543210";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn user(tenant: &str) -> UserInfo {
    UserInfo {
        name: "admin".into(),
        uid: String::new(),
        groups: vec!["system:masters".into(), "system:authenticated".into()],
        extra: Default::default(),
        tenant: tenant.parse().unwrap(),
    }
}

fn request(tenant: &str, method: &str, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    request.extensions_mut().unwrap().insert(user(tenant));
    request.body(body).unwrap()
}

async fn json_of(response: Response<Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap())
}

struct Bench {
    server: ApiServer,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// A server with two tenants, of which acme may have little.
    async fn new(limits: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap();
        let server = ApiServer::new(Config { store: Arc::new(store), all_tenants: AllTenants::grant() });
        tokio::spawn(server.follow_budgets());
        let bench = Self { server, _directory: directory };
        for tenant in [ACME, GLOBEX] {
            bench.created(tenant, "/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await;
        }
        // Certificates are those of projects that are open, in domains that are.
        let domain = json!({
            "apiVersion": "identity.hypernetes.io/v1alpha1", "kind": "Domain", "metadata": {"name": "default"},
            "spec": {"displayName": "Default", "enabled": true},
        });
        bench.created("system", "/apis/identity.hypernetes.io/v1alpha1/domains", domain).await;
        for (tenant, limits) in [(ACME, limits.clone()), (GLOBEX, json!({}))] {
            let spec = json!({"displayName": tenant, "domain": "default", "enabled": true, "limits": limits});
            let project = json!({
                "apiVersion": "identity.hypernetes.io/v1alpha1", "kind": "Project", "metadata": {"name": tenant},
                "spec": spec,
            });
            bench.created("system", "/apis/identity.hypernetes.io/v1alpha1/projects", project).await;
        }
        // The tenant sees what the operator has set.
        let wanted = limits.as_object().unwrap();
        for _ in 0..500 {
            let (_, shown) = json_of(bench.send(request(ACME, "GET", "/budgets", Body::empty())).await).await;
            let items = shown["items"].as_array().unwrap();
            let limit = |name: &str| items.iter().find(|item| item["name"] == name).map(|item| item["limit"].clone());
            if wanted.iter().all(|(name, value)| limit(name).as_ref() == Some(value)) {
                return bench;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the limits are not taken over");
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.server.router().oneshot(request).await.unwrap()
    }

    async fn create(&self, tenant: &str, name: &str, size: usize) -> (u16, Value) {
        let object = json!({"metadata": {"name": name}, "data": {"text": "x".repeat(size)}}).to_string();
        json_of(self.send(request(tenant, "POST", MAPS, Body::from(object))).await).await
    }

    async fn created(&self, tenant: &str, path: &str, object: Value) {
        let (code, answer) =
            json_of(self.send(request(tenant, "POST", path, Body::from(object.to_string()))).await).await;
        assert_eq!(code, 201, "{answer}");
    }
}

/// What acme does to exceed the budget, and the answer to what was one too many. The rest is what is still held.
async fn attack(bench: &Bench, budget: Budget) -> ((u16, Value), Box<dyn std::any::Any>) {
    let get = |path: &str| request(ACME, "GET", path, Body::empty());
    let held = |kept: Vec<Response<Body>>| Box::new(kept) as Box<dyn std::any::Any>;
    match budget {
        Budget::Objects => {
            for i in 0..20 {
                let answer = bench.create(ACME, &format!("many-{i}"), 1).await;
                if answer.0 != 201 {
                    return (answer, Box::new(()));
                }
            }
            panic!("twenty objects");
        }
        Budget::StoredBytes => (bench.create(ACME, "large", 200_000).await, Box::new(())),
        Budget::Requests | Budget::Watches | Budget::ResponseBytes => {
            let path = if budget == Budget::Watches { format!("{MAPS}?watch=true") } else { MAPS.to_owned() };
            let mut kept = Vec::new();
            for _ in 0..100 {
                let response = bench.send(get(&path)).await;
                if !response.status().is_success() {
                    return (json_of(response).await, held(kept));
                }
                kept.push(response);
            }
            panic!("a hundred unread answers");
        }
        Budget::RequestBytes => {
            // A body that does not end takes what has come of it.
            let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
            let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
            let unfinished = tokio::spawn(bench.server.router().oneshot(request(ACME, "POST", MAPS, body)));
            for _ in 0..3 {
                sender.send(Ok(Bytes::from(vec![b' '; 20_000]))).await.unwrap();
            }
            (bench.create(ACME, "another", 50_000).await, Box::new((sender, unfinished)))
        }
        Budget::Connections => {
            let server = Server::start(&bench.server, ROOMY, Deadlines::default()).await;
            let mut kept = Vec::new();
            for _ in 0..10 {
                let mut client = server.connect("127.0.0.1", Some(ACME)).await.unwrap();
                let answer = client.get(MAPS).await.unwrap();
                if answer.0 != 200 {
                    // Another tenant's, at the same time, through the same port.
                    let mut other = server.connect("127.0.0.1", Some(GLOBEX)).await.unwrap();
                    assert_eq!(other.get(MAPS).await.unwrap().0, 200);
                    return (answer, Box::new((server, kept)));
                }
                kept.push(client);
            }
            panic!("ten connections");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_budget_is_the_tenants_own() {
    for row in &TABLE {
        let limit = match row.budget {
            Budget::Objects => 8,
            Budget::StoredBytes => 100_000,
            Budget::Connections => 3,
            Budget::Requests | Budget::Watches => 4,
            Budget::RequestBytes => 80_000,
            Budget::ResponseBytes => 100_000,
        };
        let bench = Bench::new(json!({row.name: limit})).await;
        if row.budget == Budget::ResponseBytes {
            assert_eq!(bench.create(ACME, "a", 30_000).await.0, 201);
        }
        let ((code, answer), held) = attack(&bench, row.budget).await;
        let wanted = (row.reason.code().as_u16(), json!(row.reason));
        assert_eq!((code, answer["reason"].clone()), wanted, "{}: {answer}", row.name);
        assert!(answer["message"].as_str().unwrap().contains(row.name), "{answer}");
        // Meanwhile another tenant does the same, less often.
        let (code, answer) = bench.create(GLOBEX, "mine", 200_000).await;
        assert_eq!(code, 201, "{}: {answer}", row.name);
        let watch = request(GLOBEX, "GET", &format!("{MAPS}?watch=true"), Body::empty());
        assert_eq!(bench.send(watch).await.status(), 200);
        // What was held is given back.
        drop(held);
        if !matches!(row.budget, Budget::Objects | Budget::StoredBytes) {
            let mut code = 0;
            for _ in 0..500 {
                code = bench.send(request(ACME, "GET", MAPS, Body::empty())).await.status().as_u16();
                if code == 200 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(code, 200, "{}", row.name);
        }
        // Deleting works whatever is exceeded.
        let all = request(ACME, "DELETE", MAPS, Body::empty());
        assert_eq!(bench.send(all).await.status(), 200, "{}", row.name);
    }
}

/// The server behind TLS, and clients from any loopback address.
struct Server {
    api: ApiServer,
    address: std::net::SocketAddr,
    issuer: Issuer<'static, KeyPair>,
    authority: String,
    stop: CancellationToken,
}

struct Client(tokio_rustls::client::TlsStream<TcpStream>);

const ROOMY: Limits = Limits { total: 64, reserved: 8, source: 32, source_new: 32 };
const SHORT: Deadlines = Deadlines {
    // Ample for those who do something, on a busy machine too.
    handshake: Duration::from_secs(3),
    header: Duration::from_secs(2),
    idle: Duration::from_secs(2),
    body: Duration::from_secs(1),
    read: Duration::from_secs(2),
};

impl Server {
    async fn start(api: &ApiServer, limits: Limits, deadlines: Deadlines) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap().pem();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = TlsConfig { certificate, key: key.serialize_pem(), client_authority: authority.clone() };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let (router, tenants) = (api.router(), api.authorities());
        tokio::spawn(async move {
            serve_within(listener, router, &tls, tenants, limits, deadlines, stopping).await.unwrap();
        });
        Self { api: api.clone(), address, issuer, authority, stop }
    }

    async fn plain(&self, from: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// A tenant's authority, as the operator has it.
    async fn authority_of(&self, tenant: &str) -> Issuer<'static, KeyPair> {
        self.api.authorities().of(&tenant.parse().unwrap()).await.unwrap();
        let path = format!("/api/v1/namespaces/hypernetes-identity/secrets/authority-{tenant}");
        let (code, secret) =
            json_of(self.api.router().oneshot(request("system", "GET", &path, Body::empty())).await.unwrap()).await;
        assert_eq!(code, 200, "{secret}");
        let entry = |name: &str| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(secret["data"][name].as_str().unwrap());
            String::from_utf8(bytes.unwrap()).unwrap()
        };
        Issuer::from_ca_cert_pem(&entry("ca.crt"), KeyPair::from_pem(&entry("ca.key")).unwrap()).unwrap()
    }

    /// With a certificate of a tenant, or of the system's.
    async fn connect(&self, from: &str, tenant: Option<&str>) -> std::io::Result<Client> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match tenant {
            None => config.with_no_client_auth(),
            Some(tenant) => {
                let key = KeyPair::generate().unwrap();
                let mut params = CertificateParams::default();
                params.distinguished_name.push(DnType::CommonName, "admin");
                let group = if tenant == "system" { "system:masters" } else { names::GROUP_KEYSTONE_ADMIN };
                params.distinguished_name.push(DnType::OrganizationName, group);
                let whose = format!("{}{tenant}", names::CERTIFICATE_TENANT_URI);
                params.subject_alt_names.push(SanType::URI(whose.try_into().unwrap()));
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params.use_authority_key_identifier_extension = true;
                let certificate = match tenant {
                    "system" => params.signed_by(&key, &self.issuer),
                    tenant => params.signed_by(&key, &self.authority_of(tenant).await),
                };
                let certificate = certificate.unwrap().der().clone();
                let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
                config.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        Ok(Client(connector.connect(name, self.plain(from).await).await?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Client {
    async fn get(&mut self, path: &str) -> std::io::Result<(u16, Value)> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let code = head[9..12].parse().unwrap();
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// Whether the other end hangs up.
async fn ends(mut stream: impl AsyncReadExt + Unpin) {
    let mut buffer = [0; 1024];
    let end = async { while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the connection is kept for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_keeps_a_place_by_doing_nothing() {
    let bench = Bench::new(json!({})).await;
    let server = Server::start(&bench.server, ROOMY, SHORT).await;
    // No TLS at all; TLS and no request; half a header; half a body; an idle connection.
    ends(server.plain("127.0.0.2").await).await;
    ends(server.connect("127.0.0.2", None).await.unwrap().0).await;
    let mut half = server.connect("127.0.0.2", None).await.unwrap().0;
    half.write_all(b"GET / HTTP/1.1\r\nhost: lo").await.unwrap();
    ends(half).await;
    let mut body = server.connect("127.0.0.2", Some(ACME)).await.unwrap().0;
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{");
    body.write_all(head.as_bytes()).await.unwrap();
    ends(body).await;
    let mut idle = server.connect("127.0.0.2", Some(ACME)).await.unwrap();
    assert_eq!(idle.get(MAPS).await.unwrap().0, 200);
    ends(idle.0).await;
    // A watch is not idle, although nothing happens.
    let mut watch = server.connect("127.0.0.2", Some(ACME)).await.unwrap().0;
    watch.write_all(format!("GET {MAPS}?watch=true HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(SHORT.idle * 2).await;
    bench.create(ACME, "seen", 1).await;
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("seen") {
        text.push(watch.read_u8().await.expect("the watch has ended"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_source_takes_nothing_from_others_and_none_takes_from_the_system() {
    let bench = Bench::new(json!({})).await;
    let limits = Limits { total: 16, reserved: 4, source: 6, source_new: 3 };
    let server = Server::start(&bench.server, limits, Deadlines::default()).await;
    // A source that only connects gets so far, and others do not notice.
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(server.plain("127.0.0.2").await);
    }
    assert!(server.connect("127.0.0.2", Some(ACME)).await.is_err(), "there is no place for a fourth");
    let mut others = Vec::new();
    for from in ["127.0.0.3", "127.0.0.4"] {
        for _ in 0..6 {
            let Ok(mut client) = server.connect(from, Some(GLOBEX)).await else { break };
            // The last ones find only the places that are kept.
            if client.get(MAPS).await.is_ok() {
                others.push(client);
            }
        }
    }
    assert!((9..=12).contains(&others.len()), "{}", others.len());
    let mut operator = server.connect("127.0.0.5", Some("system")).await.unwrap();
    assert_eq!(operator.get("/api/v1/nodes").await.unwrap().0, 200);
}
