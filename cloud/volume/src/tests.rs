//! The service over a real API server and store, in process.

mod facade;
mod hostile;
mod lifecycle;
mod openstack;

use std::{fmt::Debug, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{Router, body::Body};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hypernetes_api::{
    AllTenants, TenantId,
    auth::{TokenAuthority, TokenError, TokenInfo, TokenScope},
    names::VOLUME_DRIVER,
    types::identity::{Project, ProjectSpec},
    types::network::PodReference,
    types::volume::{Attachment, AttachmentSpec, Volume},
};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_client::Clients;
use hypernetes_store::{EmbeddedStore, embedded::Options};
use k8s_openapi::api::{core::v1::Namespace, storage::v1::StorageClass};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{Volumes, VolumesConfig};

const ACME: &str = "0123456789abcdef0123456789abcdef";
const GLOBEX: &str = "fedcba9876543210fedcba9876543210";
const MEMBER: &str = "member@0123456789abcdef0123456789abcdef";
const READER: &str = "reader@0123456789abcdef0123456789abcdef";
const OTHER: &str = "admin@fedcba9876543210fedcba9876543210";
/// Longest wait for what happens in milliseconds.
const SOON: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;

/// Tokens are `<role>@<project>`.
struct Tokens;

#[async_trait]
impl TokenAuthority for Tokens {
    async fn validate(&self, token: &str) -> Result<TokenInfo, TokenError> {
        let (role, project) = token.split_once('@').ok_or(TokenError::Invalid)?;
        let scope = match project {
            "" => TokenScope::Unscoped,
            id => TokenScope::Project {
                id: id.parse().map_err(|_| TokenError::Invalid)?,
                name: id.into(),
                domain_id: "default".into(),
                domain_name: "Default".into(),
            },
        };
        let roles = ["reader", "member", "admin"];
        let rank = roles.iter().position(|other| *other == role).ok_or(TokenError::Invalid)?;
        Ok(TokenInfo {
            user_id: "u".into(),
            user_name: "jane".into(),
            user_domain_id: "default".into(),
            user_domain_name: "Default".into(),
            scope,
            roles: roles[..=rank].iter().map(|role| (*role).to_owned()).collect(),
            expires_at: jiff::Timestamp::MAX,
        })
    }
}

struct Cloud {
    clients: Clients,
    service: Arc<Volumes>,
    server: ApiServer,
    store: Arc<EmbeddedStore>,
    directory: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    body: Value,
}

impl Answer {
    #[track_caller]
    fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    /// The message of a fault, which has Cinder's form.
    #[track_caller]
    fn refused(self, code: u16, fault: &str) -> String {
        let error = &self.body[fault];
        assert_eq!((self.status.as_u16(), error["code"].as_u64()), (code, Some(code.into())), "{}", self.body);
        assert_eq!(self.body.as_object().map(serde_json::Map::len), Some(1), "{}", self.body);
        error["message"].as_str().unwrap().to_owned()
    }
}

fn id(tenant: &str) -> TenantId {
    tenant.parse().unwrap()
}

impl Cloud {
    /// Two tenants.
    async fn new() -> Self {
        let cloud = Self::empty(|config| config);
        for tenant in [ACME, GLOBEX] {
            cloud.tenant(tenant).await;
        }
        cloud
    }

    fn empty(configure: impl FnOnce(VolumesConfig) -> VolumesConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap());
        let config = Config { store: store.clone(), all_tenants: AllTenants::grant() };
        let server = ApiServer::new(config);
        let clients = Clients::in_process(server.loopback());
        let config = VolumesConfig::new(directory.path().join("volumes"), "https://cloud.example:6443/");
        let service = Volumes::start(&clients, AllTenants::grant(), configure(config)).unwrap();
        Self { clients, service, server, store, directory }
    }

    async fn tenant(&self, tenant: &str) {
        // The project, unless the identity service has made it.
        let projects: Api<Project> = Api::all(self.clients.tenant(&TenantId::system()));
        let spec = ProjectSpec { display_name: format!("project-{tenant}"), ..ProjectSpec::default() };
        match projects.create(&PostParams::default(), &Project::new(tenant, spec)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.unwrap()),
        }
        self.make::<Namespace>(tenant, json!({"metadata": {"name": "default"}})).await;
    }

    /// Another process over the same objects and files.
    fn restart(&mut self) {
        let config = self.service.config.clone();
        self.service = Volumes::start(&self.clients, AllTenants::grant(), config).unwrap();
    }

    fn api<K>(&self, tenant: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.clients.tenant(&id(tenant)))
    }

    async fn make<K>(&self, tenant: &str, object: Value) -> K
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>(tenant).create(&PostParams::default(), &object).await.unwrap()
    }

    /// The operator's storage class `standard`, the default one.
    async fn class(&self) {
        self.make::<StorageClass>(
            "system",
            json!({
                "metadata": {"name": "standard",
                             "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": VOLUME_DRIVER,
            }),
        )
        .await;
        self.make::<StorageClass>("system", json!({"metadata": {"name": "foreign"}, "provisioner": "else.example"}))
            .await;
    }

    /// What a node's driver does.
    async fn attach(&self, tenant: &str, volume: &str) {
        let pod = PodReference { namespace: "default".into(), name: "web".into(), uid: "pod-uid".into() };
        let spec = AttachmentSpec { volume: volume.into(), node: "n1".into(), pod, read_only: false };
        self.api(tenant).create(&PostParams::default(), &Attachment::new(volume, spec)).await.unwrap();
    }

    async fn detach(&self, tenant: &str, volume: &str) {
        self.api::<Attachment>(tenant).delete(volume, &DeleteParams::default()).await.unwrap();
    }

    /// Files of a tenant's volumes.
    fn files(&self, tenant: &str) -> Vec<PathBuf> {
        let directory = self.directory.path().join("volumes").join(tenant);
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Asks until there is an answer.
    #[track_caller]
    fn eventually<T, F: Future<Output = Option<T>>>(&self, ask: impl Fn() -> F) -> impl Future<Output = T> {
        let caller = std::panic::Location::caller();
        async move {
            let started = std::time::Instant::now();
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                assert!(started.elapsed() < SOON, "waited in vain at {caller}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// The volume once it has the status, as the API shows it.
    #[track_caller]
    fn with_status(&self, token: &str, id: &Value, status: &str) -> impl Future<Output = Value> {
        let path = format!("/volumes/{}", id.as_str().unwrap());
        self.eventually(move || {
            let path = path.clone();
            async move {
                let volume = self.get(token, &path).await.ok()["volume"].clone();
                (volume["status"] == status).then_some(volume)
            }
        })
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(token, method, path, body).await
    }

    /// A path below the token's own project.
    async fn send(&self, token: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let project = token.split_once('@').map_or(ACME, |(_, project)| project);
        self.send_to(token, method, &format!("/volume/v3/{project}{path}"), body).await
    }

    async fn send_to(&self, token: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let router = Router::new().nest("/volume", self.service.router(Arc::new(Tokens)));
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("x-auth-token", token);
        }
        let response = router.oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, Value::Null).await
    }

    async fn delete(&self, token: &str, path: &str) -> Answer {
        self.call(token, "DELETE", path, Value::Null).await
    }

    async fn create(&self, body: Value) -> Value {
        let answer = self.call(MEMBER, "POST", "/volumes", json!({"volume": body})).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["volume"].clone()
    }
}
