//! A server in process, with two tenants that have the same names.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hypernetes_api::{AllTenants, auth::UserInfo};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_store::{EmbeddedStore, embedded::Options};
use serde_json::{Value, json};
use tower::ServiceExt;

pub const ACME: &str = "0123456789abcdef0123456789abcdef";
pub const GLOBEX: &str = "fedcba9876543210fedcba9876543210";
pub const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

pub struct Bench {
    pub server: ApiServer,
    _directory: tempfile::TempDir,
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
        self.body["message"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn forbidden(self) -> String {
        self.refused(403, "Forbidden")
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

/// A tenant's admin, as Keystone knows them.
pub fn admin(tenant: &str) -> UserInfo {
    user("admin", &["keystone:admin"], tenant)
}

pub fn member(tenant: &str) -> UserInfo {
    user("member", &["keystone:member"], tenant)
}

pub fn operator() -> UserInfo {
    user("operator", &["system:masters"], "system")
}

pub fn infrastructure() -> UserInfo {
    user("server", &["hypernetes:infrastructure"], "system")
}

pub fn node(name: &str) -> UserInfo {
    user(&format!("system:node:{name}"), &["system:nodes"], "system")
}

impl Bench {
    /// Both tenants have the namespace `default` with its service account.
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap();
        let config = Config { store: Arc::new(store), all_tenants: AllTenants::grant() };
        let bench = Self { server: ApiServer::new(config), _directory: directory };
        let identity = "/apis/identity.hypernetes.io/v1alpha1";
        let domain = json!({"metadata": {"name": "default"}, "spec": {"displayName": "Default", "enabled": true}});
        bench.post(&infrastructure(), &format!("{identity}/domains"), domain).await.ok();
        for (tenant, name) in [(ACME, "acme"), (GLOBEX, "globex")] {
            let spec = json!({"displayName": name, "domain": "default", "enabled": true});
            bench
                .post(
                    &infrastructure(),
                    &format!("{identity}/projects"),
                    json!({"metadata": {"name": tenant}, "spec": spec}),
                )
                .await
                .ok();
        }
        for tenant in ["system", ACME, GLOBEX] {
            let cluster = format!("/clusters/{tenant}/api/v1/namespaces");
            bench.post(&infrastructure(), &cluster, json!({"metadata": {"name": "default"}})).await.ok();
            let accounts = format!("{cluster}/default/serviceaccounts");
            bench.post(&infrastructure(), &accounts, json!({"metadata": {"name": "default"}})).await.ok();
        }
        bench
    }

    pub async fn send(&self, user: &UserInfo, method: &str, path: &str, content: &str, body: &str) -> Answer {
        self.send_as(user, method, path, &[("content-type", content)], body).await
    }

    pub async fn send_as(
        &self,
        user: &UserInfo,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(user.clone());
        self.answer(request).await
    }

    /// With what TLS says of the connection, and with no more than the request has itself.
    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.server.router().oneshot(request).await.unwrap();
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer { code, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    pub async fn text(&self, request: Request<Body>) -> String {
        let response = self.server.router().oneshot(request).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    pub async fn get(&self, user: &UserInfo, path: &str) -> Answer {
        self.send(user, "GET", path, "application/json", "").await
    }

    pub async fn post(&self, user: &UserInfo, path: &str, body: Value) -> Answer {
        self.send(user, "POST", path, "application/json", &body.to_string()).await
    }

    pub async fn put(&self, user: &UserInfo, path: &str, body: &Value) -> Answer {
        self.send(user, "PUT", path, "application/json", &body.to_string()).await
    }

    pub async fn merge(&self, user: &UserInfo, path: &str, patch: Value) -> Answer {
        self.send(user, "PATCH", path, "application/merge-patch+json", &patch.to_string()).await
    }

    pub async fn delete(&self, user: &UserInfo, path: &str) -> Answer {
        self.send(user, "DELETE", path, "application/json", "").await
    }
}
