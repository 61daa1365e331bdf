//! Fan-out: many watch one namespace, and a few objects of it change at a steady pace.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};

use super::Settings;
use crate::{
    load::Sample,
    objects,
    processes::Meter,
    stage::Stage,
    wire::{Connection, Prepared},
};

/// That are changed in turn.
pub const OBJECTS: usize = 8;
/// How long a last event may take, or the first answer of a watch.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a run that has begun has to do with watches before its first write.
const SETTLE: Duration = Duration::from_millis(300);

/// A watch, and what came of it before the first write.
struct Watcher {
    body: Incoming,
    /// Keeps the connection.
    _connection: Connection,
    steps: u64,
    bytes: u64,
}

impl Watcher {
    async fn open(stage: &Stage, path: &str) -> Result<Self> {
        let mut connection = Connection::open(&stage.target).await?;
        let body = connection.send(&Prepared::get(stage.target.uri(path)?)).await?;
        Ok(Self { body, _connection: connection, steps: 0, bytes: 0 })
    }

    /// The times at which each step came, until the last.
    async fn follow(mut self, began: Instant, last: Arc<AtomicU64>) -> Result<(Vec<Duration>, u64)> {
        let (mut rest, mut came) = (Vec::new(), Vec::new());
        loop {
            let frame = timeout(PATIENCE, self.body.frame()).await.context("an event has not come")?;
            let data = frame.context("a watch has ended")??.into_data().unwrap_or_default();
            self.bytes += data.len() as u64;
            let now = began.elapsed();
            let mut wrong = None;
            objects::steps(&mut rest, &data, |step| {
                if step != self.steps + 1 {
                    wrong = Some(step);
                }
                self.steps = step;
                came.push(now);
            });
            if let Some(step) = wrong {
                bail!("the event {step} came behind {}", came.len() - 1);
            }
            if self.steps == last.load(Ordering::Relaxed) {
                return Ok((came, self.bytes));
            }
        }
    }
}

/// Latencies are from the request of a write to each of its events; processor time is by event. What it took from the write's
/// answer on is printed.
pub async fn run(stage: &Stage, namespace: &str, watchers: usize, settings: &Settings) -> Result<Sample> {
    let path = Stage::path(namespace, None);
    let mut writer = Connection::open(&stage.target).await?;
    let list = writer.value(&Prepared::get(stage.target.uri(&path)?)).await?;
    let version = list["metadata"]["resourceVersion"].as_str().context("a list without a version")?;
    let watch = format!("{path}?watch=true&resourceVersion={version}&timeoutSeconds=3600");
    let mut opened = Vec::with_capacity(watchers);
    // A few at a time: no server is asked for a thousand handshakes at once.
    while opened.len() < watchers {
        let some = (watchers - opened.len()).min(16);
        opened.extend(try_join_all((0..some).map(|_| Watcher::open(stage, &watch))).await?);
    }
    sleep(SETTLE).await;

    let writes = (settings.lasts.as_secs_f64() * f64::from(settings.writes_per_second)).ceil() as u64;
    let began = Instant::now();
    let last = Arc::new(AtomicU64::new(writes));
    let meter = Meter::start(&stage.target.pids)?;
    let mut following = JoinSet::new();
    for watcher in opened {
        following.spawn(watcher.follow(began, last.clone()));
    }
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    let mut pace = interval(Duration::from_secs(1) / settings.writes_per_second);
    let mut answer = Vec::new();
    for step in 1..=writes {
        pace.tick().await;
        let name = Stage::name(step as usize % OBJECTS);
        let uri = stage.target.uri(&Stage::path(namespace, Some(&name)))?;
        let write = Prepared::put(uri, stage.template.object(&name, step));
        asked.push(began.elapsed());
        writer.ask(&write, &mut answer).await?;
        answered.push(began.elapsed());
    }
    let (mut took, mut behind, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some(ended) = following.join_next().await {
        let (came, read) = ended??;
        took.extend(came.iter().zip(&asked).map(|(came, asked)| came.saturating_sub(*asked)));
        behind.extend(came.iter().zip(&answered).map(|(came, answered)| came.saturating_sub(*answered)));
        bytes += read;
    }
    let used = meter.stop()?;
    let from_answer = Sample::of(&stage.target, used, behind, bytes);
    let mut sample = Sample::of(&stage.target, used, took, bytes);
    sample.answer_p50_ms = Some(from_answer.p50_ms);
    sample.answer_p99_ms = Some(from_answer.p99_ms);
    Ok(sample)
}
