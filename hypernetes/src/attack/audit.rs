//! C10: a tenant that wants its own record to say something else, another's to lose something, or to read it.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use http::Method;
use hypernetes_apiserver::audit;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    findings::Findings,
    stage::{Caller, Stage, Team},
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How long what was done may take to be in the log.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(50);
/// What an attacker would have the log say.
const FORGED: &str =
    r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"forged","user":{"username":"forged"}}"#;
/// Of the victim, while another fills its own log.
const DEEDS: usize = 50;
const FLOODERS: usize = 8;
/// What is kept of a tenant's chain, and one file more.
const MOST_KEPT: u64 = 20 << 20;

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    read_anothers(stage, findings).await;
    let log = stage.server_root().join("audit");
    if std::fs::read_dir(&log).is_err() {
        findings
            .could_not("what a tenant's requests do to the log", format!("{} is not to be read here", log.display()));
        return Ok(());
    }
    let mode = log.metadata()?.permissions().mode() & 0o777;
    findings.judge(
        "another user of the server's host reads the log",
        mode & 0o077 == 0,
        format!("its mode is {mode:03o}"),
    );
    forge(stage, findings, &log.join(&stage.red.id)).await?;
    flood(stage, findings, &log).await
}

/// The log is in no API.
async fn read_anothers(stage: &Stage, findings: &mut Findings) {
    let (id, mut wrong, mut tried) = (&stage.blue.id, Vec::new(), 0);
    for who in [&stage.red.admin, &stage.red.member, &stage.anonymous] {
        for path in [
            format!("/audit/{id}"),
            "/audit".into(),
            format!("/clusters/{id}/audit"),
            format!("/clusters/{id}/logs/audit"),
            format!("/logs/audit/{id}/audit-0000000000000000.log"),
            format!("/logs/..%2faudit%2f{id}%2faudit-0000000000000000.log"),
            format!("/clusters/{id}/apis/audit.k8s.io/v1/events"),
            "/apis/audit.k8s.io/v1/events".into(),
            "/clusters/system/apis/audit.k8s.io/v1/events".into(),
        ] {
            let answer = who.get(&path).await;
            tried += 1;
            if !matches!(answer.code, 400..=404) {
                wrong.push(format!("{path}: {answer}"));
            }
        }
    }
    let happened = if wrong.is_empty() { "all refused".into() } else { wrong.join("; ") };
    findings.judge(&format!("a tenant reads another's log, {tried} requests"), wrong.is_empty(), happened);
}

/// Whatever of a request is recorded stays within its own event.
async fn forge(stage: &Stage, findings: &mut Findings, chain: &Path) -> Result<()> {
    let red = &stage.red.admin;
    let broken = format!("x\"}}\n{FORGED}\n");
    let encoded: String = form_urlencoded::byte_serialize(broken.as_bytes()).collect::<String>().replace('+', "%20");
    let object = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"key": broken},
            "metadata": {"name": name, "annotations": {"a": broken}, "labels": {"b": broken}}})
    };
    red.post(CONFIG_MAPS, &object(&broken)).await;
    red.post(CONFIG_MAPS, &object("forged")).await;
    red.post(&format!("{CONFIG_MAPS}?fieldManager={encoded}"), &object("managed")).await;
    red.delete(&format!("{CONFIG_MAPS}/{encoded}")).await;
    red.delete(&format!("/api/v1/namespaces/{encoded}/configmaps/x")).await;
    red.get(&format!("/{encoded}")).await;
    let quoted = format!("x\"}},{FORGED}");
    for headers in [
        [("user-agent", quoted.as_str()), ("audit-id", &quoted)],
        [("impersonate-user", &quoted), ("x-forwarded-for", &quoted)],
        [("impersonate-user", "x"), ("impersonate-extra-a", &quoted)],
    ] {
        let body = Some(("application/json", object("headers").to_string()));
        red.send_with(Method::POST, CONFIG_MAPS, body, &headers).await;
    }
    let lines = after(red, chain, "forged-end").await?;
    let is_whole = audit::verify(chain);
    let said = is_whole.as_ref().map_or_else(ToString::to_string, |whole| format!("{} lines are whole", whole.lines));
    findings.judge("lines and JSON in names, URLs, headers and objects, in one's own log", is_whole.is_ok(), said);
    let parsed: Vec<Option<Value>> = lines.iter().map(|line| serde_json::from_str(line).ok()).collect();
    let forged = |line: &Option<Value>| {
        line.as_ref().is_none_or(|line| line["user"]["username"] == "forged" || line["auditID"] == "forged")
    };
    let count = parsed.iter().filter(|line| forged(line)).count();
    findings.judge("an event that nobody caused", count == 0, format!("{count} of {} lines", lines.len()));
    Ok(())
}

/// While one tenant fills its log, all that another does is recorded.
async fn flood(stage: &Stage, findings: &mut Findings, log: &Path) -> Result<()> {
    let mut flooders = JoinSet::new();
    for worker in 0..FLOODERS {
        let caller = stage.flood.admin.clone();
        flooders.spawn(async move {
            let filling = "x".repeat(2000);
            for number in 0_u64.. {
                caller.delete(&format!("{CONFIG_MAPS}/{worker}-{number}?{filling}")).await;
            }
        });
    }
    let began = Instant::now();
    let mut done = Vec::new();
    while done.len() < DEEDS || began.elapsed() < stage.seconds {
        let name = format!("recorded-{}", done.len());
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        stage.blue.member.post(CONFIG_MAPS, &object).await.needed("what the victim does")?;
        done.push(name);
        tokio::time::sleep(AGAIN / 5).await;
    }
    flooders.shutdown().await;
    let lines = after(&stage.blue.admin, &log.join(&stage.blue.id), "recorded-end").await?;
    let has = |name: &String| lines.iter().any(|line| line.contains(&format!("\"name\":\"{name}\"")));
    let missing = done.iter().filter(|name| !has(name)).count();
    let happened = format!("{missing} of its {} deeds are missing", done.len());
    findings.judge("a tenant that fills its log pushes out another's", missing == 0, happened);
    let Team { id, admin, .. } = &stage.flood;
    after(admin, &log.join(id), "flood-end").await?;
    let whole = audit::verify(&log.join(id));
    let said = whole.as_ref().map_or_else(ToString::to_string, |whole| format!("{} lines are whole", whole.lines));
    findings.judge("a flood leaves its own log broken", whole.is_ok(), said);
    let kept = size(&log.join(id))?;
    findings.judge("a flood fills the server's disk", kept <= MOST_KEPT, format!("{} KiB are kept", kept >> 10));
    Ok(())
}

/// Does one thing more and waits until it is recorded: the lines of the chain until then.
async fn after(caller: &Caller, chain: &Path, marker: &str) -> Result<Vec<String>> {
    let began = Instant::now();
    loop {
        // Events may be lost; that of a new deed comes.
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": marker}});
        caller.post(CONFIG_MAPS, &object).await;
        let mut lines = Vec::new();
        let listed = audit::each_line(chain, |line| {
            lines.push(line.to_owned());
            Ok(())
        });
        match listed {
            Ok(()) if lines.iter().any(|line| line.contains(&format!("\"name\":\"{marker}\""))) => return Ok(lines),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("reading {}", chain.display()));
            }
            _ => anyhow::ensure!(began.elapsed() < PATIENCE, "{marker} is not in {}", chain.display()),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn size(directory: &Path) -> Result<u64> {
    std::fs::read_dir(directory)?.map(|file| Ok(file?.metadata()?.len())).sum()
}
