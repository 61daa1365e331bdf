//! Roles and bindings that are somebody else's, which a server has to get past with each request.

use anyhow::Result;
use serde_json::json;

use crate::{stage::Stage, wire::Prepared};

const PATH: &str = "/apis/rbac.authorization.k8s.io/v1";

fn name(stage: &Stage, number: usize) -> String {
    format!("{}-{number:06}", stage.run)
}

/// So many cluster roles, and as many bindings, each for a user of its own who never asks.
pub async fn make(stage: &Stage, roles: usize) -> Result<()> {
    for (plural, kind) in [("clusterroles", "ClusterRole"), ("clusterrolebindings", "ClusterRoleBinding")] {
        let (uri, stage_) = (stage.target.uri(&format!("{PATH}/{plural}"))?, stage.clone());
        let all = (0..roles).map(move |number| {
            let name = name(&stage_, number);
            let mut object =
                json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
            if kind == "ClusterRole" {
                object["rules"] =
                    json!([{"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["get", "list"]}]);
            } else {
                object["roleRef"] =
                    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
                object["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]);
            }
            Ok(Prepared::post(uri.clone(), object.to_string()))
        });
        stage.send_all(all).await?;
    }
    Ok(())
}

pub async fn remove(stage: &Stage, roles: usize) -> Result<()> {
    for plural in ["clusterrolebindings", "clusterroles"] {
        let stage_ = stage.clone();
        let all = (0..roles).map(move |number| {
            Ok(Prepared::delete(stage_.target.uri(&format!("{PATH}/{plural}/{}", name(&stage_, number)))?))
        });
        stage.send_all(all).await?;
    }
    Ok(())
}
