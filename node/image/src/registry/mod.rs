//! A registry's client (OCI distribution-spec): manifests and blobs, from mirrors or the registry itself, verified.

mod auth;
mod hosts;
mod reach;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

pub use auth::Credentials;
use parking_lot::Mutex;
pub(crate) use reach::Reach;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, HeaderName, HeaderValue, RANGE, RETRY_AFTER},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use self::hosts::Endpoint;
use crate::{
    Digest, ImageError, Reference,
    error::{invalid, store_error},
    manifest::Descriptor,
};

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const MAX_ERROR_BYTES: u64 = 16 << 10;
/// A blob that comes more slowly than this is given up: else a registry could hold pulls for ever.
const SLOW_WINDOW: Duration = Duration::from_secs(60);
const SLOW_BYTES: u64 = 64 << 10;

/// How often and how soon a server that failed is asked again.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// For one request; a blob's transfer that has got further starts counting anew.
    pub attempts: u32,
    /// Doubled each time, up to `longest_delay`, and varied by half.
    pub first_delay: Duration,
    /// Also of what a server may ask for by `Retry-After`.
    pub longest_delay: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 5, first_delay: Duration::from_millis(250), longest_delay: Duration::from_secs(10) }
    }
}

/// Why one server did not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    NotFound,
    Unauthorized(String),
    Forbidden(String),
    /// Worth another try.
    Unreachable(String),
    /// What it says makes no sense, or is a lie.
    Broken(String),
    /// This host's fault: no other server could help.
    Local(LocalFailure),
}

/// Kept as text, so that failures can be compared and cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalFailure {
    no_space: bool,
    text: String,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let no_space = matches!(error, ImageError::NoSpace(_));
        let text = match error {
            ImageError::NoSpace(text) => text,
            other => other.to_string(),
        };
        Self::Local(LocalFailure { no_space, text })
    }
}

impl Failure {
    fn into_error(self, reference: &Reference) -> ImageError {
        let reference = reference.to_string();
        match self {
            Self::NotFound => ImageError::NotFound { reference },
            Self::Unauthorized(reason) => ImageError::Unauthorized { reference, reason },
            Self::Forbidden(reason) => ImageError::Denied { reference, reason },
            Self::Unreachable(reason) => ImageError::Unavailable { reference, reason },
            Self::Broken(reason) => ImageError::Pull { reference, reason },
            Self::Local(LocalFailure { no_space: true, text }) => ImageError::NoSpace(text),
            Self::Local(LocalFailure { text, .. }) => ImageError::Pull { reference, reason: text },
        }
    }
}

/// One puller's access to one repository.
pub(crate) struct Session {
    reference: Reference,
    credentials: Option<Credentials>,
    servers: Vec<Server>,
    retries: Retries,
}

struct Server {
    endpoint: Endpoint,
    /// Answers the challenge that it made last.
    authorization: Mutex<Option<HeaderValue>>,
}

/// What servers that were asked one after another have answered. The registry's own answer, the last, is what is told.
struct Failures<'a> {
    reference: &'a Reference,
    last: Option<Failure>,
}

impl<'a> Failures<'a> {
    fn of(reference: &'a Reference) -> Self {
        Self { reference, last: None }
    }

    /// An error if no other server could help.
    fn add(&mut self, server: &Server, failure: Failure) -> Result<(), ImageError> {
        if let Failure::Local(_) = failure {
            return Err(failure.into_error(self.reference));
        }
        tracing::debug!(server = server.endpoint.base, image = %self.reference, ?failure, "a server has no answer");
        self.last = Some(failure);
        Ok(())
    }

    fn into_error(self) -> ImageError {
        let none = || Failure::Broken("no server is configured that may be asked for this".into());
        self.last.unwrap_or_else(none).into_error(self.reference)
    }
}

/// A manifest's bytes as its digest vouches for them.
#[derive(Debug)]
pub(crate) struct FetchedManifest {
    pub bytes: Vec<u8>,
    pub digest: Digest,
}

impl Session {
    pub fn new(
        hosts: Option<&Path>,
        reference: &Reference,
        credentials: Option<Credentials>,
        retries: Retries,
        reach: Reach,
    ) -> Result<Self, ImageError> {
        let servers = hosts::endpoints(hosts, reference, reach)?
            .into_iter()
            .map(|endpoint| {
                let known = if endpoint.is_origin { auth::in_advance(credentials.as_ref()) } else { None };
                Server { endpoint, authorization: Mutex::new(known) }
            })
            .collect();
        Ok(Self { reference: reference.clone(), credentials, servers, retries })
    }

    /// The manifest or index of a tag or digest.
    pub async fn manifest(&self, tag_or_digest: &str, max_bytes: u64) -> Result<FetchedManifest, ImageError> {
        let expected = tag_or_digest.parse::<Digest>().ok();
        let mut failures = Failures::of(&self.reference);
        let may = |server: &&Server| if expected.is_some() { server.endpoint.pulls } else { server.endpoint.resolves };
        for server in self.servers.iter().filter(may) {
            match self.manifest_from(server, tag_or_digest, expected, max_bytes).await {
                Ok(found) => return Ok(found),
                Err(failure) => failures.add(server, failure)?,
            }
        }
        Err(failures.into_error())
    }

    async fn manifest_from(
        &self,
        server: &Server,
        tag_or_digest: &str,
        expected: Option<Digest>,
        max_bytes: u64,
    ) -> Result<FetchedManifest, Failure> {
        let answer = self.get(server, &format!("manifests/{tag_or_digest}"), 0).await?;
        let told = answer.headers().get(CONTENT_DIGEST).and_then(|v| v.to_str().ok()?.parse::<Digest>().ok());
        let bytes = limited(answer, max_bytes).await?;
        let digest = Digest::of(&bytes);
        match expected.or(told) {
            Some(expected) if expected != digest => {
                Err(Failure::Broken(format!("the manifest {expected} has the digest {digest}")))
            }
            _ => Ok(FetchedManifest { bytes, digest }),
        }
    }

    /// A small blob.
    pub async fn document(&self, descriptor: &Descriptor, max_bytes: u64) -> Result<Vec<u8>, ImageError> {
        let mut failures = Failures::of(&self.reference);
        for server in self.servers.iter().filter(|server| server.endpoint.pulls) {
            match self.document_from(server, descriptor, max_bytes).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failures.add(server, failure)?,
            }
        }
        Err(failures.into_error())
    }

    async fn document_from(
        &self,
        server: &Server,
        descriptor: &Descriptor,
        max_bytes: u64,
    ) -> Result<Vec<u8>, Failure> {
        let answer = self.get(server, &format!("blobs/{}", descriptor.digest), 0).await?;
        let bytes = limited(answer, max_bytes).await?;
        check(descriptor, bytes.len() as u64, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// A blob into a new file, verified. A transfer that breaks goes on where it was. `received` counts bytes.
    pub async fn blob(
        &self,
        descriptor: &Descriptor,
        path: &Path,
        max_bytes: u64,
        received: &AtomicU64,
    ) -> Result<(), ImageError> {
        if let Some(size) = descriptor.size.filter(|size| *size > max_bytes) {
            return Err(invalid(format!("a layer of {size} bytes; {max_bytes} is the limit")));
        }
        let mut failures = Failures::of(&self.reference);
        for server in self.servers.iter().filter(|server| server.endpoint.pulls) {
            let outcome = async {
                let mut transfer = Transfer::new(path, descriptor.size.unwrap_or(max_bytes), received).await?;
                let outcome = self.transfer(server, descriptor, &mut transfer).await;
                if outcome.is_err() {
                    transfer.restart().await?;
                }
                outcome
            };
            match outcome.await {
                Ok(()) => return Ok(()),
                Err(failure) => failures.add(server, failure)?,
            }
        }
        Err(failures.into_error())
    }

    async fn transfer(
        &self,
        server: &Server,
        descriptor: &Descriptor,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), Failure> {
        let path = format!("blobs/{}", descriptor.digest);
        let mut failures = 0;
        loop {
            let before = transfer.position;
            let whole = descriptor.size.is_some_and(|size| size == transfer.position && size > 0);
            let outcome = match whole {
                true => Ok(()),
                false => match self.get(server, &path, transfer.position).await {
                    Ok(answer) => transfer.receive(answer).await,
                    Err(failure) => return Err(failure),
                },
            };
            match outcome {
                Ok(()) => {
                    transfer.file.flush().await.map_err(store_error(&transfer.path)).map_err(Failure::from)?;
                    return check(descriptor, transfer.position, transfer.digest());
                }
                Err(Failure::Unreachable(reason)) => {
                    failures = if transfer.position > before { 1 } else { failures + 1 };
                    if failures >= self.retries.attempts {
                        return Err(Failure::Unreachable(reason));
                    }
                    tracing::debug!(blob = %descriptor.digest, at = transfer.position, reason, "a transfer broke; it goes on");
                    self.pause(failures, None).await;
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// One request, repeated while the server is unreachable or overloaded, and once with an answer to its challenge.
    async fn get(&self, server: &Server, path: &str, from: u64) -> Result<Response, Failure> {
        let endpoint = &server.endpoint;
        let repository = self.reference.repository_path();
        let url = format!("{}/{repository}/{path}", endpoint.base);
        if url.parse().is_ok_and(|url| !endpoint.reach.allows(&url)) {
            return Err(Failure::Unreachable(reach::NO_HOST.into()));
        }
        let mut failures = 0;
        let mut answered = false;
        loop {
            let mut request = endpoint
                .client
                .get(&url)
                .headers(endpoint.headers.clone())
                .header(ACCEPT, if path.starts_with("manifests/") { MANIFEST_TYPES } else { "*/*" })
                .header(ACCEPT_ENCODING, "identity");
            if !endpoint.is_origin {
                request = request.query(&[("ns", self.reference.registry())]);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let authorization = server.authorization.lock().clone();
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let (failure, wait) = match request.send().await {
                Err(error) => (Failure::Unreachable(causes(&error)), None),
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let status = answer.status();
                    let wait = retry_after(&answer);
                    let challenge = auth::challenge(answer.headers());
                    let said = said(answer).await;
                    if status == StatusCode::UNAUTHORIZED {
                        // A token may have run out, so one answer for each request.
                        let Some(challenge) = challenge.filter(|_| !answered) else {
                            return Err(Failure::Unauthorized(said));
                        };
                        answered = true;
                        let credentials = self.credentials.as_ref().filter(|_| endpoint.is_origin);
                        match auth::answer(endpoint, challenge, repository, credentials).await {
                            Ok(header) => {
                                *server.authorization.lock() = Some(header);
                                continue;
                            }
                            Err(Failure::Unreachable(reason)) => {
                                answered = false;
                                (Failure::Unreachable(reason), None)
                            }
                            Err(other) => return Err(other),
                        }
                    } else if is_passing(status) {
                        (Failure::Unreachable(said), wait)
                    } else {
                        return Err(match status {
                            StatusCode::NOT_FOUND => Failure::NotFound,
                            StatusCode::FORBIDDEN => Failure::Forbidden(said),
                            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                                Failure::Broken("it cannot go on with a transfer that broke".into())
                            }
                            _ => Failure::Broken(said),
                        });
                    }
                }
            };
            failures += 1;
            if failures >= self.retries.attempts {
                return Err(failure);
            }
            tracing::debug!(url, ?failure, "the registry is asked again");
            self.pause(failures, wait).await;
        }
    }

    async fn pause(&self, failures: u32, asked_for: Option<Duration>) {
        let Retries { first_delay, longest_delay, .. } = self.retries;
        let delay = first_delay.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest_delay);
        let varied = delay.mul_f64(rand::random_range(0.5..1.0));
        tokio::time::sleep(asked_for.map_or(varied, |asked_for| asked_for.min(longest_delay).max(varied))).await;
    }
}

/// A blob on its way into a file.
struct Transfer<'a> {
    path: PathBuf,
    file: tokio::fs::File,
    hasher: Sha256,
    position: u64,
    limit: u64,
    received: &'a AtomicU64,
}

impl<'a> Transfer<'a> {
    async fn new(path: &Path, limit: u64, received: &'a AtomicU64) -> Result<Self, Failure> {
        let file = tokio::fs::File::create(path).await.map_err(store_error(path)).map_err(Failure::from)?;
        Ok(Self { path: path.to_owned(), file, hasher: Sha256::new(), position: 0, limit, received })
    }

    async fn restart(&mut self) -> Result<(), Failure> {
        self.received.fetch_sub(self.position, Ordering::Relaxed);
        (self.position, self.hasher) = (0, Sha256::new());
        let empty = async {
            self.file.flush().await?;
            self.file.set_len(0).await?;
            self.file.rewind().await.map(drop)
        };
        empty.await.map_err(store_error(&self.path)).map_err(Failure::from)
    }

    fn digest(&self) -> Digest {
        Digest::from_hasher(self.hasher.clone())
    }

    async fn receive(&mut self, mut answer: Response) -> Result<(), Failure> {
        if self.position > 0 {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
            match answer.status() {
                StatusCode::PARTIAL_CONTENT if start == Some(self.position) => {}
                StatusCode::PARTIAL_CONTENT => {
                    return Err(Failure::Broken("it answers with another part of the layer".into()));
                }
                // It knows no ranges, and starts anew.
                _ => self.restart().await?,
            }
        }
        let (mut window, mut in_window) = (Instant::now(), 0);
        loop {
            let chunk = answer.chunk().await.map_err(|error| Failure::Unreachable(causes(&error)))?;
            let Some(chunk) = chunk else { break };
            self.position += chunk.len() as u64;
            if self.position > self.limit {
                return Err(Failure::Broken(format!("it sends more than the {} bytes of the layer", self.limit)));
            }
            self.hasher.update(&chunk);
            self.file.write_all(&chunk).await.map_err(store_error(&self.path)).map_err(Failure::from)?;
            self.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            in_window += chunk.len() as u64;
            if window.elapsed() > SLOW_WINDOW {
                if in_window < SLOW_BYTES {
                    return Err(Failure::Unreachable("it sends too slowly".into()));
                }
                (window, in_window) = (Instant::now(), 0);
            }
        }
        Ok(())
    }
}

fn check(descriptor: &Descriptor, length: u64, digest: Digest) -> Result<(), Failure> {
    match descriptor.size {
        Some(size) if size != length => {
            Err(Failure::Broken(format!("{} has {length} bytes, and the manifest says {size}", descriptor.digest)))
        }
        _ if digest != descriptor.digest => {
            Err(Failure::Broken(format!("the bytes of {} have the digest {digest}", descriptor.digest)))
        }
        _ => Ok(()),
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn retry_after(answer: &Response) -> Option<Duration> {
    answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// A body that may not be longer.
async fn limited(mut answer: Response, max_bytes: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| Failure::Unreachable(causes(&error)))? {
        if (bytes.len() + chunk.len()) as u64 > max_bytes {
            return Err(Failure::Broken(format!("it sends more than {max_bytes} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[derive(Deserialize)]
struct ErrorAnswer {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// A status and what the registry says of it. Only the specification's own fields are repeated: the server may be any
/// that a tenant's image name points to.
async fn said(answer: Response) -> String {
    let status = answer.status();
    let body = limited(answer, MAX_ERROR_BYTES).await.unwrap_or_default();
    let entry = serde_json::from_slice::<ErrorAnswer>(&body).ok().and_then(|answer| answer.errors.into_iter().next());
    match entry {
        Some(entry) => {
            let text: String = format!("{}: {}", entry.code.to_lowercase(), entry.message)
                .chars()
                .filter(|c| !c.is_control())
                .take(256)
                .collect();
            format!("the registry answers {status}: {text}")
        }
        None => format!("the registry answers {status}"),
    }
}

/// reqwest's own message names only the URL; the cause is what helps.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
