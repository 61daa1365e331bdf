//! C1: text where root or the server expects a name.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{INVALID, Stage},
};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// Where nobody looks, if it works after all.
const ABSOLUTE: &str = "/tmp/hypernetes-attack";
const CLIMBING: &str = "../../../../../../tmp/hypernetes-attack";
const URL: &str = "x?watch=true&timeoutSeconds=99999999999";

/// A pod that no node takes, with a change.
fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "attack"}, "spec": {
        "nodeSelector": {"hypernetes.io/attack": "nowhere"},
        "containers": [{"name": "c", "image": "attack.invalid/none:1"}],
    }});
    change(&mut pod);
    pod
}

fn with_volume(volume: Value) -> Value {
    pod(|pod| {
        let name = volume["name"].clone();
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": name, "mountPath": "/v"}]);
        pod["spec"]["volumes"] = json!([volume]);
    })
}

fn with_item(kind: &str, item: Value) -> Value {
    let name = if kind == "secret" { "secretName" } else { "name" };
    with_volume(json!({"name": "v", kind: {name: "x", "items": [item]}}))
}

fn in_spec(field: &str, value: Value) -> Value {
    pod(|pod| pod["spec"][field] = value)
}

fn in_container(field: &str, value: Value) -> Value {
    pod(|pod| pod["spec"]["containers"][0][field] = value)
}

fn mount(field: &str, text: &str) -> Value {
    pod(|pod| {
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v", field: text}]);
        pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    })
}

/// A workload whose pods' template is that of a pod.
fn workload(group: &str, plural: &str, kind: &str, pod: &Value) -> (String, Value) {
    let mut template = json!({"metadata": {"labels": {"app": "attack"}}, "spec": pod["spec"]});
    let mut spec = json!({"selector": {"matchLabels": {"app": "attack"}}});
    if kind == "Job" {
        template["spec"]["restartPolicy"] = json!("Never");
        spec = json!({});
    }
    spec["template"] = template;
    let path = format!("/apis/{group}/v1/namespaces/default/{plural}");
    (path, json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "attack"}, "spec": spec}))
}

/// What is tried, where it is posted, and the object.
fn attempts() -> Vec<(String, String, Value)> {
    let mut attempts = Vec::new();
    let mut to = |path: &str, what: String, object: Value| attempts.push((what, path.to_owned(), object));
    for name in [ABSOLUTE, CLIMBING, "..", "a/b", URL] {
        let tried = |place: &str| format!("{place} {name:?}");
        to(PODS, tried("a volume named"), with_volume(json!({"name": name, "emptyDir": {}})));
        to(PODS, tried("a container named"), in_container("name", json!(name)));
        let init = json!([{"name": name, "image": "attack.invalid/none:1"}]);
        to(PODS, tried("an init container named"), in_spec("initContainers", init));
        to(PODS, tried("a service account named"), in_spec("serviceAccountName", json!(name)));
        to(PODS, tried("a node named"), in_spec("nodeName", json!(name)));
        to(PODS, tried("a host name"), in_spec("hostname", json!(name)));
        to(PODS, tried("a subdomain"), in_spec("subdomain", json!(name)));
        to(PODS, tried("a runtime class named"), in_spec("runtimeClassName", json!(name)));
        to(PODS, tried("a priority class named"), in_spec("priorityClassName", json!(name)));
        to(
            CONFIG_MAPS,
            tried("a config map with the key"),
            json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "attack"}, "data": {name: "x"}}),
        );
        to(
            SECRETS,
            tried("a secret with the key"),
            json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "attack"}, "stringData": {name: "x"}}),
        );
        to(
            CONFIG_MAPS,
            tried("a config map named"),
            json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name}}),
        );
        for (group, plural, kind) in [
            ("apps", "replicasets", "ReplicaSet"),
            ("apps", "deployments", "Deployment"),
            ("apps", "daemonsets", "DaemonSet"),
            ("batch", "jobs", "Job"),
        ] {
            let (path, object) = workload(group, plural, kind, &in_spec("serviceAccountName", json!(name)));
            to(&path, format!("a {kind}'s service account named {name:?}"), object);
            let volume = with_volume(json!({"name": name, "emptyDir": {}}));
            let (path, object) = workload(group, plural, kind, &volume);
            to(&path, format!("a {kind}'s volume named {name:?}"), object);
        }
    }
    for path in [ABSOLUTE, CLIMBING, "a/../../b"] {
        let tried = |place: &str| format!("{place} {path:?}");
        for kind in ["configMap", "secret"] {
            to(PODS, tried(&format!("a {kind}'s file at")), with_item(kind, json!({"key": "k", "path": path})));
        }
        let field = json!({"path": path, "fieldRef": {"fieldPath": "metadata.name"}});
        to(
            PODS,
            tried("the pod's name in a file at"),
            with_volume(json!({"name": "v", "downwardAPI": {"items": [field]}})),
        );
        let projected = |source: Value| with_volume(json!({"name": "v", "projected": {"sources": [source]}}));
        to(
            PODS,
            tried("a projected file at"),
            projected(json!({"configMap": {"name": "x", "items": [{"key": "k", "path": path}]}})),
        );
        to(PODS, tried("a token at"), projected(json!({"serviceAccountToken": {"path": path}})));
        to(PODS, tried("a part of a volume at"), mount("subPath", path));
    }
    for (what, resources) in [
        ("a pod that asks for less than nothing", json!({"requests": {"memory": "-200Gi"}})),
        ("a pod whose limit is less than nothing", json!({"limits": {"cpu": "-1"}})),
        (
            "a pod that asks for more than its limit",
            json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}),
        ),
    ] {
        to(PODS, what.into(), in_container("resources", resources));
    }
    attempts
}

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    for (what, path, object) in attempts() {
        let answer = stage.red.member.post(&path, &object).await;
        findings.refused(&what, &answer, INVALID);
        if answer.is_success() {
            let name = answer.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            stage.red.member.delete(&format!("{path}/{name}?gracePeriodSeconds=0")).await;
        }
    }
    // Text in a URL is a name that is not there, or none.
    for name in ["..%2f..%2fsystem", "a%2fb", "%2e%2e", "x%3fwatch=true", "%00", "%ff"] {
        let answer = stage.red.member.get(&format!("{CONFIG_MAPS}/{name}")).await;
        findings.refused(&format!("GET of the config map {name}"), &answer, &[400, 404]);
    }
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    for (what, body) in [
        (
            "a token bound to a pod named ../x",
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "../x"}}}),
        ),
        ("a token that is asked for with a list", json!([])),
    ] {
        findings.refused(what, &stage.red.admin.post(tokens, &body).await, &[400, 403, 404, 422]);
    }
    Ok(())
}
