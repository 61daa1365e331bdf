//! The REST API in process, over the embedded store: verbs, conflicts, watches, tenants, bad input.

mod bench;
mod discovery;
mod facades;
mod fence;
mod found_again;
mod from_start;
mod gone;
mod kinds;
mod layers;
mod matrix;
mod options;
mod pod_security;
mod policies;
mod reads;
mod registry;
mod relay;
mod representations;
mod scenes;
mod webhooks;
mod writes;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hypernetes_testing::{
    requests::{Refused, admin, by, infrastructure, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use bench::{MAPS, map};

#[tokio::test]
async fn an_object_lives() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let made = bench.post(&acme, MAPS, map("a", "1")).await.ok();
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["managedFields"].is_array(), "{made}");
    bench.post(&acme, MAPS, map("a", "1")).await.refused(409, "AlreadyExists");
    let path = format!("{MAPS}/a");
    let mut changed = made.clone();
    changed["data"]["k"] = "2".into();
    let updated = bench.send(&acme, "PUT", &path, "application/json", &changed.to_string()).await.ok();
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let stale = bench.send(&acme, "PUT", &path, "application/json", &changed.to_string()).await;
    assert!(stale.refused(409, "Conflict").contains("the object has been modified"));
    let patch =
        bench.send(&acme, "PATCH", &path, "application/merge-patch+json", r#"{"data":{"k":null,"n":"3"}}"#).await.ok();
    assert_eq!(patch["data"], json!({"n": "3"}));
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"n": "4"}});
    let apply = |manager: &str| format!("{path}?fieldManager={manager}");
    let conflict = bench.send(&acme, "PATCH", &apply("me"), "application/apply-patch+yaml", &applied.to_string()).await;
    assert!(conflict.refused(409, "Conflict").contains("conflict"));
    let forced = format!("{}&force=true", apply("me"));
    let forced = bench.send(&acme, "PATCH", &forced, "application/apply-patch+yaml", &applied.to_string()).await.ok();
    assert_eq!(forced["data"]["n"], "4");
    let dry = bench.send(&acme, "DELETE", &format!("{path}?dryRun=All"), "application/json", "").await;
    dry.ok();
    bench.get(&acme, &path).await.ok();
    let deleted = bench.send(&acme, "DELETE", &path, "application/json", "").await.ok();
    assert_eq!(deleted["status"], "Success");
    assert!(bench.get(&acme, &path).await.refused(404, "NotFound").contains("configmaps \"a\" not found"));
}

#[tokio::test]
async fn lists_come_in_pages_and_by_selector() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    for i in 0..5 {
        let mut object = map(&format!("m{i}"), "v");
        object["metadata"]["labels"]["odd"] = (i % 2 == 1).to_string().into();
        bench.post(&acme, MAPS, object).await.ok();
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let odd = bench.get(&acme, &format!("{MAPS}?labelSelector=odd%3Dtrue")).await.ok();
    assert_eq!(names(&odd), ["m1", "m3"]);
    let first = bench.get(&acme, &format!("{MAPS}?limit=3")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = bench.get(&acme, &format!("{MAPS}?limit=3&continue={token}")).await.ok();
    // What is after a page is what was there when the first was read.
    bench.post(&acme, MAPS, map("m9", "v")).await.ok();
    let short = bench.get(&acme, &format!("{MAPS}?limit=1&continue={token}")).await.ok();
    let mixed = bench.get(&acme, &format!("{MAPS}?limit=1&continue={token}&labelSelector=app%3Dt")).await.ok();
    let remaining = [&first, &short, &second, &mixed].map(|page| page["metadata"]["remainingItemCount"].as_u64());
    assert_eq!(remaining, [Some(2), Some(1), None, None]);
    bench.send(&acme, "DELETE", &format!("{MAPS}/m9"), "application/json", "").await.ok();
    assert_eq!([names(&first), names(&second)].concat(), ["m0", "m1", "m2", "m3", "m4"]);
    // A page is as long as it may be, of what is selected.
    let mut selected = Vec::new();
    let mut query = "limit=2&labelSelector=odd%3Dfalse".to_owned();
    loop {
        let page = bench.get(&acme, &format!("{MAPS}?{query}")).await.ok();
        assert_eq!(page["metadata"]["remainingItemCount"], Value::Null);
        selected.push(names(&page));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        query = format!("limit=2&labelSelector=odd%3Dfalse&continue={token}");
    }
    assert_eq!(selected, [vec!["m0", "m2"], vec!["m4"]]);
    // Those that every tenant has are counted as well.
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let all = bench.get(&acme, roles).await.ok()["items"].as_array().unwrap().len();
    let page = bench.get(&acme, &format!("{roles}?limit=2")).await.ok();
    assert_eq!(page["metadata"]["remainingItemCount"], all - 2);
    bench.get(&acme, &format!("{MAPS}?continue=garbage")).await.refused(400, "BadRequest");
    bench.get(&acme, &format!("{MAPS}?fieldSelector=spec.none%3Dx")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn a_watch_says_what_comes_and_goes() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let request =
        Request::builder().uri(format!("{MAPS}?watch=true&labelSelector=app%3Dt")).body(Body::empty()).unwrap();
    let mut body = bench.response(by(&acme, request)).await.into_body();
    bench.post(&acme, MAPS, map("seen", "1")).await.ok();
    bench.post(&admin(GLOBEX), MAPS, map("not-ours", "1")).await.ok();
    let path = format!("{MAPS}/seen");
    // It leaves what is selected: a deletion to this watcher.
    bench.send(&acme, "PATCH", &path, "application/merge-patch+json", r#"{"metadata":{"labels":null}}"#).await.ok();
    let mut events = Vec::new();
    while events.len() < 2 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        for line in frame.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            events.push(serde_json::from_slice::<Value>(line).unwrap());
        }
    }
    let seen: Vec<_> = events.iter().map(|e| (e["type"].as_str(), e["object"]["metadata"]["name"].as_str())).collect();
    assert_eq!(seen, [(Some("ADDED"), Some("seen")), (Some("DELETED"), Some("seen"))]);
}

#[tokio::test]
async fn a_watch_goes_on_over_a_restart_and_is_told_in_its_stream_to_list_again_where_the_past_is_forgotten() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let first = bench.post(&acme, MAPS, map("a", "1")).await.ok();
    bench.post(&acme, MAPS, map("b", "1")).await.ok();
    let bench = bench.restarted().await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=true&resourceVersion={version}");
    let mut request = Request::builder().uri(&path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(acme.clone());
    let mut body = bench.response(request).await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let event: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["metadata"]["name"].as_str()), (Some("ADDED"), Some("b")));

    bench.store.compact(bench.store.revision().await.unwrap()).await.unwrap();
    let answer = bench.get(&acme, &path).await;
    // Not as the answer's own code: client-go and kube-rs list again only for the event.
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!((answer.body["type"].as_str(), answer.body["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
}

#[tokio::test]
async fn tenants_are_apart() {
    let bench = InProcess::with_tenants().await;
    let (acme, globex) = (admin(ACME), admin(GLOBEX));
    bench.post(&acme, MAPS, map("same", "acme")).await.ok();
    bench.post(&globex, MAPS, map("same", "globex")).await.ok();
    assert_eq!(bench.get(&acme, &format!("{MAPS}/same")).await.ok()["data"]["k"], "acme");
    for cluster in [GLOBEX, "system", "*", "nobody"] {
        let path = format!("/clusters/{cluster}{MAPS}");
        bench.get(&acme, &path).await.refused(403, "Forbidden");
    }
    bench.get(&acme, &format!("/clusters/{ACME}{MAPS}/same")).await.ok();
    // Identity objects are the operator's; nodes are seen and not touched.
    bench.get(&acme, "/apis/identity.hypernetes.io/v1alpha1/projects").await.refused(404, "NotFound");
    bench.get(&admin("system"), "/apis/identity.hypernetes.io/v1alpha1/projects").await.ok();
    bench.get(&acme, "/api/v1/nodes").await.ok();
    bench.post(&acme, "/api/v1/nodes", json!({"metadata": {"name": "mine"}})).await.refused(403, "Forbidden");
    // Infrastructure sees all of them at once, and whose each is.
    let all = bench.get(&infrastructure(), "/clusters/*/api/v1/configmaps").await.ok();
    let owners: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["annotations"]["hypernetes.io/tenant"].as_str())
        .collect();
    assert_eq!(owners, [Some(ACME), Some(GLOBEX)]);
    // The groups that mean infrastructure mean nothing in a tenant's credential.
    let pretender = user("x", &["hypernetes:infrastructure"], ACME);
    bench.get(&pretender, "/clusters/*/api/v1/configmaps").await.refused(403, "Forbidden");
}

#[tokio::test]
async fn roles_decide() {
    let bench = InProcess::with_tenants().await;
    let reader = user("r", &["keystone:reader"], ACME);
    bench.get(&reader, MAPS).await.ok();
    bench.get(&reader, "/api/v1/namespaces/default/secrets").await.refused(403, "Forbidden");
    bench.post(&reader, MAPS, map("a", "1")).await.refused(403, "Forbidden");
    let robot = user("robot", &[], ACME);
    let message = bench.get(&robot, MAPS).await.refused(403, "Forbidden");
    assert!(message.contains("User \"robot\" cannot list resource \"configmaps\""), "{message}");
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]}]});
    bench.post(&admin(ACME), &format!("{rbac}/roles"), role).await.ok();
    let binding = json!({"metadata": {"name": "r"}, "subjects": [{"kind": "User", "name": "robot", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}});
    bench.post(&admin(ACME), &format!("{rbac}/rolebindings"), binding).await.ok();
    bench.get(&robot, MAPS).await.ok();
    bench.get(&robot, &format!("{MAPS}/a")).await.refused(403, "Forbidden");
    // The same name in another tenant is somebody else.
    bench.get(&user("robot", &[], GLOBEX), MAPS).await.refused(403, "Forbidden");
}

#[tokio::test]
async fn a_service_accounts_token_ends_with_it() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "robot"}});
    bench.post(&acme, accounts, account.clone()).await.ok();
    let request = json!({"spec": {}});
    let made = bench.post(&acme, &format!("{accounts}/robot/token"), request.clone()).await.ok();
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    let code_with = |token: String| {
        let request =
            Request::builder().uri("/api").header("authorization", format!("Bearer {token}")).body(Body::empty());
        async { bench.response(request.unwrap()).await.status() }
    };
    assert_eq!(code_with(token.clone()).await, StatusCode::OK);
    bench.send(&acme, "DELETE", &format!("{accounts}/robot"), "application/json", "").await.ok();
    assert_eq!(code_with(token.clone()).await, StatusCode::UNAUTHORIZED);
    // One of the same name is another.
    bench.post(&acme, accounts, account).await.ok();
    assert_eq!(code_with(token).await, StatusCode::UNAUTHORIZED);
    let again = bench.post(&acme, &format!("{accounts}/robot/token"), request).await.ok();
    assert_eq!(code_with(again["status"]["token"].as_str().unwrap().to_owned()).await, StatusCode::OK);
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let bench = InProcess::with_tenants().await;
    bench.account(ACME).await;
    let acme = admin(ACME);
    let raw = |body: &str| {
        let (bench, acme, body) = (&bench, &acme, body.to_owned());
        async move { bench.send(acme, "POST", MAPS, "application/json", &body).await }
    };
    for body in
        ["{not json", "", "[]", &"[".repeat(100_000), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#]
    {
        raw(body).await.refused(400, "BadRequest");
    }
    raw(r#"{"metadata":{"name":"a"},"data":{"k":5}}"#).await.refused(400, "BadRequest");
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let unknown = bench.post(&acme, &strict, json!({"metadata": {"name": "a"}, "nonsense": 1})).await;
    assert!(unknown.refused(400, "BadRequest").contains("unknown field"));
    raw(&" ".repeat(4 << 20)).await.refused(413, "RequestEntityTooLarge");
    bench.get(&acme, "/api/v1/namespaces/default/nonsense").await.refused(404, "NotFound");
    bench.send(&acme, "PUT", MAPS, "application/json", "{}").await.refused(405, "MethodNotAllowed");
    bench.send(&acme, "PATCH", &format!("{MAPS}/x"), "text/plain", "{}").await.refused(415, "UnsupportedMediaType");
    bench.post(&acme, "/api/v1/namespaces/none/configmaps", map("a", "1")).await.refused(404, "NotFound");
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "b"}]}});
    let refused = bench.post(&acme, "/api/v1/namespaces/default/pods", pod).await.refused(403, "Forbidden");
    assert!(refused.contains("hostNetwork") && refused.contains("virtual machine"), "{refused}");
    let empty = bench.get(&acme, MAPS).await.ok();
    assert_eq!(empty["items"], json!([]), "nothing of that was stored");
}
