//! The fixture, today's server on a copy of it, and its clients.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    os::unix::{fs::MetadataExt, net::UnixDatagram, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, Config, client::Body, config::AuthInfo};
use serde_json::Value;

pub const BINARY: &str = env!("CARGO_BIN_EXE_hypernetes");
/// As `up` runs the server.
const SERVER_USER: &str = "1610612480";
/// How long anything may take until the test gives up on it: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/e5e31f4").join(name)
}

/// What the API of e5e31f4 said of all objects, by tenant (`system`, `acme`, `globex`), before its process was killed.
pub fn objects_of_before() -> &'static HashMap<String, Vec<Value>> {
    static OBJECTS: OnceLock<HashMap<String, Vec<Value>>> = OnceLock::new();
    OBJECTS.get_or_init(|| {
        let output = Command::new("xz").arg("-dc").arg(fixture("objects.json.xz")).output().expect("xz is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    })
}

/// The object of before of that kind and name.
pub fn of_before(tenant: &str, kind: &str, name: &str) -> &'static Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects_of_before()[tenant].iter().find(is_it).unwrap_or_else(|| panic!("the fixture has no {kind} {name}"))
}

/// Id of the tenant of that name.
pub fn tenant(name: &str) -> &'static str {
    let is_it = |object: &&Value| object["kind"] == "Project" && object["spec"]["displayName"] == name;
    let project = objects_of_before()["system"].iter().find(is_it).unwrap();
    project["metadata"]["name"].as_str().unwrap()
}

/// A copy of the directory that e5e31f4 has left.
pub struct Data {
    directory: tempfile::TempDir,
    /// What signed all service accounts' tokens. The first start of today's server removes it.
    pub service_account_key: String,
}

impl Data {
    pub fn unpack() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let unpacked =
            Command::new("tar").arg("-C").arg(directory.path()).arg("-xJf").arg(fixture("data.tar.xz")).status();
        assert!(unpacked.expect("tar is installed").success());
        assert_eq!(std::fs::metadata(directory.path().join("data")).unwrap().uid(), 0, "these tests run as root");
        let service_account_key = std::fs::read_to_string(directory.path().join("data/server/pki/sa.key")).unwrap();
        Self { directory, service_account_key }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.root().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Starts today's server and does not wait. It tells `notify` when it is ready.
    pub fn spawn(&self, notify: &Path) -> Child {
        let log = File::options().create(true).append(true).open(self.beside("server.log")).unwrap();
        Command::new(BINARY)
            .arg("server")
            .arg("--root")
            .arg(self.root().join("server"))
            .arg("--volumes")
            .arg(self.root().join("volumes"))
            .args(["--bind", "127.0.0.1:0", "--user", SERVER_USER])
            .env("NOTIFY_SOCKET", notify)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap()
    }

    /// Today's server, ready.
    pub fn serve(&self) -> Server {
        let path = self.beside("notify");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut process = self.spawn(&path);
        let began = Instant::now();
        let mut buffer = [0; 4096];
        let mut said = Vec::new();
        loop {
            if let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if text == "READY=1" {
                    break;
                }
                said.extend(text.strip_prefix("STATUS=").map(str::to_owned));
            }
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            assert!(began.elapsed() < PATIENCE, "the server is not ready:\n{}", self.log());
        }
        let (url, authority) = self.endpoint();
        Server { process, url, authority, said, root: self.root() }
    }

    fn endpoint(&self) -> (String, Vec<u8>) {
        let kubeconfig: Value = serde_json::from_str(&self.read("server/operator.kubeconfig")).unwrap();
        let cluster = &kubeconfig["clusters"][0]["cluster"];
        let authority = cluster["certificate-authority-data"].as_str().unwrap();
        (cluster["server"].as_str().unwrap().to_owned(), STANDARD.decode(authority).unwrap())
    }

    /// What the server has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.beside("server.log")).unwrap_or_default()
    }

    /// A server that something else has started on this directory.
    pub fn reach(&self) -> Reach {
        let (url, authority) = self.endpoint();
        Reach { url, authority }
    }
}

/// Today's server on the data of before; killed when it is dropped.
pub struct Server {
    process: Child,
    pub url: String,
    authority: Vec<u8>,
    /// What whoever started it was told.
    pub said: Vec<String>,
    root: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let mut log = String::new();
            let opened = File::open(self.root.with_file_name("server.log"));
            let _ = opened.and_then(|mut file| file.read_to_string(&mut log));
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("== last lines of the server\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Server {
    pub fn operator(&self) -> User {
        let kubeconfig = std::fs::read_to_string(self.root.join("server/operator.kubeconfig")).unwrap();
        self.reach().kubeconfig(&kubeconfig)
    }

    pub fn reach(&self) -> Reach {
        Reach { url: self.url.clone(), authority: self.authority.clone() }
    }
}

/// Where a server is.
pub struct Reach {
    url: String,
    authority: Vec<u8>,
}

impl Reach {
    fn user(&self, auth: AuthInfo) -> User {
        let mut config = Config::new(self.url.parse().unwrap());
        let authority = x509_parser::pem::parse_x509_pem(&self.authority).unwrap().1.contents;
        config.root_cert = Some(vec![authority]);
        config.auth_info = auth;
        User(Client::try_from(config).unwrap())
    }

    /// The user of a kubeconfig file with a client certificate.
    pub fn kubeconfig(&self, text: &str) -> User {
        let kubeconfig: Value = serde_json::from_str(text).unwrap();
        let user = &kubeconfig["users"][0]["user"];
        let pem = |name: &str| String::from_utf8(STANDARD.decode(user[name].as_str().unwrap()).unwrap()).unwrap();
        self.certificate(&pem("client-certificate-data"), &pem("client-key-data"))
    }

    /// Both PEM.
    pub fn certificate(&self, certificate: &str, key: &str) -> User {
        self.user(AuthInfo {
            client_certificate_data: Some(STANDARD.encode(certificate)),
            client_key_data: Some(STANDARD.encode(key).into()),
            ..AuthInfo::default()
        })
    }

    pub fn token(&self, token: &str) -> User {
        self.user(AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() })
    }

    pub fn nobody(&self) -> User {
        self.user(AuthInfo::default())
    }
}

/// Somebody who asks the API.
pub struct User(Client);

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    pub token: Option<String>,
}

impl Answer {
    /// # Panics
    /// When it is a refusal.
    #[track_caller]
    pub fn good(self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.body);
        self.body
    }
}

impl User {
    pub async fn ask(&self, method: Method, path: &str, kind: &str, body: &Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let response = self.0.send(request.body(Body::from(bytes)).unwrap()).await.unwrap();
        let status = response.status();
        let token = response.headers().get("x-subject-token").map(|value| value.to_str().unwrap().to_owned());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::from(String::from_utf8_lossy(&bytes));
        let body =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) };
        Answer { status, body, token }
    }

    /// Whether this is somebody who may read that; a credential may be refused before anything is asked.
    pub async fn opens(&self, path: &str) -> bool {
        let request = Request::get(path).body(Body::empty()).unwrap();
        self.0.send(request).await.is_ok_and(|response| response.status().is_success())
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "application/json", &Value::Null).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, "application/json", body).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Answer {
        self.ask(Method::PATCH, path, "application/merge-patch+json", patch).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, "application/json", &Value::Null).await
    }

    /// Asks until the answer is as it should be; the last one, when it never is, is told.
    pub async fn until(&self, path: &str, what: &str, is_so: impl Fn(&Answer) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let answer = self.get(path).await;
            if is_so(&answer) {
                return answer.body;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {path}: {} {:#}", answer.status, answer.body);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Where an object is: `plural` of the API of its version, in the logical cluster of a tenant.
pub fn path_of(tenant: &str, plural: &str, object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let api = if version.contains('/') { "apis" } else { "api" };
    let namespace = object["metadata"]["namespace"].as_str();
    let namespace = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap().replace(' ', "%20").replace('?', "%3F");
    format!("/clusters/{tenant}/{api}/{version}{namespace}/{plural}/{name}")
}

/// A plural, as all that are here are made.
pub fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match lower.as_str() {
        "endpoints" => lower,
        _ if lower.ends_with("ss") => format!("{lower}es"),
        _ if lower.ends_with("y") => format!("{}ies", &lower[..lower.len() - 1]),
        _ => format!("{lower}s"),
    }
}
