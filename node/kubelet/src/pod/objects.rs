//! The objects that pods refer to, by parsed names and within a time.

use hypernetes_api::DnsSubdomain;
use hypernetes_client::Api;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        authentication::v1::{TokenRequest, TokenRequestStatus},
        core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount},
    },
};
use kube::{
    Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    identity::PodId,
    node::{
        Shared,
        api::{ApiError, within},
    },
};

/// What is in a pod's tenant and namespace.
pub struct Objects<'a> {
    client: Client,
    id: &'a PodId,
}

type Found<T> = Result<Option<T>, ApiError>;

impl<'a> Objects<'a> {
    pub fn of(shared: &Shared, id: &'a PodId) -> Self {
        Self { client: shared.config.clients.tenant(&id.tenant), id }
    }

    async fn get<K>(&self, name: &str) -> Found<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let name = DnsSubdomain::new(name)?;
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.id.namespace);
        within(api.get_opt(&name)).await
    }

    pub async fn config_map(&self, name: &str) -> Found<ConfigMap> {
        self.get(name).await
    }

    pub async fn secret(&self, name: &str) -> Found<Secret> {
        self.get(name).await
    }

    pub async fn claim(&self, name: &str) -> Found<PersistentVolumeClaim> {
        self.get(name).await
    }

    pub async fn volume(&self, name: &str) -> Found<PersistentVolume> {
        let name = DnsSubdomain::new(name)?;
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        within(api.get_opt(&name)).await
    }

    /// A token of a service account of the pod's namespace.
    pub async fn token(&self, account: &str, request: &TokenRequest) -> Result<TokenRequestStatus, ApiError> {
        let account = DnsSubdomain::new(account)?;
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.id.namespace);
        let answer: TokenRequest =
            within(api.create_subresource("token", &account, &PostParams::default(), request)).await?;
        answer.status.ok_or(ApiError::NoToken)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.id.namespace)
    }

    /// Writes the pod's status; another pod of the name is not touched.
    pub async fn report(&self, status: &Value) -> Result<(), ApiError> {
        let patch = Patch::Merge(serde_json::json!({"metadata": {"uid": self.id.uid}, "status": status}));
        within(self.pods().patch_status(&self.id.name, &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Says that nothing of the pod is left.
    pub async fn gone(&self) -> Result<(), ApiError> {
        let preconditions = Preconditions { uid: Some(self.id.uid.to_string()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        within(self.pods().delete(&self.id.name, &parameters)).await.map(drop)
    }
}
