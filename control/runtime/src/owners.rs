//! Owner references: who controls an object, and taking in or letting go of those that a selector does or does not match.

use std::{collections::BTreeMap, fmt::Debug};

use hypernetes_api::TenantId;
use hypernetes_client::Api;
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference},
};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Context, Error, Object};

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

/// Whether labels are selected. An empty selector selects everything, an unknown operator nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.into_iter().all(|term| {
            let (have, values) = (label(&term.key), term.values.as_deref().unwrap_or_default());
            match term.operator.as_str() {
                "In" => have.is_some_and(|have| values.contains(have)),
                "NotIn" => have.is_none_or(|have| !values.contains(have)),
                "Exists" => have.is_some(),
                "DoesNotExist" => have.is_none(),
                _ => false,
            }
        })
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
) -> Result<Vec<std::sync::Arc<K>>, Error>
where
    K: Object + DeserializeOwned + Debug + Resource<Scope = NamespaceResourceScope>,
    O: Resource<DynamicType = ()>,
{
    let namespace = owner.namespace().unwrap_or_default();
    let informer = context.informers.of::<K>();
    let api: Api<K> = context.namespaced(tenant, &namespace);
    let mut ours = Vec::new();
    for object in informer.list(tenant, &namespace) {
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
            ours.push(std::sync::Arc::new(written));
        }
    }
    Ok(ours)
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
