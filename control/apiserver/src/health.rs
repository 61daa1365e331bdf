//! How the server is: `/livez`, `/readyz` and `/healthz`, each check by itself beneath them, in upstream's words.
//!
//! The checks are upstream's of what there is here: that it answers at all, and that its store does, whichever that is. As
//! upstream's the second is a part of `/livez`, too: whoever restarts a server by it excludes it (`?exclude=etcd`), as with upstream's.

use std::{fmt::Write, time::Duration};

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use hypernetes_store::{ReadError, Store};

/// How long the store may take: upstream's `--etcd-healthcheck-timeout`.
const PATIENCE: Duration = Duration::from_secs(2);
const PING: &str = "ping";
/// The store, on any engine: the name that monitoring knows.
const STORE: &str = "etcd";

/// A question about health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Which of the three.
    all: &'a str,
    /// One check alone.
    one: Option<&'static str>,
}

impl<'a> Asked<'a> {
    /// None: the path is another one.
    pub fn of(path: &'a str) -> Option<Self> {
        let (all, one) = match path.trim_matches('/').split_once('/') {
            Some((all, one)) => (all, Some([PING, STORE].into_iter().find(|known| *known == one)?)),
            None => (path.trim_matches('/'), None),
        };
        ["healthz", "livez", "readyz"].contains(&all).then_some(Self { all, one })
    }

    /// `excluded`: checks that are left out. `verbose`: it is told of each also when all is well.
    pub async fn answer(&self, store: &Store, excluded: &[String], verbose: bool) -> Response<Body> {
        if let Some(one) = self.one {
            return match check(store, one).await {
                Ok(()) => plain(StatusCode::OK, "ok".into()),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {error}\n")),
            };
        }
        let (mut told, mut well) = (String::new(), true);
        for name in [PING, STORE] {
            let _ = if excluded.iter().any(|excluded| excluded == name) {
                writeln!(told, "[+]{name} excluded: ok")
            } else if let Err(error) = check(store, name).await {
                tracing::warn!(check = name, %error, "not healthy");
                well = false;
                writeln!(told, "[-]{name} failed: reason withheld")
            } else {
                writeln!(told, "[+]{name} ok")
            };
        }
        let unknown: Vec<String> = excluded
            .iter()
            .filter(|name| ![PING, STORE].contains(&name.as_str()))
            .map(|name| hypernetes_kinds::field::quote(name))
            .collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            let _ = writeln!(told, "warn: some health checks cannot be excluded: no matches for {unknown}");
        }
        match well {
            false => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{told}{} check failed\n", self.all)),
            true if !verbose => plain(StatusCode::OK, "ok".into()),
            true => plain(StatusCode::OK, format!("{told}{} check passed\n", self.all)),
        }
    }
}

async fn check(store: &Store, name: &str) -> Result<(), ReadError> {
    if name == STORE { self::store(store).await } else { Ok(()) }
}

/// Whether the store answers, in time.
pub async fn store(store: &Store) -> Result<(), ReadError> {
    let late = || ReadError::Unavailable("it has not answered in time".into());
    tokio::time::timeout(PATIENCE, store.health()).await.unwrap_or_else(|_| Err(late()))
}

fn plain(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
