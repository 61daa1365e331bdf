//! C4, of what is the operator's alone and beside its objects: the store as a whole, and who of several servers acts.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{Caller, Stage},
};

const SYSTEM: &str = "/clusters/system";
const ACCOUNTS: &str = "/clusters/system/api/v1/namespaces/default/serviceaccounts";
const BINDINGS: &str = "/clusters/system/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const REFUSED: &[u16] = &[401, 403, 404];

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let name = format!("attack-{}", stage.red.name);
    let controller = controller(stage, &name).await;
    let tried = match &controller {
        Ok(controller) => attempts(stage, findings, Some(controller)).await,
        Err(error) => {
            findings.could_not("a controller of the operator's", format!("{error:#}"));
            attempts(stage, findings, None).await
        }
    };
    stage.operator.delete(&format!("{BINDINGS}/{name}")).await;
    stage.operator.delete(&format!("{ACCOUNTS}/{name}")).await;
    tried
}

/// A service account of the operator's cluster that may do everything by a role, as one that somebody has installed there may.
async fn controller(stage: &Stage, name: &str) -> Result<Caller> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    stage.operator.post(ACCOUNTS, &account).await.needed("making a service account")?;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": name}]});
    stage.operator.post(BINDINGS, &binding).await.needed("binding it")?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = stage.operator.post(&format!("{ACCOUNTS}/{name}/token"), &request).await.needed("making its token")?;
    let token = token["status"]["token"].as_str().unwrap_or_default();
    Ok(stage.anonymous.with_token(token))
}

async fn attempts(stage: &Stage, findings: &mut Findings, controller: Option<&Caller>) -> Result<()> {
    let node = stage.node.as_ref();
    let tenants = [("a tenant's admin", &stage.red.admin), ("a tenant's member", &stage.red.member)];
    let mut all: Vec<(&str, &Caller)> = tenants.to_vec();
    all.push(("nobody in particular", &stage.anonymous));
    all.extend(node.map(|node| ("a node", node)));
    for (who, caller) in all.iter().copied().chain(controller.map(|one| ("a controller with every role", one))) {
        for place in [String::new(), SYSTEM.into(), "/clusters/*".into(), format!("/clusters/{}", stage.blue.id)] {
            let answer = caller.get(&format!("{place}/snapshot")).await;
            findings.refused(&format!("{who} takes a snapshot of the store ({place}/snapshot)"), &answer, REFUSED);
        }
    }
    leases(stage, findings, &all).await
}

/// Who has a lease acts for all tenants.
async fn leases(stage: &Stage, findings: &mut Findings, attackers: &[(&str, &Caller)]) -> Result<()> {
    let there = format!("{SYSTEM}{LEASES}");
    let list = stage.operator.get(&there).await.needed("listing leases")?;
    let names: Vec<&str> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|lease| lease["metadata"]["name"].as_str().filter(|name| name.starts_with("hypernetes-")))
        .collect();
    if names.is_empty() {
        findings.could_not("the system's leases", "there are none");
        return Ok(());
    }
    let mine = json!({"spec": {"holderIdentity": "attacker", "leaseDurationSeconds": 3600}});
    for (who, caller) in attackers {
        let mut wrong = Vec::new();
        for name in &names {
            let one = format!("{there}/{name}");
            let mut object = mine.clone();
            object["apiVersion"] = "coordination.k8s.io/v1".into();
            object["kind"] = "Lease".into();
            object["metadata"] = json!({"name": name, "namespace": "kube-system"});
            for (verb, answer) in [
                ("get", caller.get(&one).await),
                ("patch", caller.patch(&one, "merge", &mine).await),
                ("apply", caller.patch(&format!("{one}?fieldManager=a&force=true"), "apply", &object).await),
                ("update", caller.put(&one, &object).await),
                ("delete", caller.delete(&one).await),
                ("create", caller.post(&there, &object).await),
            ] {
                if !REFUSED.contains(&answer.code) {
                    wrong.push(format!("{verb} {name}: {answer}"));
                }
            }
        }
        let happened = if wrong.is_empty() { "all refused".into() } else { wrong.join("; ") };
        findings.judge(&format!("{who} takes or edits the system's leases"), wrong.is_empty(), happened);
    }
    // One of the same name in one's own cluster is another.
    for name in &names {
        let mut own = mine.clone();
        own["apiVersion"] = "coordination.k8s.io/v1".into();
        own["kind"] = "Lease".into();
        own["metadata"] = json!({"name": name});
        stage.red.admin.post(LEASES, &own).await;
    }
    let list = stage.operator.get(&there).await.needed("listing leases")?;
    let taken = |lease: &&Value| lease["spec"]["holderIdentity"] == "attacker";
    let taken = list["items"].as_array().into_iter().flatten().filter(taken).count();
    findings.judge(
        "leases of the same names in a tenant's own cluster",
        taken == 0,
        format!("{taken} were the system's"),
    );
    Ok(())
}
