//! Every budget is attacked by one tenant while another goes on; every deadline and place before authentication, too.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::body::Body;
use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hypernetes_api::{Reason, auth::Spent, names};
use hypernetes_apiserver::{
    ApiServer, BUDGETS, Budget, Deadlines, KubeletClient, Limits, Shown, TlsConfig, serve_within,
};
use hypernetes_testing::{
    http::Answer,
    requests::{admin, by, infrastructure},
    server::{ACME, GLOBEX, InProcess},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const VOLUMES: &str = "/apis/volume.hypernetes.io/v1alpha1/volumes";

fn request(tenant: &str, method: &str, path: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    by(&admin(tenant), request.body(body).unwrap())
}

async fn json_of(response: Response<Body>) -> (u16, Value) {
    let answer = Answer::of(response).await;
    (answer.status.as_u16(), answer.body)
}

struct Bench(InProcess);

impl Deref for Bench {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.0
    }
}

impl Bench {
    /// A server with two tenants, of which acme may have little.
    async fn new(limits: Value) -> Self {
        let bench = Self(InProcess::start());
        tokio::spawn(bench.server.follow_tenants());
        for tenant in [ACME, GLOBEX] {
            bench.namespace(tenant).await;
            bench.account(tenant).await;
        }
        // Certificates are those of projects that are open, in domains that are.
        bench.domain().await;
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
            let shown = bench.get(&admin(ACME), "/budgets").await.body;
            let items = shown["items"].as_array().unwrap();
            let limit = |name: &str| items.iter().find(|item| item["name"] == name).map(|item| item["limit"].clone());
            if wanted.iter().all(|(name, value)| limit(name).as_ref() == Some(value)) {
                return bench;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the limits are not taken over");
    }

    async fn create(&self, tenant: &str, name: &str, size: usize) -> (u16, Value) {
        let object = json!({"metadata": {"name": name}, "data": {"text": "x".repeat(size)}}).to_string();
        json_of(self.response(request(tenant, "POST", MAPS, Body::from(object))).await).await
    }

    async fn submit(&self, tenant: &str, path: &str, object: Value) -> (u16, Value) {
        json_of(self.response(request(tenant, "POST", path, Body::from(object.to_string()))).await).await
    }

    async fn created(&self, tenant: &str, path: &str, object: Value) {
        let (code, answer) = self.submit(tenant, path, object).await;
        assert_eq!(code, 201, "{answer}");
    }

    /// One that asks for half a core and half a GiB.
    async fn pod(&self, tenant: &str, name: &str) -> (u16, Value) {
        let resources = json!({"requests": {"cpu": "500m", "memory": "512Mi"}});
        let containers = json!([{"name": "c", "image": "i", "resources": resources}]);
        self.submit(tenant, PODS, json!({"metadata": {"name": name}, "spec": {"containers": containers}})).await
    }
}

/// Connections to a pod, on a node that takes as many as come.
async fn sessions(bench: &Bench) -> ((u16, Value), Box<dyn std::any::Any>) {
    let server = Server::start(&bench.server, ROOMY, Deadlines::default()).await;
    let kubelet = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = kubelet.local_addr().unwrap().port();
    // A kubelet is called by its node's name.
    let (certificate, key) = server.identity("n1");
    let shown = Shown::new(&certificate, &key).unwrap();
    let identity = TlsConfig { shown, authority: server.authority.clone() };
    bench.server.set_kubelet_client(KubeletClient::new(&identity).unwrap());
    tokio::spawn(async move {
        let chain = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![chain], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        while let Ok((stream, _)) = kubelet.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                read_to(&mut stream, "\r\n\r\n").await.unwrap();
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                ends(stream).await;
            });
        }
    });
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}},
    });
    bench.created("system", "/api/v1/nodes", node.clone()).await;
    // What a node is like and what comes to it is said by the infrastructure.
    assert_eq!(bench.put(&infrastructure(), "/api/v1/nodes/n1/status", &node).await.status, 200);
    assert_eq!(bench.pod(ACME, "p").await.0, 201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = format!("{PODS}/p/binding");
    let bound = bench.post(&infrastructure(), &format!("/clusters/{ACME}{path}"), binding).await;
    assert_eq!(bound.status, 201, "{}", bound.body);
    let mut kept = Vec::new();
    for _ in 0..10 {
        let mut client = server.connect("127.0.0.1", Some(ACME)).await.unwrap();
        let answer = client.upgrade(&format!("{PODS}/p/exec?command=true&stdout=true")).await.unwrap();
        if answer.0 != 101 {
            return (answer, Box::new((server, kept)));
        }
        kept.push(client);
    }
    panic!("ten sessions");
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
        Budget::Pods | Budget::MilliCpus | Budget::MemoryBytes => {
            for i in 0..20 {
                let answer = bench.pod(ACME, &format!("pod-{i}")).await;
                if answer.0 != 201 {
                    return (answer, Box::new(()));
                }
            }
            panic!("twenty pods");
        }
        Budget::VolumeBytes => {
            for i in 0..20 {
                let volume = json!({"metadata": {"name": format!("v{i}")}, "spec": {"sizeBytes": 1 << 30}});
                let answer = bench.submit(ACME, VOLUMES, volume).await;
                if answer.0 != 201 {
                    return (answer, Box::new(()));
                }
            }
            panic!("twenty volumes");
        }
        Budget::Sessions => sessions(bench).await,
        Budget::ImageBytes | Budget::LogBytes | Budget::AuditBytes => panic!("they are attacked elsewhere"),
        Budget::Requests | Budget::Watches | Budget::ResponseBytes => {
            let path = if budget == Budget::Watches { format!("{MAPS}?watch=true") } else { MAPS.to_owned() };
            let mut kept = Vec::new();
            for _ in 0..100 {
                let response = bench.response(get(&path)).await;
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
            // There is room for the last when the one before it has been taken, and so what came before that has been counted.
            for _ in 0..4 {
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
        Budget::ServerMilliCpus => {
            let schema = "/openapi/v3/api/v1";
            // It is made once, for whoever comes first.
            assert_eq!(bench.response(request(GLOBEX, "GET", schema, Body::empty())).await.status(), 200);
            let server = Server::start(&bench.server, ROOMY, Deadlines::default()).await;
            // Each for itself would wait, and go on.
            let mut clients = tokio::task::JoinSet::new();
            for _ in 0..16 {
                let mut client = server.connect("127.0.0.1", Some(ACME)).await.unwrap();
                clients.spawn(async move {
                    loop {
                        let answer = client.get(schema).await.unwrap();
                        if answer.0 != 200 {
                            return answer;
                        }
                    }
                });
            }
            let refused = clients.join_next().await.unwrap().unwrap();
            (refused, Box::new((server, clients)))
        }
    }
}

/// What is not refused to a request, by nodes and by the audit log, is attacked in their own tests: which.
fn attack_elsewhere(budget: Budget) -> Option<(&'static str, &'static str)> {
    match budget {
        Budget::AuditBytes => {
            Some((include_str!("../src/audit/tests.rs"), "what_there_is_no_room_for_is_counted_and_told_of"))
        }
        Budget::ImageBytes => {
            Some((include_str!("../../../node/image/tests/registry.rs"), "who_pulls_pays_until_the_image_is_gone"))
        }
        Budget::LogBytes => Some((
            include_str!("../../../node/hyperd/src/logs.rs"),
            "a_tenants_logs_are_no_larger_together_than_they_may_be",
        )),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_budget_is_the_tenants_own() {
    for row in &BUDGETS {
        let limit = match row.budget {
            Budget::Objects => 10,
            Budget::Pods => 2,
            Budget::MilliCpus => 1000,
            Budget::MemoryBytes => 1 << 30,
            Budget::VolumeBytes => 5 << 30,
            Budget::Sessions => 3,
            Budget::StoredBytes => 100_000,
            Budget::Connections => 3,
            Budget::Requests | Budget::Watches => 4,
            Budget::RequestBytes => 80_000,
            Budget::ResponseBytes => 100_000,
            Budget::ServerMilliCpus => 1,
            Budget::ImageBytes | Budget::LogBytes | Budget::AuditBytes => 1,
        };
        let bench = Bench::new(json!({row.name: limit})).await;
        if let Some((tests, attack)) = attack_elsewhere(row.budget) {
            assert!(tests.contains(&format!("fn {attack}(")), "{}: no {attack}", row.name);
            continue;
        }
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
        assert_eq!(bench.response(watch).await.status(), 200);
        // What was held is given back.
        drop(held);
        if row.reason == Reason::TooManyRequests {
            let mut code = 0;
            // A thousandth of a core pays for what one more answer takes on a busy machine in half a minute.
            for _ in 0..6000 {
                code = bench.response(request(ACME, "GET", MAPS, Body::empty())).await.status().as_u16();
                if code == 200 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(code, 200, "{}", row.name);
        }
        // Deleting works whatever is exceeded.
        let all = request(ACME, "DELETE", MAPS, Body::empty());
        assert_eq!(bench.response(all).await.status(), 200, "{}", row.name);
    }
}

/// A watch from now on.
async fn watch(bench: &Bench, tenant: &str) -> Body {
    let path = format!("{MAPS}?watch=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=false");
    let response = bench.response(request(tenant, "GET", &path, Body::empty())).await;
    assert_eq!(response.status(), 200);
    response.into_body()
}

async fn ends_by_itself(watch: Body) {
    tokio::time::timeout(Duration::from_secs(30), watch.collect()).await.expect("the watch goes on").unwrap();
}

/// Whether the watch tells of what is made now, or has ended.
async fn lasts(bench: &Bench, tenant: &str, watch: &mut Body, name: &str) -> bool {
    assert_eq!(bench.create(tenant, name, 1).await.0, 201);
    let event = tokio::time::timeout(Duration::from_secs(30), watch.frame()).await.expect("the watch says nothing");
    let Some(event) = event else { return false };
    let event: Value = serde_json::from_slice(&event.unwrap().into_data().unwrap()).unwrap();
    assert_eq!(event["object"]["metadata"]["name"], name, "{event}");
    true
}

/// A watch that goes on, as soon as the server has heard that the tenant is open.
async fn lasting(bench: &Bench, tenant: &str) -> Body {
    for _ in 0..1000 {
        let mut watch = watch(bench, tenant).await;
        let going = lasts(bench, tenant, &mut watch, "again").await;
        let path = format!("{MAPS}/again");
        assert_eq!(bench.response(request(tenant, "DELETE", &path, Body::empty())).await.status(), 200);
        if going {
            // Of the deletion.
            watch.frame().await.unwrap().unwrap();
            return watch;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("watches of {tenant} do not last");
}

#[tokio::test]
async fn what_was_begun_for_a_tenant_ends_when_it_is_closed() {
    const IDENTITY: &str = "/apis/identity.hypernetes.io/v1alpha1";
    let bench = Bench::new(json!({})).await;
    let set = async |path: &str, enabled: bool| {
        let patch = json!({"spec": {"enabled": enabled}});
        let answer = bench.merge(&admin("system"), &format!("{IDENTITY}/{path}"), patch).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    let (acmes, mut globex) = (lasting(&bench, ACME).await, lasting(&bench, GLOBEX).await);
    set(&format!("projects/{ACME}"), false).await;
    ends_by_itself(acmes).await;
    assert!(lasts(&bench, GLOBEX, &mut globex, "a").await);
    // What comes late, after it was let in, ends as well.
    ends_by_itself(watch(&bench, ACME).await).await;
    set("domains/default", false).await;
    ends_by_itself(globex).await;
    set("domains/default", true).await;
    drop(lasting(&bench, GLOBEX).await);
    set(&format!("projects/{ACME}"), true).await;
    drop(lasting(&bench, ACME).await);
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

fn identity(issuer: &Issuer<'static, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// What others work for, as a login is: for a source, and for a tenant.
fn dear(api: &ApiServer, path: &'static str, tenant: Option<&str>) -> axum::Router {
    let spent = Spent { cost: Duration::from_secs(60), tenant: tenant.map(|tenant| tenant.parse().unwrap()) };
    let answer = async || (axum::Extension(spent), "what others have worked for");
    api.observe(path, axum::Router::new().route(path, axum::routing::get(answer)))
}

impl Server {
    async fn start(api: &ApiServer, limits: Limits, deadlines: Deadlines) -> Self {
        let router = api.router().merge(dear(api, "/dear", None)).merge(dear(api, "/dear-to-acme", Some(ACME)));
        Self::with(api, router, limits, deadlines).await
    }

    async fn with(api: &ApiServer, router: axum::Router, limits: Limits, deadlines: Deadlines) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let (certificate, key) = identity(&issuer, "localhost");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = TlsConfig { shown: Shown::new(&certificate, &key).unwrap(), authority: authority.clone() };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let tenants = api.authorities();
        tokio::spawn(async move {
            serve_within(listener, router, &tls, tenants, limits, deadlines, stopping).await.unwrap();
        });
        Self { api: api.clone(), address, issuer, authority, stop }
    }

    /// A certificate for a server of this name, and its key, in PEM.
    fn identity(&self, name: &str) -> (String, String) {
        identity(&self.issuer, name)
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
                // No tenant has one for longer than a year.
                let now = std::time::SystemTime::now();
                let day = Duration::from_secs(86_400);
                (params.not_before, params.not_after) = ((now - day).into(), (now + day).into());
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
        self.ask(path, "").await
    }

    /// Asks for a connection to a pod.
    async fn upgrade(&mut self, path: &str) -> std::io::Result<(u16, Value)> {
        self.ask(path, "connection: Upgrade\r\nupgrade: SPDY/3.1\r\n").await
    }

    async fn ask(&mut self, path: &str, headers: &str) -> std::io::Result<(u16, Value)> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes()).await?;
        let head = read_to(&mut self.0, "\r\n\r\n").await?.to_ascii_lowercase();
        let code = head[9..12].parse().unwrap();
        let mut body = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            loop {
                let length = read_to(&mut self.0, "\r\n").await?;
                let length = usize::from_str_radix(length.trim(), 16).unwrap();
                let mut chunk = vec![0; length + 2];
                self.0.read_exact(&mut chunk).await?;
                body.extend_from_slice(&chunk[..length]);
                if length == 0 {
                    break;
                }
            }
        } else if let Some(length) = head.split("content-length: ").nth(1) {
            body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
            self.0.read_exact(&mut body).await?;
        }
        Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// What comes up to and with the mark.
async fn read_to(stream: &mut (impl AsyncReadExt + Unpin), mark: &str) -> std::io::Result<String> {
    let mut read = Vec::new();
    while !read.ends_with(mark.as_bytes()) {
        read.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(read).unwrap())
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

/// An answer without end; says how much of it was made when nobody wants more.
struct Endless {
    made: usize,
    tell: tokio::sync::mpsc::UnboundedSender<usize>,
}

impl Iterator for Endless {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let part = Bytes::from_static(&[0; 16 << 10]);
        self.made += part.len();
        Some(Ok(part))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.tell.send(self.made);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_of_what_nobody_reads_is_made() {
    let bench = Bench::new(json!({})).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let endless = async move || Body::from_stream(futures::stream::iter(Endless { made: 0, tell }));
    let router = bench.server.router().route("/endless", axum::routing::get(endless));
    let server = Server::with(&bench.server, router, ROOMY, SHORT).await;
    let mut client = server.connect("127.0.0.2", None).await.unwrap().0;
    client.write_all(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // It is given up when nothing was read for a while.
    let made = told.recv().await.unwrap();
    assert!(made < 1 << 20, "{} KiB", made >> 10);
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
    // Nor is it heard for a moment after each refusal.
    let mut heard = true;
    for _ in 0..10 {
        heard = heard && tokio::time::timeout(Duration::from_millis(300), server.plain("127.0.0.2")).await.is_ok();
    }
    assert!(!heard);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_elsewhere_for_a_source_is_paid_for_by_it() {
    let bench = Bench::new(json!({})).await;
    let server = Server::start(&bench.server, ROOMY, Deadlines::default()).await;
    let mut guesser = server.connect("127.0.0.2", None).await.unwrap();
    assert_eq!(guesser.get("/dear").await.unwrap().0, 200);
    let (code, refusal) = guesser.get("/version").await.unwrap();
    assert_eq!((code, &refusal["reason"]), (429, &json!("TooManyRequests")));
    // Not even a new connection is had; by another source one is.
    assert!(server.connect("127.0.0.2", None).await.is_err());
    let mut other = server.connect("127.0.0.3", None).await.unwrap();
    assert_ne!(other.get("/version").await.unwrap().0, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_elsewhere_for_a_tenant_is_paid_for_by_it_too() {
    let bench = Bench::new(json!({})).await;
    let server = Server::start(&bench.server, ROOMY, Deadlines::default()).await;
    let mut own = server.connect("127.0.0.3", Some(ACME)).await.unwrap();
    let mut another = server.connect("127.0.0.4", Some(GLOBEX)).await.unwrap();
    for client in [&mut own, &mut another] {
        assert_eq!(client.get(MAPS).await.unwrap().0, 200);
    }
    // As when its user has logged in, over a connection of nobody's yet.
    let mut user = server.connect("127.0.0.2", None).await.unwrap();
    assert_eq!(user.get("/dear-to-acme").await.unwrap().0, 200);
    assert_eq!(user.get("/version").await.unwrap().0, 429);
    assert_eq!(own.get(MAPS).await.unwrap().0, 429);
    assert_eq!(another.get(MAPS).await.unwrap().0, 200);
}
