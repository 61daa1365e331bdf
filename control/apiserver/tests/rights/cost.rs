//! What a request costs with few roles and bindings beside it, and with many. No test: a figure, for
//! `cargo test --release -p hypernetes-apiserver --test rights -- --ignored --nocapture cost`.

use std::time::{Duration, Instant};

use axum::body::Body;
use futures::{StreamExt, stream};
use http::Request;
use hypernetes_testing::{
    requests::{infrastructure, user},
    server::{ACME, InProcess},
};
use serde_json::{Value, json};

use crate::bench::{RBAC, admin, furnished};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REQUESTS: u32 = 2000;

/// Roles and bindings of others, half of them in the namespace, until there are so many of each.
async fn fill(bench: &InProcess, from: usize, to: usize) {
    let one = async |number: usize| {
        let base = match number % 2 {
            0 => format!("/clusters/{ACME}{RBAC}/"),
            _ => format!("/clusters/{ACME}{RBAC}/namespaces/default/"),
        };
        let (kind, role, binding) = match number % 2 {
            0 => ("ClusterRole", "clusterroles", "clusterrolebindings"),
            _ => ("Role", "roles", "rolebindings"),
        };
        let name = format!("r{number}");
        let rules = json!([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]}]);
        let role_of = json!({"metadata": {"name": name}, "rules": rules});
        bench.post(&infrastructure(), &format!("{base}{role}"), role_of).await.ok();
        let binding_of = json!({"metadata": {"name": name}, "roleRef": {"kind": kind, "name": name},
            "subjects": [{"kind": "User", "name": name}, {"kind": "Group", "name": name}]});
        bench.post(&infrastructure(), &format!("{base}{binding}"), binding_of).await.ok();
    };
    stream::iter(from..to).for_each_concurrent(64, one).await;
}

/// Of one request, of many one after the other; the first is not counted.
async fn time(mut ask: impl AsyncFnMut()) -> Duration {
    ask().await;
    let start = Instant::now();
    let mut count = 0;
    while count < REQUESTS && start.elapsed() < Duration::from_secs(5) {
        ask().await;
        count += 1;
    }
    start.elapsed() / count
}

#[tokio::test]
#[ignore = "a figure"]
async fn cost_of_a_request() {
    let bench = furnished().await;
    let rules: Value = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
    let base = format!("{RBAC}/namespaces/default");
    bench.post(&admin(ACME), &format!("{base}/roles"), json!({"metadata": {"name": "m"}, "rules": rules})).await.ok();
    let subjects = json!([{"kind": "User", "name": "robot"},
        {"kind": "ServiceAccount", "name": "default", "namespace": "default"}]);
    let binding = json!({"metadata": {"name": "m"}, "roleRef": {"kind": "Role", "name": "m"}, "subjects": subjects});
    bench.post(&admin(ACME), &format!("{base}/rolebindings"), binding).await.ok();
    bench.post(&admin(ACME), MAPS, json!({"metadata": {"name": "m"}})).await.ok();
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = bench.post(&admin(ACME), token, json!({"spec": {}})).await.ok();
    let bearer = format!("Bearer {}", made["status"]["token"].as_str().unwrap());
    let path = format!("{MAPS}/m");
    let (admin, robot) = (admin(ACME), user("robot", &[], ACME));
    let mut have = 1;
    for many in [10, 1000, 10_000] {
        fill(&bench, have, many).await;
        have = many;
        let by_admin = time(async || drop(bench.get(&admin, &path).await.ok())).await;
        let by_robot = time(async || drop(bench.get(&robot, &path).await.ok())).await;
        let by_token = time(async || {
            let request = Request::builder().uri(&path).header("authorization", &bearer);
            bench.answer(request.body(Body::empty()).unwrap()).await.ok();
        })
        .await;
        println!("{many:>6} roles and bindings: admin {by_admin:?}, user of a role {by_robot:?}, token {by_token:?}");
    }
}
