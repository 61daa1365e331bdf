//! C4: kinds that a tenant defines, as a way to what the server keeps for itself, to another tenant, and to everybody's time.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{Caller, Stage},
};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const REFUSALS: &[u16] = &[400, 404, 422];
/// A kind is served after a moment of its definition's.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// What an object of a kind that is costly to validate may take.
const LONG: Duration = Duration::from_secs(5);

fn definition(plural: &str, group: &str, kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "annotations": {"api-approved.kubernetes.io": "unapproved"}},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v9", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": spec}, "x-kubernetes-preserve-unknown-fields": true}}}]},
    })
}

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let (red, blue) = (&stage.red.admin, &stage.blue.admin);
    let any = json!({"x-kubernetes-preserve-unknown-fields": true});
    // What is stored by such a name the server reads as its own.
    for (plural, group) in [
        ("clusterrolebindings", "rbac.authorization.k8s.io"),
        ("rolebindings", "rbac.authorization.k8s.io"),
        ("projects", "identity.hypernetes.io"),
        ("ports", "network.hypernetes.io"),
        ("things", "hypernetes.io"),
        ("pods", ""),
        ("..", "attack.invalid"),
        ("a/b", "attack.invalid"),
        ("a", "attack.invalid/../b.invalid"),
    ] {
        let answer = red.post(DEFINITIONS, &definition(plural, group, "Thing", any.clone())).await;
        findings.refused(&format!("defining {plural:?} in {group:?}"), &answer, REFUSALS);
    }
    theirs(red, blue, findings, &any).await?;
    forged(red, findings, &any).await?;
    costly(red, blue, findings).await
}

/// Waits until a kind is served.
async fn served(who: &Caller, plural: &str) -> bool {
    let began = Instant::now();
    loop {
        if who.get(&format!("/apis/attack.invalid/v9/{plural}")).await.is_success() {
            return true;
        }
        if began.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One tenant's kind is nothing to another.
async fn theirs(red: &Caller, blue: &Caller, findings: &mut Findings, any: &Value) -> Result<()> {
    red.post(DEFINITIONS, &definition("things", "attack.invalid", "Thing", any.clone()))
        .await
        .needed("defining a kind")?;
    if !served(red, "things").await {
        findings.could_not("another tenant's kind", "it is not served");
        return Ok(());
    }
    let objects = "/apis/attack.invalid/v9/namespaces/default/things";
    let thing = json!({"apiVersion": "attack.invalid/v9", "kind": "Thing", "metadata": {"name": "one"}, "spec": 1});
    red.post(objects, &thing).await.needed("making an object of the kind")?;
    for path in [objects.to_owned(), format!("{objects}/one"), "/apis/attack.invalid".into()] {
        findings.refused(&format!("another tenant's kind at {path}"), &blue.get(&path).await, &[404]);
    }
    let shown = blue.get("/apis").await.needed("listing groups")?.to_string().contains("attack.invalid");
    findings.judge("another tenant's kind in discovery", !shown, format!("shown: {shown}"));
    Ok(())
}

/// The status says what a kind is called; a tenant may write it.
async fn forged(red: &Caller, findings: &mut Findings, any: &Value) -> Result<()> {
    red.post(DEFINITIONS, &definition("forged", "attack.invalid", "Forged", any.clone()))
        .await
        .needed("defining a kind")?;
    if !served(red, "forged").await {
        findings.could_not("a forged status", "its kind is not served");
        return Ok(());
    }
    let path = format!("{DEFINITIONS}/forged.attack.invalid/status");
    for plural in ["../things", "a/b", ".."] {
        let status = json!({"status": {"acceptedNames": {"plural": plural, "kind": "Forged"}}});
        findings.refused(
            &format!("a kind that is called {plural:?}"),
            &red.patch(&path, "merge", &status).await,
            REFUSALS,
        );
    }
    Ok(())
}

/// Schemas that take long to hold against an object, while another tenant works.
async fn costly(red: &Caller, blue: &Caller, findings: &mut Findings) -> Result<()> {
    let large =
        definition("patterns", "attack.invalid", "Pattern", json!({"type": "string", "pattern": r"(\pL{1000}){1000}"}));
    findings.refused("a pattern of a thousand million letters", &red.post(DEFINITIONS, &large).await, REFUSALS);
    let alternatives: Vec<Value> = (0..5000).map(|n| json!({"enum": [n]})).collect();
    let items = json!({"type": "integer", "anyOf": alternatives});
    let spec = json!({"type": "array", "items": items});
    red.post(DEFINITIONS, &definition("costly", "attack.invalid", "Costly", spec)).await.needed("defining a kind")?;
    if !served(red, "costly").await {
        findings.could_not("a schema that takes long", "its kind is not served");
        return Ok(());
    }
    let list: Vec<u32> = std::iter::repeat_n(4999, 200_000).collect();
    let thing = json!({"apiVersion": "attack.invalid/v9", "kind": "Costly", "metadata": {"name": "one"}, "spec": list});
    let objects = "/apis/attack.invalid/v9/namespaces/default/costly";
    let (sent, (answer, took)) = tokio::join!(red.post(objects, &thing), async {
        let began = Instant::now();
        (blue.get("/api/v1/namespaces/default").await, began.elapsed())
    });
    findings.refused("an object that takes a thousand million steps to validate", &sent, &[413, 422]);
    findings.judge("another tenant meanwhile", answer.is_success() && took < LONG, format!("{answer} after {took:?}"));
    Ok(())
}
