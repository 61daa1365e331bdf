//! The same load over many tenants: of a server that has them, with the operator's credential.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Uri;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Settings;
use crate::{
    load::{self, Requests, Sample},
    processes,
    stage::Stage,
    wire::Prepared,
};

const PATH: &str = "/apis/identity.hypernetes.io/v1alpha1/projects";
/// How long a server's processor time is looked at, and for how long until it takes next to none.
const LOOK: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(300);
/// One object in each.
const OBJECT: &str = "bench-object";

/// A Keystone id, which is a tenant's name in URLs.
fn id(stage: &Stage, tenants: usize, number: usize) -> String {
    // The run's own digits, the workload's, and the tenant's: those of a workload before may still be going.
    let run: String = stage.run.chars().filter(char::is_ascii_hexdigit).collect();
    format!("{run:0>16.16}{tenants:08x}{number:08x}")
}

fn configmaps(id: &str) -> String {
    format!("/clusters/{id}{}", Stage::path("default", None))
}

/// Until the server is at rest: to remove the tenants of a workload before is work that goes on behind the answers.
async fn at_rest(stage: &Stage) -> Result<()> {
    let began = Instant::now();
    loop {
        let meter = processes::Meter::start(&stage.target.pids)?;
        sleep(LOOK).await;
        if meter.stop()?.server < LOOK / 20 {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{} does not come to rest", stage.target.name);
    }
}

/// Tenants with what the server gives to each, and an object; what that took is printed.
pub async fn make(stage: &Stage, tenants: usize) -> Result<()> {
    at_rest(stage).await?;
    let before = processes::resident(&stage.target.pids);
    let (meter, began) = (processes::Meter::start(&stage.target.pids)?, Instant::now());
    let (uri, of) = (stage.target.uri(PATH)?, stage.clone());
    stage
        .send_all((0..tenants).map(move |number| {
            let id = id(&of, tenants, number);
            let project = json!({
                "apiVersion": "identity.hypernetes.io/v1alpha1", "kind": "Project", "metadata": {"name": id},
                "spec": {"displayName": format!("{}-{number}", of.run), "domain": "default", "enabled": true},
            });
            Ok(Prepared::post(uri.clone(), project.to_string()))
        }))
        .await?;
    let made = began.elapsed().as_secs_f64();
    let run = stage.run.clone();
    stage
        .wait(PATH, "making tenants", move |list: &Bytes| {
            let Ok(list) = serde_json::from_slice::<serde_json::Value>(list) else { return false };
            let all = list["items"].as_array().into_iter().flatten();
            let own = all.filter(|p| p["spec"]["displayName"].as_str().is_some_and(|name| name.starts_with(&run)));
            own.filter(|project| project["status"]["phase"] == "Ready").count() == tenants
        })
        .await?;
    let ready = began.elapsed().as_secs_f64();
    let took = meter.stop()?.server.as_secs_f64() * 1e3 / tenants as f64;
    let grown = (processes::resident(&stage.target.pids) - before) * 1024.0 / tenants as f64;
    println!(
        "  {}: {tenants} tenants asked for at {:.0}/s, ready at {:.0}/s; {took:.1} ms of processor time and {grown:.0} KiB of memory each",
        stage.target.name,
        tenants as f64 / made,
        tenants as f64 / ready
    );
    let of = stage.clone();
    stage
        .send_all((0..tenants).map(move |number| {
            let uri = of.target.uri(&configmaps(&id(&of, tenants, number)))?;
            Ok(Prepared::post(uri, of.template.object(OBJECT, 0)))
        }))
        .await
}

pub async fn remove(stage: &Stage, tenants: usize) -> Result<()> {
    let of = stage.clone();
    let gone = (0..tenants)
        .map(move |number| Ok(Prepared::delete(of.target.uri(&format!("{PATH}/{}", id(&of, tenants, number)))?)));
    stage.send_all(gone).await
}

/// Half reads and half writes, each of the next tenant.
struct Mixed {
    stage: Stage,
    objects: Vec<Uri>,
    count: u64,
}

impl Requests for Mixed {
    fn next(&mut self, _: usize, _: &[u8]) -> Result<Option<Prepared>> {
        self.count += 1;
        let uri = self.objects[(self.count / 2) as usize % self.objects.len()].clone();
        Ok(Some(match self.count % 2 {
            0 => Prepared::get(uri),
            _ => Prepared::put(uri, self.stage.template.object(OBJECT, self.count)),
        }))
    }
}

pub async fn run(stage: &Stage, tenants: usize, settings: &Settings) -> Result<Sample> {
    let objects = (0..tenants).map(|n| stage.target.uri(&format!("{}/{OBJECT}", configmaps(&id(stage, tenants, n)))));
    let objects = objects.collect::<Result<Vec<_>>>()?;
    ensure!(!objects.is_empty(), "no tenants");
    let mixed = Mixed { stage: stage.clone(), objects, count: 0 };
    load::run(&stage.target, settings.clients, settings.lasts, mixed).await
}
