//! Owner references: who controls an object, making what an owner then finds again, and taking in or letting go of those that a
//! selector does or does not match.
//!
//! What is made may be changed on its way into the store, so that its owner would not find it again, and would make it again and
//! again. Such a thing is not made: the API server looks in the transaction that would make it ([`FoundBy`]), so that it makes no
//! difference when anybody ends.

use std::{fmt::Debug, sync::Arc};

use hypernetes_api::TenantId;
use hypernetes_client::{
    Api,
    found_by::{FoundBy, matches},
};
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference},
};
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Context, During, Error, Object};

/// The owner that manages an object.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The reference of a managing owner.
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whose an object is after a look at its owner and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    Ours,
    Adopt,
    Release,
    Foreign,
}

/// Upstream's rule: an owned object stays while it matches; an orphan that matches is taken in, unless either goes.
fn whose<K: Resource, O: Resource>(owner: &O, selector: &LabelSelector, object: &K) -> Claimed {
    let selected = matches(selector, object.meta().labels.as_ref());
    let (owner, object_meta) = (owner.meta(), object.meta());
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claimed::Foreign,
        Some(_) if selected => Claimed::Ours,
        Some(_) if owner.deletion_timestamp.is_none() => Claimed::Release,
        None if selected && owner.deletion_timestamp.is_none() && object_meta.deletion_timestamp.is_none() => {
            Claimed::Adopt
        }
        _ => Claimed::Foreign,
    }
}

/// Those of the owner's namespace that are the owner's, with orphans adopted and others released.
pub async fn claim<K, O>(
    context: &Context,
    tenant: &TenantId,
    owner: &O,
    selector: &LabelSelector,
) -> Result<Vec<Arc<K>>, Error>
where
    K: Object + DeserializeOwned + Debug + Resource<Scope = NamespaceResourceScope>,
    O: Resource<DynamicType = ()>,
{
    let namespace = owner.namespace().unwrap_or_default();
    let informer = context.informers.of::<K>();
    let api: Api<K> = context.namespaced(tenant, &namespace);
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let mut ours = Vec::new();
    let (owned, orphans) = (Some(uid), None);
    let found = [owned, orphans].into_iter().flat_map(|by| informer.controlled_by(tenant, &namespace, by));
    for object in found.collect::<Vec<_>>() {
        let mut references = object.meta().owner_references.clone().unwrap_or_default();
        let claimed = whose(owner, selector, &*object);
        match claimed {
            Claimed::Ours => {
                ours.push(object);
                continue;
            }
            Claimed::Foreign => continue,
            Claimed::Adopt => references.push(owner_reference(owner)),
            Claimed::Release => references.retain(|reference| Some(&reference.uid) != owner.meta().uid.as_ref()),
        }
        let meta = object.meta();
        let patch = json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references,
        }});
        let written = match context.merge(&api, &object.name_any(), "changing an owner", patch).await {
            // Gone already.
            Err(error) if error.code() == Some(404) => continue,
            other => other?,
        };
        informer.observe(tenant, written.clone());
        if claimed == Claimed::Adopt {
            ours.push(Arc::new(written));
        }
    }
    Ok(ours)
}

/// Makes an object, given as JSON without type and with its owner's reference, that the owner finds again.
///
/// # Errors
/// As the API answers: 403 when the owner would not find it.
pub async fn make<K, O>(
    context: &Context,
    api: &Api<K>,
    owner: (&TenantId, &O),
    selector: &LabelSelector,
    (doing, object): (&'static str, Value),
) -> Result<K, Error>
where
    K: Object + Serialize,
    O: Resource<DynamicType = ()>,
{
    let (tenant, owner) = owner;
    let found_by = FoundBy { owner: owner.meta().uid.clone().unwrap_or_default(), selector: selector.clone() };
    let object: K = serde_json::from_value(object)?;
    let made = api.create_found_by(&context.posting(), &object, found_by).await.during(doing)?;
    context.informers.of::<K>().observe(tenant, made.clone());
    Ok(made)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

    use super::*;

    fn pod(labels: serde_json::Value, owner: Option<&str>) -> Pod {
        let owners: Vec<_> = owner
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}))
            .into_iter()
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "p", "labels": labels, "ownerReferences": owners}})).unwrap()
    }

    #[test]
    fn selected_orphans_are_adopted_and_strays_released() {
        let owner: ReplicaSet = serde_json::from_value(json!({"metadata": {"name": "r", "uid": "1"}})).unwrap();
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "x", "operator": "NotIn", "values": ["y"]}, {"key": "z", "operator": "DoesNotExist"}]}))
        .unwrap();
        let claimed = |pod: Pod| whose(&owner, &selector, &pod);
        assert_eq!(claimed(pod(json!({"a": "b"}), Some("1"))), Claimed::Ours);
        assert_eq!(claimed(pod(json!({"a": "b"}), None)), Claimed::Adopt);
        assert_eq!(claimed(pod(json!({"a": "c"}), Some("1"))), Claimed::Release);
        assert_eq!(claimed(pod(json!({"a": "b"}), Some("2"))), Claimed::Foreign);
        assert_eq!(claimed(pod(json!({"a": "b", "x": "y"}), None)), Claimed::Foreign);
        assert_eq!(claimed(pod(json!({"a": "b", "z": ""}), None)), Claimed::Foreign);
    }
}
