//! Counts what is answered, how fast, and how large it is.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as _;
use hypernetes_api::ApiError;
use tokio::time::Instant;

use super::{
    overheard::{Listener, overheard},
    request_info::Incoming,
};
use crate::{
    Inner,
    fairness::account::Account,
    metrics::{
        Counts, Metrics,
        labels::{Labels, OTHER},
    },
};

/// Who counts: the server, and the tenant that asks.
#[derive(Clone)]
struct Counters {
    server: Arc<Metrics>,
    account: Option<Arc<Account>>,
    labels: Labels,
    since: Instant,
}

impl Counters {
    fn each(&self, count: impl Fn(&Counts, &Labels)) {
        count(&self.server.all, &self.labels);
        if let Some(account) = &self.account {
            count(&account.counts, &self.labels);
        }
    }

    fn answered(&self, code: StatusCode) {
        self.each(|counts, labels| counts.answered(labels, code, self.since.elapsed()));
    }
}

/// Counts one that was refused before it came to be worked on; also as the tenant's, where it is known whose it is.
pub fn refused(server: &Inner, request: Option<&Incoming>, account: Option<Arc<Account>>, error: &ApiError) {
    let labels = request.map_or(OTHER, |request| Labels::of(&request.info, request.headers()));
    let since = request.map_or_else(Instant::now, |request| request.since);
    let counters = Counters { server: server.metrics.clone(), account, labels, since };
    counters.answered(error.code());
}

/// Counts one that is worked on. What goes on for long is counted when it ends, as upstream does.
pub async fn measured(
    server: &Inner,
    request: &Incoming,
    account: Option<Arc<Account>>,
    work: impl Future<Output = Result<Response<Body>, ApiError>>,
) -> Result<Response<Body>, ApiError> {
    let info = &request.info;
    let labels = Labels::of(info, request.headers());
    let counters = Counters { server: server.metrics.clone(), account, labels, since: request.since };
    let answer = if info.is_long_running() {
        work.await
    } else {
        let _in_flight = server.metrics.in_flight(info.reads());
        work.await
    };
    let code = answer.as_ref().map_or_else(|error| error.code(), Response::status);
    let answer = match answer {
        Ok(answer) if info.is_long_running() && code.is_success() => answer,
        other => {
            counters.answered(code);
            let answer = other?;
            if !matches!(labels.verb, "GET" | "LIST") {
                return Ok(answer);
            }
            if let Some(bytes) = answer.body().size_hint().exact() {
                counters.each(|counts, labels| counts.sized(labels, bytes));
                return Ok(answer);
            }
            answer
        }
    };
    let long = info.is_long_running().then_some(code);
    if long.is_some() {
        counters.each(|counts, labels| counts.runs(labels, 1));
    }
    let events = info.is_watch();
    Ok(overheard(answer, Counted { counters, long, events, bytes: 0 }))
}

/// Counts an answer while it is read.
struct Counted {
    counters: Counters,
    /// Of a request that goes on for as long: its code.
    long: Option<StatusCode>,
    /// Its lines are counted.
    events: bool,
    bytes: u64,
}

impl Listener for Counted {
    fn hear(&mut self, data: &Bytes) {
        self.bytes += data.len() as u64;
        if self.events {
            let lines = data.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.counters.each(|counts, labels| counts.told(labels, lines));
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        match self.long {
            Some(code) => {
                self.counters.each(|counts, labels| counts.runs(labels, -1));
                self.counters.answered(code);
            }
            None => self.counters.each(|counts, labels| counts.sized(labels, self.bytes)),
        }
    }
}
