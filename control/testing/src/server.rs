//! The API server over a store on disk, in process.

use std::{fmt::Debug, path::Path, sync::Arc};

use hypernetes_api::{
    AllTenants, TenantId,
    types::identity::{Project, ProjectSpec},
};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_client::Clients;
use hypernetes_store::{EmbeddedStore, embedded::Options};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two tenants.
pub const ACME: &str = "0123456789abcdef0123456789abcdef";
pub const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

/// A tenant's id.
pub fn id(tenant: &str) -> TenantId {
    tenant.parse().unwrap()
}

/// An API server, its store, and clients of it. There is nothing in it but what the server makes itself.
pub struct InProcess {
    pub server: ApiServer,
    pub store: Arc<EmbeddedStore>,
    pub clients: Clients,
    directory: TempDir,
}

impl InProcess {
    /// With a store in a directory that is gone with it.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&directory.path().join("store"), Options::default()).unwrap());
        let server = ApiServer::new(Config { store: store.clone(), all_tenants: AllTenants::grant() });
        let clients = Clients::in_process(server.loopback());
        Self { server, store, clients, directory }
    }

    /// Room beside the store.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A tenant's objects of the kind; those in all its namespaces.
    pub fn api<K>(&self, tenant: &str) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.clients.tenant(&id(tenant)))
    }

    /// Makes an object that is in no namespace.
    pub async fn make<K>(&self, tenant: &str, object: Value) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>(tenant).create(&PostParams::default(), &object).await.unwrap()
    }

    /// Makes a tenant: its project, unless the identity service has made it, and the namespace `default`.
    pub async fn tenant(&self, tenant: &str) {
        let spec = ProjectSpec { display_name: format!("project-{tenant}"), ..ProjectSpec::default() };
        let projects = self.api::<Project>(TenantId::SYSTEM);
        match projects.create(&PostParams::default(), &Project::new(tenant, spec)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.unwrap()),
        }
        self.make::<Namespace>(tenant, json!({"metadata": {"name": "default"}})).await;
    }
}
