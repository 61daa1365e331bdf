//! Debian's docker-registry on loopback, and a registry of our own that misbehaves as told.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{StreamExt, stream};
use hypernetes_image::Digest;
use parking_lot::Mutex;

/// Ended when dropped.
pub struct RealRegistry {
    process: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl RealRegistry {
    /// `http` and `auth` are parts of its configuration file, as JSON (which is YAML).
    pub fn start(directory: &Path, http: serde_json::Value, auth: serde_json::Value) -> Self {
        let mut config = serde_json::json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": directory.join("registry")}},
            "http": http,
        });
        config["http"]["addr"] = "127.0.0.1:0".into();
        if !auth.is_null() {
            config["auth"] = auth;
        }
        let file = tempfile::NamedTempFile::new_in(directory).unwrap();
        std::fs::write(file.path(), config.to_string()).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(file.path())
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is needed (scripts/dependencies.sh)");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("docker-registry ended: {seen}")).unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
            }
            seen.push_str(&line);
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// Without TLS and authentication, upon the same storage.
    pub fn plain(directory: &Path) -> Self {
        Self::start(directory, serde_json::json!({}), serde_json::Value::Null)
    }

    /// Copies an OCI layout with skopeo.
    pub fn push(&self, layout: &Path, name: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false", "--insecure-policy"])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How the misbehaving registry answers for blobs.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Every transfer breaks after so many bytes.
    pub break_after: Option<usize>,
    /// The whole blob comes even if a part is asked for.
    pub ignore_ranges: bool,
    /// So many answers are 503 before it works.
    pub busy: usize,
    /// Between pieces of 16 KiB.
    pub pause: Duration,
    /// Sent instead of the right bytes.
    pub lie: Option<Vec<u8>>,
}

#[derive(Default)]
pub struct OwnRegistry {
    pub blobs: Mutex<HashMap<String, Vec<u8>>>,
    pub manifests: Mutex<HashMap<String, Vec<u8>>>,
    pub manners: Mutex<Manners>,
    pub blob_requests: AtomicUsize,
    pub manifest_requests: AtomicUsize,
    pub address: Mutex<String>,
}

impl OwnRegistry {
    pub async fn start() -> Arc<Self> {
        let registry = Arc::new(Self::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        *registry.address.lock() = listener.local_addr().unwrap().to_string();
        let router = Router::new()
            .route("/v2/a/b/manifests/{reference}", get(manifest))
            .route("/v2/a/b/blobs/{digest}", get(blob))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        registry
    }

    pub fn name(&self, tag: &str) -> String {
        format!("{}/a/b:{tag}", self.address.lock())
    }

    /// Takes an OCI layout's blobs, and its first manifest under a tag.
    pub fn load(&self, layout: &Path, tag: &str) {
        for file in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let path: PathBuf = file.unwrap().path();
            let digest = format!("sha256:{}", path.file_name().unwrap().to_str().unwrap());
            let bytes = std::fs::read(path).unwrap();
            self.manifests.lock().insert(digest.clone(), bytes.clone());
            self.blobs.lock().insert(digest, bytes);
        }
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let manifest = self.manifests.lock()[digest].clone();
        self.manifests.lock().insert(tag.into(), manifest);
    }
}

async fn manifest(State(registry): State<Arc<OwnRegistry>>, UrlPath(reference): UrlPath<String>) -> Response {
    registry.manifest_requests.fetch_add(1, Ordering::SeqCst);
    match registry.manifests.lock().get(&reference) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn blob(
    State(registry): State<Arc<OwnRegistry>>,
    UrlPath(digest): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    registry.blob_requests.fetch_add(1, Ordering::SeqCst);
    let manners = {
        let mut manners = registry.manners.lock();
        let now = manners.clone();
        manners.busy = manners.busy.saturating_sub(1);
        now
    };
    if manners.busy > 0 {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "0")]).into_response();
    }
    let Some(bytes) = registry.blobs.lock().get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // Configurations come as they are.
    if bytes.starts_with(b"{") {
        return bytes.into_response();
    }
    let bytes = manners.lie.unwrap_or(bytes);
    let asked = headers.get(header::RANGE).and_then(|v| v.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-'));
    let from = asked.filter(|_| !manners.ignore_ranges).map_or(0, |from| from.parse::<usize>().unwrap());
    let end = bytes.len();
    let pieces: Vec<_> = bytes[from..].chunks(16 << 10).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut sent = 0;
    let pieces = stream::iter(pieces).then(move |piece: Result<Bytes, std::io::Error>| {
        sent += piece.as_ref().unwrap().len();
        let broken = manners.break_after.is_some_and(|after| sent > after);
        async move {
            tokio::time::sleep(manners.pause).await;
            if broken { Err(std::io::Error::other("broken")) } else { piece }
        }
    });
    let mut answer = Response::builder().header(header::CONTENT_LENGTH, end - from);
    if from > 0 {
        answer = answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{end}", end - 1));
    }
    answer.body(Body::from_stream(pieces)).unwrap()
}

/// A manifest's own digest.
pub fn digest_of(layout: &Path) -> Digest {
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap()
}
