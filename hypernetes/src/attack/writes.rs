//! C3: requests that say one thing and might do another.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{Caller, Stage},
};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REFUSALS: &[u16] = &[400, 403, 404, 405, 409, 415, 422];

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}})
}

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let red = &stage.red.admin;
    red.post(CONFIG_MAPS, &config_map("kept")).await.needed("making a config map")?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kept"}, "spec": {
        "nodeSelector": {"hypernetes.io/attack": "nowhere"}, "containers": [{"name": "c", "image": "attack.invalid/none:1"}]}});
    red.post(PODS, &pod).await.needed("making a pod")?;

    let all = json!({"apiVersion": "v1", "kind": "DeleteOptions", "dryRun": ["All"]});
    red.delete_with(&format!("{CONFIG_MAPS}/kept"), &all).await;
    stays(red, findings, "a deletion whose body says dry run", &format!("{CONFIG_MAPS}/kept")).await;
    red.delete(&format!("{CONFIG_MAPS}/kept?dryRun=All")).await;
    stays(red, findings, "a deletion whose query says dry run", &format!("{CONFIG_MAPS}/kept")).await;
    red.delete_with(CONFIG_MAPS, &all).await;
    stays(red, findings, "a deletion of all whose body says dry run", &format!("{CONFIG_MAPS}/kept")).await;

    // Options that do not parse are not "all of them".
    for query in [
        "labelSelector=,,,",
        "labelSelector=a%20in",
        "labelSelector==",
        "fieldSelector=spec.nonsense=1",
        "dryRun=Maybe",
        "gracePeriodSeconds=soon",
        "propagationPolicy=Sideways",
    ] {
        let answer = red.delete(&format!("{CONFIG_MAPS}?{query}")).await;
        findings.refused(&format!("DELETE configmaps?{query}"), &answer, &[400, 422]);
        if red.get(&format!("{CONFIG_MAPS}/kept")).await.code == 404 {
            findings.succeeded_at(&format!("DELETE configmaps?{query}"), "it deleted what it did not name");
            red.post(CONFIG_MAPS, &config_map("kept")).await.needed("making the config map again")?;
        }
    }
    for query in ["limit=many", "timeoutSeconds=x&watch=true", "resourceVersion=x"] {
        let answer = red.get(&format!("{CONFIG_MAPS}?{query}")).await;
        findings.refused(&format!("GET configmaps?{query}"), &answer, &[400, 422]);
    }

    // A subresource is not its object.
    let pod_path = format!("{PODS}/kept");
    for part in ["status", "eviction", "binding", "log", "exec"] {
        let answer = red.delete(&format!("{pod_path}/{part}")).await;
        findings.refused(&format!("DELETE pods/kept/{part}"), &answer, REFUSALS);
        stays(red, findings, &format!("DELETE pods/kept/{part}"), &pod_path).await;
    }
    for part in ["eviction", "binding"] {
        let mut changed = red.get(&pod_path).await.needed("reading the pod")?;
        changed["metadata"]["labels"] = json!({"changed": "by-a-subresource"});
        let answer = red.put(&format!("{pod_path}/{part}"), &changed).await;
        findings.refused(&format!("PUT pods/kept/{part}"), &answer, REFUSALS);
        let after = red.get(&pod_path).await;
        let changed = after.body["metadata"]["labels"]["changed"].is_string();
        findings.judge(&format!("PUT pods/kept/{part} as an update"), !changed, "the pod's labels afterwards");
    }
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "kept"},
        "deleteOptions": {"dryRun": ["All"]}});
    red.post(&format!("{pod_path}/eviction"), &eviction).await;
    stays(red, findings, "an eviction whose body says dry run", &pod_path).await;
    let elsewhere = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "another"}});
    let answer = red.post(&format!("{pod_path}/eviction"), &elsewhere).await;
    findings.refused("an eviction of one pod at another's path", &answer, REFUSALS);

    scaled(red, findings).await?;
    applied(red, findings).await?;
    not_a_members(stage, findings).await
}

/// What was asked for came to nothing: the object is there and is not going.
async fn stays(who: &Caller, findings: &mut Findings, what: &str, path: &str) {
    let after = who.get(path).await;
    let there = after.is_success() && after.body["metadata"]["deletionTimestamp"].is_null();
    findings.judge(what, there, format!("the object afterwards: {after}"));
}

async fn scaled(red: &Caller, findings: &mut Findings) -> Result<()> {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kept"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "kept"}}, "template": {"metadata": {"labels": {"app": "kept"}},
            "spec": {"containers": [{"name": "c", "image": "attack.invalid/none:1"}]}}}});
    red.post(DEPLOYMENTS, &deployment).await.needed("making a deployment")?;
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "kept", "namespace": "default"}, "spec": {"replicas": 7}});
    red.put(&format!("{DEPLOYMENTS}/kept/scale?dryRun=All"), &scale).await;
    let replicas = red.get(&format!("{DEPLOYMENTS}/kept")).await.body["spec"]["replicas"].clone();
    findings.judge("a scale that says dry run", replicas == 0, format!("{replicas} replicas afterwards"));
    let negative = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "kept", "namespace": "default"}, "spec": {"replicas": -1}});
    let answer = red.put(&format!("{DEPLOYMENTS}/kept/scale"), &negative).await;
    findings.refused("a scale to less than nothing", &answer, REFUSALS);
    Ok(())
}

/// Somebody who may patch and not create.
async fn applied(red: &Caller, findings: &mut Findings) -> Result<()> {
    let group = "rbac.authorization.k8s.io";
    let roles = format!("/apis/{group}/v1/namespaces/default");
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "patcher"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]},
            {"apiGroups": [group], "resources": ["roles"], "verbs": ["get", "update"]}]});
    red.post(&format!("{roles}/roles"), &role).await.needed("making a role")?;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "patcher"}});
    red.post(accounts, &account).await.needed("making a service account")?;
    let binding = json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "patcher"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "patcher"},
        "subjects": [{"kind": "ServiceAccount", "name": "patcher", "namespace": "default"}]});
    red.post(&format!("{roles}/rolebindings"), &binding).await.needed("making a role binding")?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = red.post(&format!("{accounts}/patcher/token"), &request).await.needed("asking for a token")?;
    let patcher = red.with_token(token["status"]["token"].as_str().context("no token")?);

    let answer = patcher.patch(&format!("{CONFIG_MAPS}/new?fieldManager=attack"), "apply", &config_map("new")).await;
    findings.refused("an apply that creates, by who may patch alone", &answer, REFUSALS);
    let there = red.get(&format!("{CONFIG_MAPS}/new")).await;
    findings.judge("what it would have created", there.code == 404, &there);
    let answer = red.patch(&format!("{CONFIG_MAPS}/one?fieldManager=attack"), "apply", &config_map("two")).await;
    findings.refused("an apply of one name at another's path", &answer, &[400, 422]);
    let escalation = json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "patcher"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let answer = patcher.put(&format!("{roles}/roles/patcher"), &escalation).await;
    findings.refused("a role that gives itself everything", &answer, REFUSALS);
    Ok(())
}

/// What scheduler and kubelet say, said by a member.
async fn not_a_members(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let member = &stage.red.member;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "kept"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "any"}});
    let answer = member.post(&format!("{PODS}/kept/binding"), &binding).await;
    findings.refused("a member who binds a pod", &answer, &[403]);
    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.1"}});
    let answer = member.patch(&format!("{PODS}/kept/status"), "merge", &status).await;
    findings.refused("a member who says how a pod is", &answer, &[403]);
    let placed = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "placed"},
        "spec": {"nodeName": "any", "containers": [{"name": "c", "image": "attack.invalid/none:1"}]}});
    let answer = member.post(PODS, &placed).await;
    findings.refused("a member who chooses a pod's node", &answer, &[403, 422]);
    let immutable = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fixed"}, "immutable": true,
        "data": {"key": "value"}});
    member.post(CONFIG_MAPS, &immutable).await.needed("making an immutable config map")?;
    let answer = member.patch(&format!("{CONFIG_MAPS}/fixed"), "merge", &json!({"data": {"key": "other"}})).await;
    findings.refused("a change of an immutable config map", &answer, &[403, 422]);
    Ok(())
}
