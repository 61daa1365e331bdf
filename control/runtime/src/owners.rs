//! Owner references: who controls an object, making what an owner then finds again, and taking in or letting go of those that a
//! selector does or does not match.
//!
//! What is made may be changed on its way into the store, so that its owner's selector does not match it. It is marked then
//! and counts for as long as it is there: an owner that let go of it, as of one that was relabelled later, would make it
//! again and again. What is not even the owner's any more is taken back.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use hypernetes_api::{TenantId, names::ASTRAY_ANNOTATION};
use hypernetes_client::Api;
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference},
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Preconditions},
};
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
    /// It is ours and was never selected.
    Astray,
    Adopt,
    Release,
    Foreign,
}

/// Upstream's rule: an owned object stays while it matches; an orphan that matches is taken in, unless either goes. And what
/// has gone astray when it was made stays.
fn whose<K: Resource, O: Resource>(owner: &O, selector: &LabelSelector, object: &K) -> Claimed {
    let selected = matches(selector, object.meta().labels.as_ref());
    let (owner, object_meta) = (owner.meta(), object.meta());
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claimed::Foreign,
        Some(_) if selected => Claimed::Ours,
        Some(_) if object.annotations().contains_key(ASTRAY_ANNOTATION) => Claimed::Astray,
        Some(_) if owner.deletion_timestamp.is_none() => Claimed::Release,
        None if selected && owner.deletion_timestamp.is_none() && object_meta.deletion_timestamp.is_none() => {
            Claimed::Adopt
        }
        _ => Claimed::Foreign,
    }
}

/// What is an owner's.
pub struct Owned<K> {
    pub ours: Vec<Arc<K>>,
    /// Made for it and not selected: they count, and are of no other use.
    pub astray: Vec<Arc<K>>,
}

/// Those of the owner's namespace that are the owner's, with orphans adopted and others released.
pub async fn claim<K, O>(
    context: &Context,
    tenant: &TenantId,
    owner: &O,
    selector: &LabelSelector,
) -> Result<Owned<K>, Error>
where
    K: Object + DeserializeOwned + Debug + Resource<Scope = NamespaceResourceScope>,
    O: Resource<DynamicType = ()>,
{
    let namespace = owner.namespace().unwrap_or_default();
    let informer = context.informers.of::<K>();
    let api: Api<K> = context.namespaced(tenant, &namespace);
    let (mut ours, mut astray) = (Vec::new(), Vec::new());
    for object in informer.list(tenant, &namespace) {
        let mut references = object.meta().owner_references.clone().unwrap_or_default();
        let claimed = whose(owner, selector, &*object);
        match claimed {
            Claimed::Ours => {
                ours.push(object);
                continue;
            }
            Claimed::Astray => {
                astray.push(object);
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
    Ok(Owned { ours, astray })
}

/// Makes an object, given as JSON without type and with its owner's reference, that the owner finds again.
///
/// # Errors
/// As the API answers; and `Waiting` when it would not be found again.
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
    let made = context.create(api, doing, object).await?;
    let (kind, name, uid) = (K::kind(&()).to_lowercase(), made.name_any(), made.uid());
    let informer = context.informers.of::<K>();
    match whose(owner, selector, &made) {
        Claimed::Ours | Claimed::Astray | Claimed::Adopt => {
            informer.observe(tenant, made.clone());
            return Ok(made);
        }
        Claimed::Release => {
            let mark = json!({"metadata": {"uid": uid, "annotations": {ASTRAY_ANNOTATION: owner.uid()}}});
            let marked = context.merge(api, &name, "marking what has gone astray", mark).await;
            if let Ok(marked) = marked
                && whose(owner, selector, &marked) != Claimed::Release
            {
                informer.observe(tenant, marked);
                return Err(Error::Waiting(format!(
                    "{kind} {name} was made, and is not selected by whom it was made for"
                )));
            }
        }
        Claimed::Foreign => {}
    }
    let this = DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
    match api.delete(&name, &this).await.during("taking back what is not ours") {
        Err(error) if !matches!(error.code(), Some(404 | 409)) => return Err(error),
        _ => {}
    }
    Err(Error::Waiting(format!("{kind} {name} was made, and is not owned by whom it was made for")))
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
        let marked = |labels, owner| {
            let mut pod = pod(labels, owner);
            pod.annotations_mut().insert(ASTRAY_ANNOTATION.into(), "1".into());
            pod
        };
        assert_eq!(claimed(marked(json!({}), Some("1"))), Claimed::Astray);
        assert_eq!(claimed(marked(json!({"a": "b"}), Some("1"))), Claimed::Ours);
        assert_eq!(claimed(marked(json!({}), Some("2"))), Claimed::Foreign);
        assert_eq!(claimed(marked(json!({}), None)), Claimed::Foreign);
    }
}
