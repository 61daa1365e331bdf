//! What the floods cost another tenant: windows of quiet and of flood alternate, and the victim's requests are timed in both.
//!
//! The attacker is a process of its own that may use half a core, in quiet windows against a server of its own that refuses
//! everything: what is compared is what the flood does to the server, not what it costs to make.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use hypernetes_hypervisor::cgroup::{Cgroups, Limits};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::Instant,
};

use super::{
    attacker::Orders,
    floods::{self, FLOODS, Flood, VICTIM},
    pods::{PATIENCE, Pod},
    stage::Stage,
    wire::Wire,
};

const WAIT: &str = "exec sleep 1000000";
const GROUP: &str = "attacker";
/// Between two of the victim's small requests: what it asks for stays well within what it may, so that what it waits for is
/// the others.
const APART: Duration = Duration::from_millis(20);

/// What the victim does. A window's figure is the slowest but one in a hundred.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Get,
    Exec,
    Start,
}

const DEEDS: [(Deed, &str); 3] = [(Deed::Get, "get"), (Deed::Exec, "exec"), (Deed::Start, "pod start")];

/// Prints, by flood whose name begins as `named` and deed, the medians of the windows' figures and their ratio.
///
/// # Errors
/// When the victim cannot do what it does in quiet, or the attacker cannot be started.
pub async fn run(stage: &Stage, windows: usize, named: &str) -> Result<()> {
    let wire = Wire::new(&stage.address, &stage.authority)?;
    floods::raise_file_limit();
    floods::make_wanted(stage).await?;
    let standing = Pod::start(&stage.blue.member, "attack-victim", &stage.image, WAIT).await?;
    println!("{:<44} {:<10} {:>12} {:>12} {:>7}", "flood", "deed", "quiet p99", "flooded p99", "ratio");
    for flood in FLOODS.iter().filter(|flood| flood.what.starts_with(named)) {
        let mut figures = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for window in 0..windows * 2 {
            let flooded = window % 2 == 1;
            let attacker = attacker(stage, flood, flooded).await?;
            let took = victim(stage, &wire, &standing).await;
            end(attacker).await;
            for ((figures, mut took), (_, what)) in figures.iter_mut().zip(took).zip(DEEDS) {
                ensure!(!took.is_empty(), "the victim's {what} never ended in a window");
                figures[usize::from(flooded)].push(part(&mut took, 0.99));
            }
        }
        for ([quiet, flooded], (_, deed)) in figures.iter_mut().zip(DEEDS) {
            let (quiet, flooded) = (part(quiet, 0.5), part(flooded, 0.5));
            let ratio = flooded.as_secs_f64() / quiet.as_secs_f64();
            let show = |took: Duration| format!("{:.1} ms", took.as_secs_f64() * 1e3);
            println!("{:<44} {deed:<10} {:>12} {:>12} {ratio:>7.2}", flood.what, show(quiet), show(flooded));
        }
    }
    standing.remove().await;
    Ok(())
}

fn part(took: &mut [Duration], part: f64) -> Duration {
    took.sort_unstable();
    took.get(((took.len().saturating_sub(1)) as f64 * part).round() as usize).copied().unwrap_or_default()
}

/// One window: the three deeds beside each other, each again when it has ended.
async fn victim(stage: &Stage, wire: &Wire, standing: &Pod<'_>) -> [Vec<Duration>; 3] {
    let until = Instant::now() + stage.seconds;
    let deeds = DEEDS.map(|(deed, _)| async move {
        let mut took = Vec::new();
        while Instant::now() < until || took.is_empty() {
            let began = Instant::now();
            let mut started = None;
            let done = match deed {
                Deed::Get => floods::ask(stage, wire).await,
                Deed::Exec => standing.run(wire, VICTIM, "true").await.map(drop),
                Deed::Start => {
                    let pod = Pod::start(&stage.blue.member, "attack-started", &stage.image, WAIT).await;
                    pod.map(|pod| started = Some(pod))
                }
            };
            // What was refused or has not ended took as long as one waits for it.
            took.push(if done.is_ok() { began.elapsed() } else { PATIENCE });
            if deed == Deed::Get {
                tokio::time::sleep(APART).await;
            }
            if let Some(pod) = started {
                pod.remove().await;
            }
        }
        took
    });
    futures::future::join_all(deeds).await.try_into().unwrap_or_default()
}

/// Starts the attacker, in its control group before it does anything.
async fn attacker(stage: &Stage, flood: &Flood, flooded: bool) -> Result<Child> {
    let orders = Orders {
        flood: flood.what.to_owned(),
        server: flooded.then(|| (stage.address.clone(), stage.authority.clone())),
        authorization: stage.flood.member.authorization.clone().filter(|_| flood.is_member),
        victim: format!("{}-member", stage.blue.name),
    };
    let mut child = Command::new(std::env::current_exe()?)
        .arg("attacker")
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting the attacker")?;
    let cgroups = Cgroups::find().context("there are no control groups here, to give the attacker half a core")?;
    // No processor of its own, and so the half that a VMM has beside a VM's.
    let limits = Limits { tenant: None, memory_bytes: 2 << 30, cpus: 0 };
    let group = cgroups.make(GROUP, &limits)?;
    let pid = child.id().context("the attacker has ended")?.to_string();
    let directories = group.directory.iter().map(|directory| directory.as_path());
    let directories = directories.chain(group.join.iter().filter_map(|file| file.parent()));
    for directory in directories {
        std::fs::write(directory.join("cgroup.procs"), &pid)?;
    }
    let mut stdin = child.stdin.take().context("the attacker hears nothing")?;
    stdin.write_all(&serde_json::to_vec(&orders)?).await?;
    Ok(child)
}

async fn end(mut attacker: Child) {
    let _ = attacker.kill().await;
    if let Some(cgroups) = Cgroups::find() {
        cgroups.remove(GROUP);
    }
}
