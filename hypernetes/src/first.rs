//! The first objects of the system cluster: what has to be there before the controllers and anybody else can begin.

use futures::future::try_join_all;
use hypernetes_api::{TenantId, names, types::identity::IDENTITY_NAMESPACE};
use hypernetes_certificates::cluster_info;
use hypernetes_client::Clients;
use k8s_openapi::api::{
    core::v1::Namespace,
    rbac::v1::{Role, RoleBinding},
    storage::v1::StorageClass,
};
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
    let named = ["kube-system", "kube-node-lease", cluster_info::NAMESPACE, IDENTITY_NAMESPACE];
    try_join_all(named.map(|name| ensure(&namespaces, json!({"metadata": {"name": name}})))).await?;
    // Who has nothing but a bootstrap token has to be able to read where the server is (kubeadm's names). Whoever wants nobody to
    // takes the subject out of the binding.
    let public = cluster_info::NAMESPACE;
    let reader = "kubeadm:bootstrap-signer-clusterinfo";
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [cluster_info::NAME], "verbs": ["get"]});
    let roles: Api<Role> = Api::namespaced(client.clone(), public);
    let group = "rbac.authorization.k8s.io";
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), public);
    let binding = json!({
        "metadata": {"name": reader},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": reader},
        "subjects": [{"apiGroup": group, "kind": "User", "name": names::USER_ANONYMOUS}],
    });
    let classes: Api<StorageClass> = Api::all(client);
    let default = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let class = json!({
        "metadata": {"name": "standard", "annotations": default},
        "provisioner": hypernetes_api::names::VOLUME_DRIVER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    });
    tokio::try_join!(
        ensure(&roles, json!({"metadata": {"name": reader}, "rules": [rule]})),
        ensure(&bindings, binding),
        ensure(&classes, class),
    )
    .map(drop)
}
