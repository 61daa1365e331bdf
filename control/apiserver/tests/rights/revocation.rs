//! What is taken away is gone with the next request, and what is given is there, whoever asks and writes beside.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::body::Body;
use http::Request;
use hypernetes_testing::{
    requests::{Refused, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use crate::bench::{RBAC, admin, furnished, operator};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

fn role(verbs: &[&str]) -> Value {
    json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]})
}

fn binding(kind: &str) -> Value {
    json!({"metadata": {"name": "b"}, "roleRef": {"kind": kind, "name": "r"},
        "subjects": [{"kind": "User", "name": "robot"}]})
}

async fn with(bench: &InProcess, token: &str, path: &str) -> u16 {
    let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
    bench.answer(request.body(Body::empty()).unwrap()).await.status.as_u16()
}

async fn token(bench: &InProcess, spec: Value) -> String {
    let made = bench.post(&admin(ACME), TOKEN, json!({"spec": spec})).await.ok();
    made["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_is_there_from_its_grant_to_its_end() {
    let bench = furnished().await;
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let robot = user("robot", &[], ACME);
    let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Others ask, and another tenant that has the same names writes.
    let asking = async {
        while !ended.load(Ordering::Relaxed) {
            bench.get(&robot, MAPS).await;
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    };
    let writing = async {
        bench.post(&admin(GLOBEX), &roles, role(&["list"])).await.ok();
        while !ended.load(Ordering::Relaxed) {
            bench.post(&admin(GLOBEX), &bindings, binding("Role")).await.ok();
            bench.delete(&admin(GLOBEX), &format!("{bindings}/b")).await.ok();
        }
    };
    let checking = async {
        for round in 0..20 {
            bench.get(&robot, MAPS).await.forbidden();
            bench.post(&admin(ACME), &roles, role(&["list"])).await.ok();
            bench.get(&robot, MAPS).await.forbidden();
            bench.post(&admin(ACME), &bindings, binding("Role")).await.ok();
            bench.get(&robot, MAPS).await.ok();
            match round % 3 {
                0 => bench.delete(&admin(ACME), &format!("{bindings}/b")).await.ok(),
                1 => bench.delete(&admin(ACME), &format!("{roles}/r")).await.ok(),
                _ => bench.merge(&admin(ACME), &format!("{bindings}/b"), json!({"subjects": []})).await.ok(),
            };
            bench.get(&robot, MAPS).await.forbidden();
            for place in [format!("{bindings}/b"), format!("{roles}/r")] {
                bench.delete(&admin(ACME), &place).await;
            }
        }
        ended.store(true, Ordering::Relaxed);
    };
    futures::join!(asking, writing, checking);
    assert!(asked.into_inner() > 0);
}

#[tokio::test]
async fn equal_names_of_two_tenants_give_nothing_to_each_other() {
    let bench = furnished().await;
    bench.post(&admin(ACME), &format!("{RBAC}/clusterroles"), role(&["list"])).await.ok();
    bench.post(&admin(ACME), &format!("{RBAC}/clusterrolebindings"), binding("ClusterRole")).await.ok();
    bench.post(&admin(GLOBEX), &format!("{RBAC}/clusterroles"), role(&["get"])).await.ok();
    bench.post(&admin(GLOBEX), &format!("{RBAC}/clusterrolebindings"), binding("ClusterRole")).await.ok();
    bench.get(&user("robot", &[], ACME), MAPS).await.ok();
    bench.get(&user("robot", &[], GLOBEX), MAPS).await.forbidden();
    bench.get(&user("robot", &[], GLOBEX), &format!("{MAPS}/none")).await.refused(404, "NotFound");
    bench.get(&user("robot", &[], ACME), &format!("{MAPS}/none")).await.forbidden();
    bench.get(&user("robot", &[], "system"), MAPS).await.forbidden();
    for path in [format!("/clusters/{GLOBEX}{MAPS}"), format!("/clusters/globex{MAPS}"), format!("/clusters/*{MAPS}")] {
        bench.get(&user("robot", &[], ACME), &path).await.forbidden();
    }
}

#[tokio::test]
async fn a_token_that_is_known_ends_with_what_it_names() {
    let bench = furnished().await;
    let acme = admin(ACME);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    bench.post(&acme, "/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await.ok();
    bench.post(&acme, pods, pod.clone()).await.ok();
    let bound = |kind: &str, name: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
    let (of_pod, of_secret, own) = (
        token(&bench, bound("Pod", "p")).await,
        token(&bench, bound("Secret", "s")).await,
        token(&bench, json!({})).await,
    );
    let codes = async || {
        let mut codes = Vec::new();
        for token in [&of_pod, &of_secret, &own] {
            codes.push(with(&bench, token, MAPS).await);
        }
        codes
    };
    for _ in 0..2 {
        assert_eq!(codes().await, [403, 403, 403], "they are known, and have no role");
    }
    bench.merge(&acme, &format!("{pods}/p"), json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(codes().await, [403, 403, 403]);
    bench.delete(&acme, &format!("{pods}/p")).await.ok();
    assert_eq!(codes().await, [401, 403, 403]);
    // One of the same name is another.
    bench.post(&acme, pods, pod).await.ok();
    assert_eq!(codes().await, [401, 403, 403]);
    bench.delete(&acme, "/api/v1/namespaces/default/secrets/s").await.ok();
    assert_eq!(codes().await, [401, 401, 403]);
    bench.delete(&acme, "/api/v1/namespaces/default/serviceaccounts/default").await.ok();
    assert_eq!(codes().await, [401, 401, 401]);
    bench.account(ACME).await;
    assert_eq!(codes().await, [401, 401, 401]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_late_to_see_that_a_token_has_ended() {
    let bench = furnished().await;
    let place = "/api/v1/namespaces/default/serviceaccounts/default";
    for _ in 0..8 {
        let token = token(&bench, json!({})).await;
        let ended = AtomicBool::new(false);
        // Some are being checked for the first time when the account goes.
        let asking = async {
            while !ended.load(Ordering::Relaxed) {
                with(&bench, &token, MAPS).await;
                tokio::task::yield_now().await;
            }
        };
        let ending = async {
            bench.delete(&admin(ACME), place).await.ok();
            let codes = futures::future::join_all((0..8).map(|_| with(&bench, &token, MAPS))).await;
            ended.store(true, Ordering::Relaxed);
            assert_eq!(codes, [401; 8]);
        };
        futures::join!(asking, ending);
        bench.account(ACME).await;
    }
}

#[tokio::test]
async fn a_cluster_that_is_renamed_or_closed_is_so_at_once() {
    let bench = furnished().await;
    let project = format!("/apis/identity.hypernetes.io/v1alpha1/projects/{ACME}");
    let path = |name: &str| format!("/clusters/{name}{MAPS}");
    bench.get(&operator(), &path("acme")).await.ok();
    bench.merge(&operator(), &project, json!({"spec": {"displayName": "emca"}})).await.ok();
    bench.get(&operator(), &path("acme")).await.refused(404, "NotFound");
    bench.get(&operator(), &path("emca")).await.ok();
    bench.get(&admin(ACME), &path("emca")).await.ok();
    bench.get(&admin(ACME), &path("acme")).await.forbidden();
    let token = token(&bench, json!({})).await;
    assert_eq!(with(&bench, &token, MAPS).await, 403);
    bench.merge(&operator(), &project, json!({"spec": {"enabled": false}})).await.ok();
    assert_eq!(with(&bench, &token, MAPS).await, 401);
    bench.merge(&operator(), &project, json!({"spec": {"enabled": true}})).await.ok();
    assert_eq!(with(&bench, &token, MAPS).await, 403);
}
