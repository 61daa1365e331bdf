//! Revisions: which ReplicaSet is of the deployment's template, and the annotations that history is read from.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::PodTemplateSpec,
};

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MOST: &str = "deployment.kubernetes.io/max-replicas";
pub const HASH_LABEL: &str = "pod-template-hash";

/// Annotations of a deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
];

pub fn annotation<K: kube::Resource>(object: &K, name: &str) -> Option<i64> {
    object.meta().annotations.as_ref()?.get(name)?.parse().ok()
}

pub fn revision_of(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).unwrap_or(0)
}

fn without_hash(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    template
}

/// Whether a set is of the deployment's template.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
    let have = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    without_hash(wanted) == without_hash(have)
}

/// The newest template's set, and all others, oldest first.
pub fn split(deployment: &Deployment, mut sets: Vec<ReplicaSet>) -> (Option<ReplicaSet>, Vec<ReplicaSet>) {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    sets.sort_by(|a, b| created(a).cmp(&created(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
    let new = sets.iter().position(|set| same_template(deployment, set)).map(|at| sets.remove(at));
    (new, sets)
}

/// A short name for a template, of letters that make no words; `collisions` makes it another one.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = serde_json::to_vec(template).unwrap_or_default();
    if collisions > 0 {
        text.extend_from_slice(&collisions.to_be_bytes());
    }
    // FNV-1a, 32 bits.
    let hash = text.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| LETTERS[usize::from(digit) % LETTERS.len()] as char).collect()
}

/// The annotations that the new set is to have: those of the deployment, and its revision if that is newer.
pub fn annotations(deployment: &Deployment, set: Option<&ReplicaSet>, revision: i64) -> BTreeMap<String, String> {
    let have = set.and_then(|set| set.metadata.annotations.clone()).unwrap_or_default();
    let mut wanted = have.clone();
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            wanted.insert(name.clone(), value.clone());
        }
    }
    let old = have.get(REVISION).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if old < revision {
        if old > 0 {
            let history = wanted.entry(HISTORY.into()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&old.to_string());
        }
        wanted.insert(REVISION.into(), revision.to_string());
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "annotations": {"note": "n", REVISION: "7",
                "kubectl.kubernetes.io/last-applied-configuration": "x"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}},
        }))
        .unwrap()
    }

    fn set(name: &str, image: &str) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {REVISION: "2"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"a": "b", HASH_LABEL: "h"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn the_set_of_the_template_is_found_whatever_its_hash() {
        let (new, old) = split(&deployment("two"), vec![set("a", "one"), set("b", "two")]);
        assert_eq!(new.unwrap().metadata.name.unwrap(), "b");
        assert_eq!(old.len(), 1);
        assert!(split(&deployment("three"), vec![set("a", "one")]).0.is_none());
        let hash = |image: &str, n| template_hash(&deployment(image).spec.unwrap().template, n);
        assert_eq!(hash("one", 0), hash("one", 0));
        assert_ne!(hash("one", 0), hash("two", 0));
        assert_ne!(hash("one", 0), hash("one", 1));
    }

    #[test]
    fn a_set_that_is_rolled_back_to_gets_a_new_revision_and_keeps_its_past() {
        let wanted = annotations(&deployment("one"), Some(&set("a", "one")), 5);
        let expected = [(REVISION, "5"), (HISTORY, "2"), ("note", "n")];
        assert_eq!(wanted, expected.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        let kept = annotations(&deployment("one"), Some(&set("a", "one")), 1);
        assert_eq!(kept[REVISION], "2");
    }
}
