//! The API server over a store, in process: on disk, or in the etcd that `HYPERNETES_TEST_ETCD` names.

use std::{fmt::Debug, path::Path, sync::Arc};

use hypernetes_api::{
    AllTenants, TenantId,
    auth::UserInfo,
    types::identity::{Domain, DomainSpec, Project, ProjectSpec},
};
use hypernetes_apiserver::{ApiServer, Config};
use hypernetes_client::Clients;
use hypernetes_store::{Options, Store};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, ServiceAccount},
};
use kube::{Api, Resource, api::PostParams};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
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

/// Makes an object, whose type need not be said.
pub async fn make<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// An API server, its store, and clients of it. There is nothing in it but what the server makes itself.
pub struct InProcess {
    pub server: ApiServer,
    pub store: Arc<Store>,
    pub clients: Clients,
    directory: TempDir,
}

impl InProcess {
    /// With a store that nobody else has.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// [`InProcess::start`] with a store of one's own options, all but what its values are.
    pub fn with(options: Options) -> Self {
        Self::over(tempfile::tempdir().unwrap(), options)
    }

    /// [`InProcess::start`] with two tenants in the domain `default`, [`ACME`] and [`GLOBEX`], which are called acme and
    /// globex. They and the system have the namespace `default`.
    pub async fn with_tenants() -> Self {
        let api = Self::start();
        api.domain().await;
        for (tenant, name) in [(ACME, "acme"), (GLOBEX, "globex")] {
            api.project(tenant, name).await;
        }
        for tenant in [TenantId::SYSTEM, ACME, GLOBEX] {
            api.namespace(tenant).await;
        }
        api
    }

    fn over(directory: TempDir, options: Options) -> Self {
        let options = Options { values: hypernetes_apiserver::VALUES, ..options };
        let store = Arc::new(crate::store::open(directory.path(), options));
        let server = ApiServer::new(Config { store: store.clone(), all_tenants: AllTenants::grant() });
        let clients = Clients::in_process(server.loopback());
        Self { server, store, clients, directory }
    }

    /// Another process over the same store.
    pub async fn restarted(self) -> Self {
        let Self { server, store, clients, directory } = self;
        drop((server, clients));
        // The tasks of clients that are gone have it until they have run once more.
        while Arc::strong_count(&store) > 1 {
            tokio::task::yield_now().await;
        }
        drop(store);
        Self::over(directory, Options::default())
    }

    /// Another server over the same etcd; none: the store is in a directory, which is one server's.
    pub fn beside(&self) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        crate::store::share(self.directory.path(), directory.path()).then(|| Self::over(directory, Options::default()))
    }

    /// Room beside the store.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Gives the server an authority of certificates for the system, and returns its certificate, PEM.
    pub fn authority(&self) -> String {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "hypernetes");
        let certificate = params.self_signed(&key).unwrap().pem();
        self.server.authorities().set_system(&certificate, &key.serialize_pem()).unwrap();
        certificate
    }

    /// A client of the system's cluster, as this user.
    pub fn client_as(&self, user: UserInfo) -> kube::Client {
        Clients::in_process(self.server.as_user(user)).tenant(&TenantId::system())
    }

    /// A tenant's client, with all rights.
    pub fn client(&self, tenant: &str) -> kube::Client {
        self.clients.tenant(&id(tenant))
    }

    /// A tenant's objects of the kind; those in all its namespaces.
    pub fn api<K>(&self, tenant: &str) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client(tenant))
    }

    /// A tenant's objects of the kind that are in its namespace `default`.
    pub fn in_default<K>(&self, tenant: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(tenant), "default")
    }

    /// Makes an object that is in no namespace.
    pub async fn make<K>(&self, tenant: &str, object: Value) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        make(&self.api(tenant), object).await
    }

    /// Makes the domain `default`.
    pub async fn domain(&self) {
        let spec = DomainSpec { display_name: "Default".into(), enabled: true, ..DomainSpec::default() };
        let domains = self.api::<Domain>(TenantId::SYSTEM);
        domains.create(&PostParams::default(), &Domain::new("default", spec)).await.unwrap();
    }

    /// Makes a tenant's project of that name, unless the identity service has made it: open, and in the domain `default`.
    pub async fn project(&self, tenant: &str, name: &str) {
        let spec = ProjectSpec {
            display_name: name.into(),
            domain: "default".into(),
            enabled: true,
            ..ProjectSpec::default()
        };
        let projects = self.api::<Project>(TenantId::SYSTEM);
        match projects.create(&PostParams::default(), &Project::new(tenant, spec)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other.unwrap()),
        }
    }

    /// Makes a tenant's namespace `default`.
    pub async fn namespace(&self, tenant: &str) {
        self.make::<Namespace>(tenant, json!({"metadata": {"name": "default"}})).await;
    }

    /// Makes the service account `default` in the namespace `default`.
    pub async fn account(&self, tenant: &str) {
        make::<ServiceAccount>(&self.in_default(tenant), json!({"metadata": {"name": "default"}})).await;
    }

    /// Makes a tenant: its project, and the namespace `default`.
    pub async fn tenant(&self, tenant: &str) {
        self.project(tenant, &format!("project-{tenant}")).await;
        self.namespace(tenant).await;
    }
}
