//! What is wrong with an object, as a running upstream says it: each case of `data/validation-1.36.2.jsonl` is an object that
//! was sent to kube-apiserver 1.36.2, with its answer. Ours has to be the same: code, reason, message and causes.

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use hypernetes_api::{AllTenants, auth::UserInfo};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_store::{EmbeddedStore, embedded::Options};
use serde_json::{Value, json};
use tower::ServiceExt;

const CASES: &str = include_str!("data/validation-1.36.2.jsonl");

struct Server {
    api: ApiServer,
    _directory: tempfile::TempDir,
}

impl Server {
    /// A server with a namespace and its service account.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap();
        let config = Config { store: Arc::new(store), all_tenants: AllTenants::grant() };
        let server = Self { api: ApiServer::new(config), _directory: directory };
        for (path, object) in [
            ("/api/v1/namespaces", json!({"metadata": {"name": "default"}})),
            ("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})),
        ] {
            assert_eq!(server.send("POST", path, &object).await.0, 201, "{path}");
        }
        server
    }

    async fn send(&self, method: &str, path: &str, object: &Value) -> (u16, Value) {
        let user = UserInfo {
            name: "admin".into(),
            uid: String::new(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            extra: Default::default(),
            tenant: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        };
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let mut request = request.body(Body::from(object.to_string())).unwrap();
        request.extensions_mut().insert(user);
        let response = self.api.router().oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

/// What is compared: of an object that was taken, the code alone.
fn answer(code: u16, reason: &Value, message: &Value, causes: &Value) -> Value {
    match code {
        200..300 => json!({"code": code}),
        _ => {
            let causes = causes.as_array().cloned().unwrap_or_default();
            json!({"code": code, "reason": reason, "message": message, "causes": causes})
        }
    }
}

#[tokio::test]
async fn answers_are_upstreams() {
    let server = Server::new().await;
    let (mut agreement, mut wrong) = (BTreeMap::<String, (usize, usize)>::new(), Vec::new());
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let path = case["request"].as_str().unwrap();
        let (code, body) = server.send("POST", path, &case["object"]).await;
        let ours = answer(code, &body["reason"], &body["message"], &body["details"]["causes"]);
        let wanted = answer(case["code"].as_u64().unwrap() as u16, &case["reason"], &case["message"], &case["causes"]);
        let kind = case["object"]["kind"].as_str().unwrap().to_owned();
        let (same, all) = agreement.entry(kind).or_default();
        *all += 1;
        match ours == wanted {
            true => *same += 1,
            false => wrong.push(format!("{}\n  upstream {wanted}\n  ours     {ours}", case["name"])),
        }
    }
    for (kind, (same, all)) in &agreement {
        println!("{kind:28} {same:3} of {all:3}");
    }
    assert!(agreement.values().map(|(_, all)| all).sum::<usize>() > 100, "the cases are there");
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}
