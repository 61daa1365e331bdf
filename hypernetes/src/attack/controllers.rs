//! C2: objects that a controller cannot act on, or for a long time, beside a tenant who waits for it.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{Stage, Team},
};

const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const NAMESPACES: &str = "/api/v1/namespaces";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const URL: &str = "x?watch=true&timeoutSeconds=99999999999";
/// What a controller needs moments for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than the workers of any controller.
const MANY: usize = 12;
/// More limit ranges, and quotas, than a namespace has.
const RULES: usize = 50;

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let red = &stage.red.admin;
    let template = |spec: Value| json!({"metadata": {"labels": {"app": "attack"}}, "spec": spec});
    let container = json!([{"name": "c", "image": "attack.invalid/none:1"}]);
    let nowhere = json!({"hypernetes.io/attack": "nowhere"});
    let set = |name: &str, labels: Value, spec: Value| {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template(spec)}})
    };
    let app = json!({"app": "attack"});

    // A template whose pods cannot be made, refused or not.
    for number in 0..MANY {
        let spec = json!({"serviceAccountName": "a/b", "containers": container, "nodeSelector": nowhere});
        red.post(SETS, &set(&format!("slash-{number}"), app.clone(), spec)).await;
        let spec = json!({"serviceAccountName": "absent", "containers": container, "nodeSelector": nowhere});
        red.post(SETS, &set(&format!("absent-{number}"), app.clone(), spec)).await;
    }
    others_go_on(stage, findings, "replica sets whose service account cannot be").await;

    // Names that end up in a controller's request.
    for number in 0..MANY {
        let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": URL, "uid": format!("{number}")}]);
        let owned = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("owned-{number}"), "ownerReferences": owner}});
        red.post(CONFIG_MAPS, &owned).await;
    }
    others_go_on(stage, findings, "owners with a query in their name").await;
    for number in 0..MANY {
        let size = json!({"requests": {"storage": "1Gi"}});
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": format!("c{number}")},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": size, "volumeName": URL}});
        red.post(CLAIMS, &claim).await;
        let reference = json!({"namespace": "default", "name": URL, "uid": format!("{number}")});
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("v{number}")},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "claimRef": reference,
                "persistentVolumeReclaimPolicy": "Delete",
                "csi": {"driver": "volume.csi.hypernetes.io", "volumeHandle": URL}}});
        red.post(VOLUMES, &volume).await;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}")},
            "spec": {"nodeName": URL, "containers": container}});
        red.post(PODS, &pod).await;
    }
    others_go_on(stage, findings, "claims, volumes and pods with a query in the name of what they refer to").await;

    // What has to be looked at with each object, and added up whenever one goes.
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ruled"}});
    red.post(NAMESPACES, &namespace).await;
    let names = (0..99).map(|number| format!("count/x{number}.attack{number}.invalid"));
    let hard: serde_json::Map<String, Value> =
        names.chain(["count/configmaps".to_owned()]).map(|name| (name, json!("1000"))).collect();
    let mut let_in = 0;
    for number in 0..RULES {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": format!("q{number}")}, "spec": {"hard": hard}});
        let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": format!("r{number}")},
            "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
        for (plural, rule) in [("resourcequotas", quota), ("limitranges", range)] {
            let answer = red.post(&format!("{NAMESPACES}/ruled/{plural}"), &rule).await;
            let_in += usize::from(answer.is_success());
        }
    }
    let said = format!("{let_in} of {} were let in", 2 * RULES);
    findings.judge("quotas and limit ranges without end in a namespace", let_in <= 64, said);
    for number in 0..MANY {
        let maps = format!("{NAMESPACES}/ruled/configmaps");
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{number}")}});
        red.post(&maps, &map).await;
        red.delete(&format!("{maps}/m{number}")).await;
    }
    others_go_on(stage, findings, "quotas of what there is not, added up again and again").await;
    red.delete(&format!("{NAMESPACES}/ruled")).await;

    // What a set has made it must find again.
    let spec = json!({"containers": container, "nodeSelector": nowhere});
    let answer = red.post(SETS, &set("others", json!({"app": "other"}), spec)).await;
    if answer.is_success() {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let pods = red.get(PODS).await;
        let made = pods.body["items"].as_array().into_iter().flatten();
        let made = made.filter(|pod| pod["metadata"]["ownerReferences"][0]["name"] == "others").count();
        findings.judge("a replica set that does not select its own pods", made <= 2, format!("it made {made} of 2"));
    } else {
        findings.held("a replica set that does not select its own pods", &answer);
    }
    Ok(())
}

/// The other tenant's deployment gets its pods, and what it had goes when it goes.
async fn others_go_on(stage: &Stage, findings: &mut Findings, what: &str) {
    let began = Instant::now();
    let outcome = tokio::time::timeout(PATIENCE, deployment_lives(&stage.blue)).await;
    let what = format!("{what}, while another tenant rolls out");
    match outcome {
        Ok(Ok(())) => findings.held(&what, format!("it took {:.1} s", began.elapsed().as_secs_f32())),
        Ok(Err(error)) => findings.succeeded_at(&what, format!("{error:#}")),
        Err(_) => findings.succeeded_at(&what, format!("not within {} s", PATIENCE.as_secs())),
    }
}

async fn deployment_lives(team: &Team) -> Result<()> {
    let member = &team.member;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "victim"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "victim"}}, "template": {
            "metadata": {"labels": {"app": "victim"}},
            "spec": {"nodeSelector": {"hypernetes.io/attack": "nowhere"},
                "containers": [{"name": "c", "image": "attack.invalid/none:1"}]}}}});
    member.post(DEPLOYMENTS, &deployment).await.needed("making a deployment")?;
    let has = async |path: &str, count: usize| {
        while member.get(path).await.body["items"].as_array().map(Vec::len) != Some(count) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    has(&format!("{PODS}?labelSelector=app=victim"), 2).await;
    member.delete(&format!("{DEPLOYMENTS}/victim?propagationPolicy=Background")).await.needed("deleting it")?;
    has(&format!("{SETS}?labelSelector=app=victim"), 0).await;
    has(&format!("{PODS}?labelSelector=app=victim"), 0).await;
    Ok(())
}
