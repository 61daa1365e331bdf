//! A server in process, over the embedded store, with a `default` namespace in each of three logical clusters.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hypernetes_api::{AllTenants, auth::UserInfo};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_store::{EmbeddedStore, embedded::Options};
use serde_json::{Value, json};
use tower::ServiceExt;

pub const ACME: &str = "0123456789abcdef0123456789abcdef";
pub const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

pub struct Bench {
    pub server: ApiServer,
    pub directory: tempfile::TempDir,
}

pub struct Answer {
    pub code: StatusCode,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code.is_success(), "{} {}", self.code, self.body);
        self.body
    }

    #[track_caller]
    pub fn refused(self, code: u16, reason: &str) -> String {
        assert_eq!((self.code.as_u16(), self.body["reason"].as_str()), (code, Some(reason)), "{}", self.body);
        assert_eq!((self.body["kind"].as_str(), self.body["code"].as_u64()), (Some("Status"), Some(u64::from(code))));
        self.body["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn user(name: &str, groups: &[&str], tenant: &str) -> UserInfo {
    UserInfo {
        name: name.into(),
        uid: String::new(),
        groups: groups.iter().map(|g| (*g).to_owned()).chain(["system:authenticated".to_owned()]).collect(),
        extra: Default::default(),
        tenant: tenant.parse().unwrap(),
    }
}

pub fn admin(tenant: &str) -> UserInfo {
    user("admin", &["system:masters"], tenant)
}

impl Bench {
    /// A server over what is in the directory.
    pub fn over(directory: tempfile::TempDir) -> Self {
        let store = EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap();
        let config = Config { store: Arc::new(store), all_tenants: AllTenants::grant() };
        Self { server: ApiServer::new(config), directory }
    }

    pub async fn new() -> Self {
        let bench = Self::over(tempfile::tempdir().unwrap());
        let identity = "/apis/identity.hypernetes.io/v1alpha1";
        let domain = json!({"metadata": {"name": "default"}, "spec": {"displayName": "Default", "enabled": true}});
        bench.post(&admin("system"), &format!("{identity}/domains"), domain).await.ok();
        // Whom the operator comes to by name; credentials are good while their project is enabled.
        for (id, name) in [(ACME, "acme"), (GLOBEX, "globex")] {
            let spec = json!({"displayName": name, "domain": "default", "enabled": true});
            let project = json!({"metadata": {"name": id}, "spec": spec});
            bench.post(&admin("system"), &format!("{identity}/projects"), project).await.ok();
        }
        for tenant in ["system", ACME, GLOBEX] {
            let namespace = json!({"metadata": {"name": "default"}});
            bench
                .send(&admin(tenant), "POST", "/api/v1/namespaces", "application/json", &namespace.to_string())
                .await
                .ok();
        }
        bench
    }

    pub async fn send(&self, user: &UserInfo, method: &str, path: &str, content: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(Body::from(body.to_owned()))
            .unwrap();
        self.answer(user, request).await
    }

    /// The answer to a request.
    pub async fn answer(&self, user: &UserInfo, request: Request<Body>) -> Answer {
        let (code, bytes) = self.raw(user, request).await;
        Answer { code, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    /// The text of an answer, to its end.
    pub async fn text(&self, user: &UserInfo, request: Request<Body>) -> String {
        let (code, bytes) = self.raw(user, request).await;
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(code.is_success(), "{code} {text}");
        text
    }

    async fn raw(&self, user: &UserInfo, mut request: Request<Body>) -> (StatusCode, Bytes) {
        request.extensions_mut().insert(user.clone());
        let response = self.server.router().oneshot(request).await.unwrap();
        let code = response.status();
        (code, response.into_body().collect().await.unwrap().to_bytes())
    }

    pub async fn get(&self, user: &UserInfo, path: &str) -> Answer {
        self.send(user, "GET", path, "application/json", "").await
    }

    pub async fn post(&self, user: &UserInfo, path: &str, body: Value) -> Answer {
        self.send(user, "POST", path, "application/json", &body.to_string()).await
    }
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "t"}}, "data": {"k": value}})
}
