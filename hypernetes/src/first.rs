//! The first objects of the system cluster: what has to be there before the controllers and anybody else can begin.

use hypernetes_api::{TenantId, types::identity::IDENTITY_NAMESPACE};
use hypernetes_client::Clients;
use k8s_openapi::api::{core::v1::Namespace, storage::v1::StorageClass};
use kube::{Api, Resource, api::PostParams};
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

/// The system cluster's own.
pub async fn objects(clients: &Clients) -> Result<(), kube::Error> {
    let client = clients.tenant(&TenantId::system());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in ["kube-system", "kube-node-lease", IDENTITY_NAMESPACE] {
        ensure(&namespaces, json!({"metadata": {"name": name}})).await?;
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
