//! ClusterRoles that select others.

use hypernetes_testing::{server::make, wait::until};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::common::{bench, merge};

fn lists(role: &ClusterRole, resource: &str) -> bool {
    let mut rules = role.rules.iter().flatten();
    rules.any(|rule| rule.resources.iter().flatten().any(|one| one == resource))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_shows_the_rules_of_those_that_it_selects() {
    let bench = bench().await;
    let (roles, others): (Api<ClusterRole>, Api<ClusterRole>) =
        (Api::all(bench.acme.clone()), Api::all(bench.globex.clone()));
    let theirs = others.get("view").await.unwrap();
    let label = "rbac.authorization.k8s.io/aggregate-to-view";
    let widgets = json!([{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]);
    let selectors = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    make(&roles, json!({"metadata": {"name": "own"}, "rules": widgets, "aggregationRule": selectors})).await;
    // What it says itself goes, for the rules of the default that it selects.
    until(&roles, "own", "of others", |role| !lists(role, "widgets") && lists(role, "configmaps")).await;
    make(&roles, json!({"metadata": {"name": "widgets", "labels": {label: "true"}}, "rules": widgets})).await;
    for name in ["own", "view", "edit", "admin"] {
        until(&roles, name, "with widgets", |role| lists(role, "widgets")).await;
    }
    merge(&roles, "widgets", json!({"rules": []})).await;
    for name in ["own", "view", "edit", "admin"] {
        until(&roles, name, "without widgets", |role| !lists(role, "widgets") && lists(role, "configmaps")).await;
    }
    roles.delete("widgets", &DeleteParams::default()).await.unwrap();
    assert_eq!(others.get("view").await.unwrap(), theirs);
}
