//! C5: what the node's credential reaches, were a node taken over.

use anyhow::Result;
use hypernetes_api::types::identity::IDENTITY_NAMESPACE;
use serde_json::json;

use super::{
    findings::Findings,
    stage::{FORBIDDEN, Stage},
};

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let Some(node) = &stage.node else {
        findings.could_not("a node's credential", "there is no node here: `hypernetes up` makes one");
        return Ok(());
    };
    let blue = format!("/clusters/{}", stage.blue.id);
    // It has no pod on the node.
    let red = format!("/clusters/{}", stage.red.id);
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "unmounted"}, "stringData": {"key": "x"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    stage.blue.admin.post(secrets, &secret).await.needed("making a secret")?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "elsewhere"}, "spec": {
        "nodeSelector": {"hypernetes.io/attack": "nowhere"}, "containers": [{"name": "c", "image": "attack.invalid/none:1"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    stage.blue.admin.post(pods, &pod).await.needed("making a pod")?;

    for path in [
        "/clusters/*/api/v1/secrets".to_owned(),
        "/clusters/*/api/v1/configmaps".to_owned(),
        format!("{blue}/api/v1/secrets"),
        format!("{blue}{secrets}"),
        format!("{blue}{secrets}/unmounted"),
        format!("/clusters/system/api/v1/namespaces/{IDENTITY_NAMESPACE}/secrets"),
        "/clusters/system/api/v1/secrets".to_owned(),
        "/clusters/*/api/v1/secrets?watch=true&timeoutSeconds=1".to_owned(),
        "/clusters/system/apis/identity.hypernetes.io/v1alpha1/users".to_owned(),
        "/clusters/system/apis/identity.hypernetes.io/v1alpha1/projects".to_owned(),
        "/clusters/system/apis/identity.hypernetes.io/v1alpha1/roleassignments".to_owned(),
        "/clusters/*/apis/network.hypernetes.io/v1alpha1/networks".to_owned(),
        "/clusters/*/apis/network.hypernetes.io/v1alpha1/ports".to_owned(),
        "/clusters/*/apis/network.hypernetes.io/v1alpha1/ports?fieldSelector=status.host%3Danother".to_owned(),
        "/clusters/*/apis/network.hypernetes.io/v1alpha1/subnets?watch=true&timeoutSeconds=1".to_owned(),
        format!("{blue}/apis/network.hypernetes.io/v1alpha1/ports"),
        format!("{red}/apis/network.hypernetes.io/v1alpha1/networks/default"),
        format!("{red}/apis/network.hypernetes.io/v1alpha1/subnets?fieldSelector=spec.network%3Ddefault"),
    ] {
        findings.refused(&format!("a node reads {path}"), &node.get(&path).await, FORBIDDEN);
    }
    // Each of identity's secrets by its name, as whoever knows it would.
    let identity = format!("/clusters/system/api/v1/namespaces/{IDENTITY_NAMESPACE}/secrets");
    let own = stage.operator.get(&identity).await;
    for secret in own.body["items"].as_array().into_iter().flatten() {
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        let answer = node.get(&format!("{identity}/{name}")).await;
        findings.refused("a node reads a secret of the identity service by its name", &answer, FORBIDDEN);
    }

    let tokens = format!("{blue}/api/v1/namespaces/default/serviceaccounts/default/token");
    let unbound = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    findings.refused("a node mints a token for nobody's pod", &node.post(&tokens, &unbound).await, FORBIDDEN);
    let uid = stage.blue.admin.get(&format!("{pods}/elsewhere")).await.body["metadata"]["uid"].clone();
    let bound = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "elsewhere", "uid": uid}}});
    findings.refused(
        "a node mints a token for a pod that it does not run",
        &node.post(&tokens, &bound).await,
        FORBIDDEN,
    );

    let other = format!("attack-{}", stage.blue.name);
    let object =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": other}, "spec": {"unschedulable": true}});
    let nodes = "/clusters/system/api/v1/nodes";
    stage.operator.post(nodes, &object).await.needed("making another node")?;
    let label = json!({"metadata": {"labels": {"taken": "over"}}});
    let address = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    let path = format!("{nodes}/{other}");
    findings.refused("a node relabels another", &node.patch(&path, "merge", &label).await, FORBIDDEN);
    let answer = node.patch(&format!("{path}/status"), "merge", &address).await;
    findings.refused("a node says where another is reached", &answer, FORBIDDEN);
    findings.refused("a node deletes another", &node.delete(&path).await, FORBIDDEN);
    stage.operator.delete(&path).await;
    let answer = node.post(nodes, &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "invented"}})).await;
    findings.refused("a node invents another", &answer, FORBIDDEN);
    if answer.is_success() {
        stage.operator.delete(&format!("{nodes}/invented")).await;
    }
    let lease =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "another"}, "spec": {}});
    let leases = "/clusters/system/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let answer = node.post(leases, &lease).await;
    findings.refused("a node renews another's lease", &answer, FORBIDDEN);
    if answer.is_success() {
        stage.operator.delete(&format!("{leases}/another")).await;
    }

    let path = format!("{blue}{pods}/elsewhere");
    findings.refused("a node reads a pod that it does not run", &node.get(&path).await, &[403, 404]);
    findings.refused("a node deletes a pod that it does not run", &node.delete(&path).await, FORBIDDEN);
    let answer = node.patch(&format!("{path}/status"), "merge", &json!({"status": {"phase": "Failed"}})).await;
    findings.refused("a node says how a pod is that it does not run", &answer, FORBIDDEN);
    let mine = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "planted"},
        "spec": {"containers": [{"name": "c", "image": "attack.invalid/none:1"}]}});
    findings.refused("a node plants a pod", &node.post(&format!("{blue}{pods}"), &mine).await, FORBIDDEN);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "elsewhere"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "any"}});
    findings.refused(
        "a node takes a pod for itself",
        &node.post(&format!("{path}/binding"), &binding).await,
        FORBIDDEN,
    );
    Ok(())
}
