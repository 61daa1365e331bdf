//! A load in a closed loop: so many clients, each with a connection of its own, each asking again when it was answered.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use futures::future::try_join_all;
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    processes::{self, Meter, Used},
    target::Target,
    wire::{Connection, Prepared},
};

/// The figures of one run. Times are of one request, or of one event that was delivered.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    pub requests: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Processor time.
    pub server_us: f64,
    pub generator_us: f64,
    /// Received.
    pub bytes: f64,
    /// Of the server, behind the run.
    pub resident_mib: f64,
    pub load_average: f64,
    /// Of events, from the answer to their write; those that came before it took nothing.
    pub answer_p50_ms: Option<f64>,
    pub answer_p99_ms: Option<f64>,
}

impl Sample {
    pub fn of(target: &Target, used: Used, mut took: Vec<Duration>, bytes: u64) -> Self {
        took.sort_unstable();
        let requests = took.len();
        let each = |value: f64| if requests == 0 { 0.0 } else { value / requests as f64 };
        let micros = |time: Duration| each(time.as_secs_f64() * 1e6);
        let seconds = used.elapsed.as_secs_f64();
        Self {
            requests: requests as u64,
            seconds,
            per_second: requests as f64 / seconds,
            p50_ms: part(&took, 0.5).as_secs_f64() * 1e3,
            p99_ms: part(&took, 0.99).as_secs_f64() * 1e3,
            server_us: micros(used.server),
            generator_us: micros(used.generator),
            bytes: each(bytes as f64),
            resident_mib: processes::resident(&target.pids),
            load_average: processes::load_average(),
            ..Self::default()
        }
    }
}

/// Of times in order, the one that so large a part of them is not above.
fn part(took: &[Duration], part: f64) -> Duration {
    let at = (took.len() as f64 * part).ceil() as usize;
    took.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

/// Bytes of an answer that are shown to whoever makes the next request.
const KEPT: usize = 1024;

/// What the clients of a load ask for.
pub trait Requests: Send + 'static {
    /// The next of a client's, by the first bytes of the answer before; none: it has asked for all. `&mut self` is of all clients.
    fn next(&mut self, client: usize, answer: &[u8]) -> Result<Option<Prepared>>;
}

/// As long as there is something to ask for, and no longer than `lasts`. Connections are made before.
///
/// # Errors
/// The first answer that is not the one that is wanted ends all.
pub async fn run(target: &Target, clients: usize, lasts: Duration, requests: impl Requests) -> Result<Sample> {
    let connections = try_join_all((0..clients).map(|_| Connection::open(target))).await?;
    let requests = Arc::new(Mutex::new(requests));
    let meter = Meter::start(&target.pids)?;
    let until = Instant::now() + lasts;
    let mut running = JoinSet::new();
    for (client, connection) in connections.into_iter().enumerate() {
        running.spawn(one(connection, client, until, requests.clone()));
    }
    let (mut took, mut bytes) = (Vec::new(), 0);
    while let Some(ended) = running.join_next().await {
        let (its, read) = ended??;
        took.extend(its);
        bytes += read;
    }
    Ok(Sample::of(target, meter.stop()?, took, bytes))
}

async fn one<R: Requests>(
    mut connection: Connection,
    client: usize,
    until: Instant,
    requests: Arc<Mutex<R>>,
) -> Result<(Vec<Duration>, u64)> {
    let (mut took, mut bytes) = (Vec::new(), 0);
    let mut answer = Vec::with_capacity(KEPT);
    while Instant::now() < until {
        let next = requests.lock().unwrap_or_else(PoisonError::into_inner).next(client, &answer)?;
        let Some(prepared) = next else { break };
        let began = Instant::now();
        bytes += connection.ask(&prepared, &mut answer).await? as u64;
        took.push(began.elapsed());
    }
    Ok((took, bytes))
}
