//! Which volume suits a claim.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{claim_reference, class_of, is_for, phase_of, size};
use crate::runtime::matches;

fn mode(mode: Option<&str>) -> &str {
    mode.unwrap_or("Filesystem")
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    mode(of_volume) == mode(of_claim)
}

fn is_large_enough(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    match (size::capacity(volume), size::requested(claim)) {
        (Some(capacity), Some(requested)) => capacity >= requested,
        _ => false,
    }
}

/// Whether the volume can be used in all ways that the claim asks for.
fn allows_access(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let allowed = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| allowed.contains(mode))
}

fn is_selected(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(|selector| matches(selector, volume.metadata.labels.as_ref()))
}

/// Why a claim cannot have the volume that it names, in upstream's words.
pub fn objection(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if !is_large_enough(volume, claim) {
        Some("requested PV is too small")
    } else if class_of_volume(volume) != class_of(claim) {
        Some("storageClassName does not match")
    } else if !same_mode(volume, claim) {
        Some("incompatible volumeMode")
    } else if !allows_access(volume, claim) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

/// How free the choice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Only a volume that names the claim: everything else waits for the pod's node.
    Named,
    /// Any that is free. `node_chosen`: without regard to where the pod will run, so only those that are everywhere.
    Free { node_chosen: bool },
}

/// The volume that names the claim, else the smallest that suits (upstream's `FindMatchingVolume`).
pub fn best(
    claim: &PersistentVolumeClaim,
    volumes: Vec<Arc<PersistentVolume>>,
    choice: Choice,
) -> Option<Arc<PersistentVolume>> {
    let goes = |volume: &PersistentVolume| volume.metadata.deletion_timestamp.is_some();
    let usable =
        |volume: &PersistentVolume| !goes(volume) && same_mode(volume, claim) && is_large_enough(volume, claim);
    let named = |volume: &PersistentVolume| claim_reference(volume).is_some_and(|reference| is_for(reference, claim));
    if let Some(volume) = volumes.iter().find(|volume| named(volume) && usable(volume)) {
        return Some(volume.clone());
    }
    let Choice::Free { node_chosen } = choice else { return None };
    let is_local = |volume: &PersistentVolume| {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        affinity.is_some_and(|affinity| affinity.required.is_some())
    };
    let free = |volume: &PersistentVolume| {
        usable(volume)
            && claim_reference(volume).is_none()
            && phase_of(volume) == "Available"
            && class_of_volume(volume) == class_of(claim)
            && is_selected(volume, claim)
            && allows_access(volume, claim)
            && !(node_chosen && is_local(volume))
    };
    volumes.into_iter().filter(|volume| free(volume)).min_by_key(|volume| size::capacity(volume))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const FREE: Choice = Choice::Free { node_chosen: false };

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({
            "metadata": {"name": name, "labels": {"tier": name}}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "slow"},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            volume["spec"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "d", "uid": "1"},
            "spec": {"resources": {"requests": {"storage": "2Gi"}}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "slow"},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            claim["spec"][key] = value.clone();
        }
        serde_json::from_value(claim).unwrap()
    }

    fn found(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], choice: Choice) -> Option<String> {
        best(claim, volumes.to_vec(), choice).and_then(|volume| volume.metadata.name.clone())
    }

    #[test]
    fn the_smallest_that_suits_is_taken() {
        let volumes = [
            volume("small", "1Gi", json!({})),
            volume("large", "8Gi", json!({})),
            volume("right", "3Gi", json!({})),
            volume("block", "2Gi", json!({"volumeMode": "Block"})),
            volume("class", "2Gi", json!({"storageClassName": "fast"})),
            volume("local", "2Gi", json!({"nodeAffinity": {"required": {"nodeSelectorTerms": []}}})),
            volume("taken", "2Gi", json!({"claimRef": {"name": "other", "namespace": "d"}})),
        ];
        assert_eq!(found(&claim(json!({})), &volumes, Choice::Free { node_chosen: true }).as_deref(), Some("right"));
        assert_eq!(found(&claim(json!({})), &volumes, FREE).as_deref(), Some("local"));
        let selected = claim(json!({"selector": {"matchLabels": {"tier": "large"}}}));
        assert_eq!(found(&selected, &volumes, FREE).as_deref(), Some("large"));
        assert_eq!(found(&claim(json!({"accessModes": ["ReadWriteMany"]})), &volumes, FREE), None);
        assert_eq!(found(&claim(json!({"storageClassName": ""})), &volumes, FREE), None);
        let huge = claim(json!({"resources": {"requests": {"storage": "nonsense"}}}));
        assert_eq!(found(&huge, &volumes, FREE), None);
    }

    #[test]
    fn one_that_names_the_claim_comes_first_and_one_of_an_earlier_claim_never() {
        let named = volume("named", "9Gi", json!({"claimRef": {"name": "c", "namespace": "d"}}));
        let earlier = volume("earlier", "2Gi", json!({"claimRef": {"name": "c", "namespace": "d", "uid": "0"}}));
        let free = volume("free", "2Gi", json!({}));
        let volumes = [free, earlier, named];
        assert_eq!(found(&claim(json!({})), &volumes, Choice::Named).as_deref(), Some("named"));
        assert_eq!(found(&claim(json!({})), &volumes[..2], Choice::Named), None);
        assert_eq!(found(&claim(json!({})), &volumes[..2], FREE).as_deref(), Some("free"));
    }

    #[test]
    fn objections_are_told() {
        let claim = claim(json!({}));
        assert_eq!(objection(&volume("v", "2Gi", json!({})), &claim), None);
        assert_eq!(objection(&volume("v", "1Gi", json!({})), &claim), Some("requested PV is too small"));
        let other = volume("v", "2Gi", json!({"storageClassName": null}));
        assert_eq!(objection(&other, &claim), Some("storageClassName does not match"));
    }
}
