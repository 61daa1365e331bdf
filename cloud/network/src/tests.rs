//! The service over a real API server and store, in process.

mod facade;
mod hostile;
mod openstack;
mod pods;

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hypernetes_api::{
    AllTenants, TenantId,
    auth::{TokenAuthority, TokenError, TokenInfo, TokenScope},
    types::identity::{Project, ProjectSpec},
    types::network::{Network, NetworkSpec, Port, Subnet, SubnetSpec},
};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_client::Clients;
use hypernetes_store::{EmbeddedStore, embedded::Options};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{Api, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{NetworkConfig, NetworkService};

const ACME: &str = "0123456789abcdef0123456789abcdef";
const GLOBEX: &str = "fedcba9876543210fedcba9876543210";
/// Longest wait for what happens in milliseconds.
const SOON: Duration = Duration::from_secs(60);

/// Tokens are `<role>@<project>`, `admin@system` the operator's.
struct Tokens;

#[async_trait]
impl TokenAuthority for Tokens {
    async fn validate(&self, token: &str) -> Result<TokenInfo, TokenError> {
        let (role, project) = token.split_once('@').ok_or(TokenError::Invalid)?;
        let scope = match project {
            "system" => TokenScope::System,
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
    service: Arc<NetworkService>,
    server: ApiServer,
    store: Arc<EmbeddedStore>,
    _directory: tempfile::TempDir,
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

    /// The message.
    #[track_caller]
    fn refused(self, code: u16, kind: &str) -> String {
        let error = &self.body["NeutronError"];
        assert_eq!((self.status.as_u16(), error["type"].as_str()), (code, Some(kind)), "{}", self.body);
        assert_eq!(error["detail"], "");
        error["message"].as_str().unwrap().to_owned()
    }
}

fn id(tenant: &str) -> TenantId {
    tenant.parse().unwrap()
}

fn store(directory: &tempfile::TempDir) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap())
}

fn api_server(store: &Arc<EmbeddedStore>) -> ApiServer {
    ApiServer::new(Config { store: store.clone(), all_tenants: AllTenants::grant() })
}

impl Cloud {
    /// Two tenants with what every tenant has.
    async fn new() -> Self {
        let cloud = Self::empty();
        for tenant in [ACME, GLOBEX] {
            cloud.tenant(tenant).await;
        }
        cloud
    }

    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let server = api_server(&store);
        let clients = Clients::in_process(server.loopback());
        let service = start(&clients);
        Self { clients, service, server, store, _directory: directory }
    }

    async fn tenant(&self, tenant: &str) {
        // The project, unless the identity service has made it.
        let projects: Api<Project> = Api::all(self.clients.tenant(&TenantId::system()));
        let spec = ProjectSpec { display_name: format!("project-{tenant}"), ..ProjectSpec::default() };
        match projects.create(&PostParams::default(), &Project::new(tenant, spec)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.unwrap()),
        }
        let namespace = |name: &str| json!({"metadata": {"name": name}});
        self.make::<Namespace>(tenant, namespace("default")).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.clients.tenant(&id(tenant)), "default");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        accounts.create(&PostParams::default(), &account).await.unwrap();
        self.api::<Network>(tenant)
            .create(&PostParams::default(), &Network::new("default", NetworkSpec::default()))
            .await
            .unwrap();
        let spec = SubnetSpec { network: "default".into(), cidr: "10.244.0.0/16".into(), ..SubnetSpec::default() };
        self.api::<Subnet>(tenant).create(&PostParams::default(), &Subnet::new("default", spec)).await.unwrap();
    }

    /// Another process over the same objects.
    fn restart(&mut self) {
        self.service = start(&self.clients);
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

    fn pods(&self, tenant: &str) -> Api<Pod> {
        Api::namespaced(self.clients.tenant(&id(tenant)), "default")
    }

    async fn pod(&self, tenant: &str, name: &str) -> Pod {
        self.pods(tenant).create(&PostParams::default(), &pod(name)).await.unwrap()
    }

    /// The pod's port, once it is accepted.
    async fn port_of(&self, tenant: &str, pod: &Pod) -> Port {
        let name = crate::tenant::port_of_pod(pod.metadata.uid.as_deref().unwrap());
        self.eventually(|| async {
            self.api::<Port>(tenant).get_opt(&name).await.unwrap().filter(crate::state::is_accepted)
        })
        .await
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
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(token, method, path, body).await
    }

    async fn send(&self, token: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let router = self.service.router();
        let mut request = Request::builder().method(method).uri(format!("/networking/v2.0{path}"));
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

    /// The id of the only object of that name.
    async fn id_of(&self, token: &str, collection: &str, name: &str) -> String {
        let list = self.get(token, &format!("/{collection}?name={name}")).await.ok();
        let objects = list[collection].as_array().unwrap();
        assert_eq!(objects.len(), 1, "{list}");
        objects[0]["id"].as_str().unwrap().to_owned()
    }
}

fn start(clients: &Clients) -> Arc<NetworkService> {
    let config = NetworkConfig::new("https://cloud.example:6443/");
    NetworkService::start(clients, AllTenants::grant(), Arc::new(Tokens), config)
}

fn pod(name: &str) -> Pod {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": false});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn ip(port: &Port) -> &str {
    &port.spec.fixed_ips[0].ip_address
}
