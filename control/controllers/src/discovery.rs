//! The kinds that a logical cluster stores, as its discovery says.

use hypernetes_kinds::{Home, registry};
use kube::{
    Client,
    discovery::{ApiResource, Discovery, Scope, verbs},
};

use crate::runtime::{During, Error};

/// Whether the objects of a kind that a tenant's cluster shows are the operator's: an owner of such a kind is an object of the
/// system cluster. Discovery does not tell.
pub fn is_projected(kind: &ApiResource) -> bool {
    registry::builtin().iter().any(|one| one.home == Home::Projected && one.is(&kind.group, &kind.kind))
}

/// Kinds whose objects can be listed, watched and deleted; with whether they are in namespaces.
///
/// # Errors
/// When the API does not answer.
pub async fn stored(client: &Client) -> Result<Vec<(ApiResource, bool)>, Error> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await.during("discovering the kinds")?;
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
