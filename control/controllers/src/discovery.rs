//! The kinds that a logical cluster stores, as its discovery says.

use kube::{
    Client,
    discovery::{ApiResource, Discovery, Scope, verbs},
};

use crate::runtime::{During, Error};

/// The operator's kinds that tenants see and may name as owners: the owner is then an object of the system cluster.
/// As the API server's table has them; discovery does not tell.
const PROJECTED: [(&str, &str); 6] = [
    ("", "Node"),
    ("node.k8s.io", "RuntimeClass"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "CSINode"),
    ("storage.k8s.io", "StorageClass"),
];

/// Whether the objects of a kind that a tenant's cluster shows are the operator's.
pub fn is_projected(kind: &ApiResource) -> bool {
    PROJECTED.contains(&(kind.group.as_str(), kind.kind.as_str()))
}

/// Kinds whose objects can be listed, watched and deleted; with whether they are in namespaces.
///
/// # Errors
/// When the API does not answer.
pub async fn stored(client: &Client) -> Result<Vec<(ApiResource, bool)>, Error> {
    let discovery = Discovery::new(client.clone()).run().await.during("discovering the kinds")?;
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let stored =
                [verbs::LIST, verbs::WATCH, verbs::DELETE].iter().all(|verb| capabilities.supports_operation(verb));
            if stored {
                kinds.push((resource, capabilities.scope == Scope::Namespaced));
            }
        }
    }
    Ok(kinds)
}

/// Those whose objects are in namespaces.
///
/// # Errors
/// When the API does not answer.
pub async fn namespaced(client: &Client) -> Result<Vec<ApiResource>, Error> {
    Ok(stored(client).await?.into_iter().filter_map(|(kind, namespaced)| namespaced.then_some(kind)).collect())
}
