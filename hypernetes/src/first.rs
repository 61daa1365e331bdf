//! The first objects of the system cluster and of each tenant: what has to be there before anybody can make anything.

use std::time::Duration;

use futures::TryStreamExt;
use hypernetes_api::{
    AllTenants, TenantId,
    types::identity::{IDENTITY_NAMESPACE, Project},
};
use hypernetes_client::Clients;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, ServiceAccount},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// Makes an object unless it is there.
async fn ensure<K>(api: &Api<K>, object: serde_json::Value) -> Result<(), kube::Error>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

async fn namespace(client: &Client, name: &str, authority: &str) -> Result<(), kube::Error> {
    ensure::<Namespace>(&Api::all(client.clone()), json!({"metadata": {"name": name}})).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    ensure(&accounts, json!({"metadata": {"name": "default"}})).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), name);
    ensure(&maps, json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": authority}})).await
}

/// The system cluster's own.
pub async fn objects(clients: &Clients, authority: &str) -> Result<(), kube::Error> {
    let client = clients.tenant(&TenantId::system());
    for name in ["default", "kube-system", "kube-public", "kube-node-lease", IDENTITY_NAMESPACE] {
        namespace(&client, name, authority).await?;
    }
    let classes: Api<StorageClass> = Api::all(client);
    let default = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let class = json!({
        "metadata": {"name": "standard", "annotations": default},
        "provisioner": hypernetes_api::names::VOLUME_DRIVER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    });
    ensure(&classes, class).await
}

/// Gives each project that appears its namespaces, for ever.
pub async fn keep_tenants(clients: Clients, _capability: AllTenants, authority: String) {
    let projects: Api<Project> = Api::all(clients.tenant(&TenantId::system()));
    let stream = watcher(projects, watcher::Config::default()).default_backoff().applied_objects();
    let mut stream = std::pin::pin!(stream);
    loop {
        match stream.try_next().await {
            Ok(Some(project)) => {
                let Some(tenant) = project.metadata.name.as_deref().and_then(|name| name.parse::<TenantId>().ok())
                else {
                    continue;
                };
                let client = clients.tenant(&tenant);
                for name in ["default", "kube-system", "kube-public"] {
                    if let Err(error) = namespace(&client, name, &authority).await {
                        tracing::error!(%tenant, %error, "a tenant's first objects were not made");
                    }
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "watching projects");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
