//! What a stored object takes of its tenant's budgets besides room: pods and what they ask for, and volumes.

use std::collections::BTreeMap;

use hypernetes_api::types::volume::VolumeSpec;
use hypernetes_schema::requests::{self, CPU, MEMORY, PODS};
use hypernetes_store::{Key, METERED, Metered};
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::Deserialize;

use crate::stored_form;

#[derive(Deserialize)]
struct Volume {
    spec: VolumeSpec,
}

/// What counts of a pod: reading all of it would take the store's writer several times as long.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Slim {
    spec: SlimSpec,
    status: SlimStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SlimSpec {
    containers: Vec<SlimContainer>,
    init_containers: Vec<SlimContainer>,
    resources: Option<ResourceRequirements>,
    overhead: Option<BTreeMap<String, Quantity>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct SlimContainer {
    resources: Option<ResourceRequirements>,
    restart_policy: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SlimStatus {
    phase: String,
}

impl From<SlimContainer> for Container {
    fn from(slim: SlimContainer) -> Self {
        Self { resources: slim.resources, restart_policy: slim.restart_policy, ..Self::default() }
    }
}

impl From<SlimSpec> for PodSpec {
    fn from(slim: SlimSpec) -> Self {
        Self {
            containers: slim.containers.into_iter().map(Into::into).collect(),
            init_containers: Some(slim.init_containers.into_iter().map(Into::into).collect()),
            resources: slim.resources,
            overhead: slim.overhead,
            ..Self::default()
        }
    }
}

/// The store's meter. A pod that is over takes nothing, as upstream's quotas count; one that asks for what is no amount takes its
/// place alone, as no node gets it.
pub fn meter(key: &Key, value: &[u8]) -> Metered {
    match (key.group(), key.plural()) {
        ("", "pods") => pod(value),
        ("volume.hypernetes.io", "volumes") => {
            let volume: Option<Volume> = serde_json::from_slice(stored_form::json(value)).ok();
            [0, 0, 0, volume.map_or(0, |volume| volume.spec.size_bytes)]
        }
        _ => [0; METERED],
    }
}

fn pod(value: &[u8]) -> Metered {
    let Ok(Slim { spec, status }) = serde_json::from_slice(stored_form::json(value)) else { return [1, 0, 0, 0] };
    if matches!(status.phase.as_str(), "Succeeded" | "Failed") {
        return [0; METERED];
    }
    let Ok(taken) = requests::requests(&Pod { spec: Some(spec.into()), ..Pod::default() }) else { return [1, 0, 0, 0] };
    let amount = |name: &str| taken.get(name).map_or(0, |amount| u64::try_from(*amount).unwrap_or(u64::MAX));
    [amount(PODS), amount(CPU), amount(MEMORY), 0]
}

#[cfg(test)]
mod tests {
    use hypernetes_store::ResourceId;
    use serde_json::{Value, json};

    use super::*;

    fn metered(group: &str, plural: &str, object: Value) -> Metered {
        let tenant = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let key = Key::new(&ResourceId::new(group, plural), &tenant, "default", "x").unwrap();
        meter(&key, &stored_form::encode(&object).unwrap())
    }

    #[test]
    fn pods_count_until_they_are_over_and_volumes_by_their_size() {
        let pod = |phase: &str| {
            json!({"metadata": {"name": "x"}, "status": {"phase": phase}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}},
                {"name": "b", "resources": {"limits": {"cpu": "1"}}},
            ]}})
        };
        for running in ["", "Pending", "Running", "Unknown"] {
            assert_eq!(metered("", "pods", pod(running)), [1, 2500, 1 << 30, 0], "{running}");
        }
        for over in ["Succeeded", "Failed"] {
            assert_eq!(metered("", "pods", pod(over)), [0; METERED]);
        }
        let volume = json!({"metadata": {"name": "x"}, "spec": {"sizeBytes": 7}});
        assert_eq!(metered("volume.hypernetes.io", "volumes", volume), [0, 0, 0, 7]);
        let unreadable = json!({"metadata": {"name": "x"}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "-5", "memory": "200Ti"}}}]}});
        assert_eq!(metered("", "pods", unreadable), [1, 0, 0, 0]);
        let odd = json!({"metadata": {"name": "x"}, "spec": {"containers": 5, "sizeBytes": "many"}});
        assert_eq!(metered("", "pods", odd.clone()), [1, 0, 0, 0]);
        assert_eq!(metered("volume.hypernetes.io", "volumes", odd.clone()), [0; METERED]);
        assert_eq!(metered("", "configmaps", odd), [0; METERED]);
    }
}
