//! C9: pods that do without end what their node does something for; meanwhile another tenant's pods are told what to run, and
//! start.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::time::timeout;

use super::{
    findings::Findings,
    pods::{PATIENCE, Pod},
    stage::Stage,
    wire::Wire,
};

/// Of 127.0.0.x, where the attackers' API requests come from, and the victim's.
const SOURCE: u8 = 14;
const VICTIM: u8 = 1;
const WAIT: &str = "exec sleep 1000000";
/// Sessions that are begun and not read.
const SESSIONS: usize = 8;

/// Has a program fill the pipe of its output from a connection over which nothing comes (busybox's `cat` uses sendfile(2)): for all that time
/// it holds the pipe's lock, which whoever reads the other end takes, too.
const HOLDS: &str = "exec 3>&1; nc -l -p 7 -e sh -c 'cat >&3' & \
    until netstat -ltn | grep -q ':7 '; do sleep 0.1; done; sleep 1000000 | nc 127.0.0.1 7";
/// How many do, by the number of the system call that each is in.
const HOLDERS: &str = "cat /proc/[0-9]*/syscall 2>/dev/null | grep -c '^40 '";
/// What a pod does from its start on.
const DEEDS: &[(&str, &str)] = &[
    ("a log without end", "exec yes what nobody wants to read"),
    ("processes without end", "f() { f | f & }; f; exec sleep 1000000"),
    ("memory without end", "while true; do tail /dev/zero; done"),
    ("a disk that is filled again and again", "while true; do cat /dev/zero > /full; rm /full; done"),
];

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let wire = Wire::new(&stage.address, &stage.authority)?;
    let victim = victim(stage).await?;
    let outcome = attempts(stage, &wire, &victim, findings).await;
    victim.remove().await;
    outcome
}

/// A pod that others may hold up.
pub(super) async fn victim(stage: &Stage) -> Result<Pod<'_>> {
    Pod::start(&stage.blue.member, "attack-victim", &stage.image, WAIT).await
}

async fn attempts(stage: &Stage, wire: &Wire, victim: &Pod<'_>, findings: &mut Findings) -> Result<()> {
    for (what, script) in DEEDS {
        let attacker = Pod::start(&stage.flood.member, "attack-guest", &stage.image, script).await?;
        let watched = watch(stage, wire, victim).await;
        judge(findings, what, watched);
        let gone = timeout(PATIENCE, attacker.remove()).await;
        findings.judge(&format!("{what}, afterwards"), gone.is_ok(), "the pod is gone");
    }
    let attacker = Pod::start(&stage.flood.member, "attack-guest", &stage.image, WAIT).await?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(attacker.session(wire, SOURCE, "exec yes what nobody reads").await?);
    }
    judge(findings, "output that nobody reads", watch(stage, wire, victim).await);
    drop(sessions);
    attacker.remove().await;
    held_pipes(stage, wire, victim, findings).await
}

/// Pipes that are locked by whoever has the other end: of a container's log, and of a session's output.
async fn held_pipes(stage: &Stage, wire: &Wire, victim: &Pod<'_>, findings: &mut Findings) -> Result<()> {
    for (what, script, of_session) in
        [("a log whose pipe is held", HOLDS, ""), ("output whose pipe is held", WAIT, HOLDS)]
    {
        let attacker = Pod::start(&stage.flood.member, "attack-guest", &stage.image, script).await?;
        let mut sessions = Vec::new();
        if !of_session.is_empty() {
            sessions.push(attacker.session(wire, SOURCE, of_session).await?);
        }
        attacker.until_says(wire, SOURCE, HOLDERS, "1\n").await?;
        judge(findings, what, watch(stage, wire, victim).await);
        drop(sessions);
        let gone = timeout(PATIENCE, attacker.remove()).await;
        findings.judge(&format!("{what}, afterwards"), gone.is_ok(), "the pod is gone");
    }
    Ok(())
}

pub(super) fn judge(findings: &mut Findings, what: &str, watched: Result<String>) {
    match watched {
        Ok(seen) => findings.held(what, seen),
        Err(error) => findings.succeeded_at(what, format!("{error:#}")),
    }
}

/// What the victim does meanwhile has to end: programs in a pod that runs, and a pod that starts.
pub(super) async fn watch(stage: &Stage, wire: &Wire, victim: &Pod<'_>) -> Result<String> {
    let began = Instant::now();
    let (mut programs, mut slowest) = (0, 0);
    while began.elapsed() < stage.seconds || programs == 0 {
        let told = Instant::now();
        let (works, said) = victim.run(wire, VICTIM, "echo heard").await.context("in the victim's pod")?;
        anyhow::ensure!(works && said == "heard\n", "the victim's program said {said:?}");
        (programs, slowest) = (programs + 1, slowest.max(told.elapsed().as_millis()));
    }
    let starts = Instant::now();
    Pod::start(&stage.blue.member, "attack-started", &stage.image, WAIT).await?.remove().await;
    let took = starts.elapsed().as_millis();
    Ok(format!(
        "{programs} programs of the victim, the slowest {slowest} ms; a pod of its own came and went in {took} ms"
    ))
}
