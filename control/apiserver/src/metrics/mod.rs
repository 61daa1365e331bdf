//! What is counted of requests, by upstream's names: of all of them, and of each tenant's own.
//!
//! Counting takes no lock, and there are no more counters than the tables have places ([`series`]).

mod histogram;
pub mod labels;
pub mod page;
mod process;
pub mod rejected;
mod series;
mod text;

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use http::StatusCode;

use self::{
    histogram::{DURATIONS, Histogram, SIZES},
    labels::Labels,
    series::Series,
};

/// Of the whole server: each verb of each built-in resource in each scope finds room.
const PLACES: usize = 4096;
/// Of one tenant: as many as an application with some controllers uses. Each that is used takes about 600 bytes.
const PLACES_OF_TENANT: usize = 64;

/// Codes that are told apart. Everything else is the last.
const CODES: [u16; 22] =
    [101, 200, 201, 202, 204, 400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429, 500, 503, 504, 507, 0];

/// What is counted of the requests that have the same labels.
#[derive(Default)]
struct Requests {
    codes: [AtomicU64; CODES.len()],
    durations: Histogram<{ DURATIONS.len() }>,
    sizes: Histogram<{ SIZES.len() }>,
    /// Long-running ones that have not ended.
    running: AtomicI64,
    /// Events of watches.
    events: AtomicU64,
}

/// What is counted of somebody's requests.
pub struct Counts(Series<Labels, Requests>);

impl Counts {
    fn new(places: usize) -> Self {
        Self(Series::new(places))
    }

    pub fn of_tenant() -> Self {
        Self::new(PLACES_OF_TENANT)
    }

    /// A request was answered.
    pub fn answered(&self, labels: &Labels, code: StatusCode, took: Duration) {
        let requests = self.0.of(labels);
        let place = CODES.iter().position(|known| *known == code.as_u16()).unwrap_or(CODES.len() - 1);
        requests.codes[place].fetch_add(1, Ordering::Relaxed);
        requests.durations.observe(&DURATIONS, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// An answer was of so many bytes.
    pub fn sized(&self, labels: &Labels, bytes: u64) {
        self.0.of(labels).sizes.observe(&SIZES, bytes);
    }

    /// A long-running request begins, or ends (-1).
    pub fn runs(&self, labels: &Labels, more: i64) {
        self.0.of(labels).running.fetch_add(more, Ordering::Relaxed);
    }

    /// A watch was told of so many changes.
    pub fn told(&self, labels: &Labels, events: u64) {
        self.0.of(labels).events.fetch_add(events, Ordering::Relaxed);
    }
}

/// How it stands with who waits, as fairness knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct FlowControl {
    /// Seats.
    pub total: u64,
    pub taken: u64,
    pub waiting: u64,
    pub served: u64,
    /// Refused since all of their queues were full.
    pub full: u64,
    /// Refused since they had waited for too long.
    pub late: u64,
}

/// What is counted of the server.
pub struct Metrics {
    pub all: Counts,
    /// Being worked on: those that change something, and the others.
    mutating: AtomicI64,
    read_only: AtomicI64,
    started: SystemTime,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            all: Counts::new(PLACES),
            mutating: AtomicI64::new(0),
            read_only: AtomicI64::new(0),
            started: SystemTime::now(),
        }
    }
}

impl Metrics {
    /// A request that is worked on until it is dropped.
    pub fn in_flight(&self, reads: bool) -> InFlight<'_> {
        let kind = if reads { &self.read_only } else { &self.mutating };
        kind.fetch_add(1, Ordering::Relaxed);
        InFlight(kind)
    }
}

pub struct InFlight<'a>(&'a AtomicI64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
