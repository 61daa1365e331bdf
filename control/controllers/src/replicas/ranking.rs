//! Which pods go first when there are too many: upstream's order (`ActivePodsWithRanks`).

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Neither ended nor going.
pub fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}

/// Since when the pod is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Ready for at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    ready_since(pod).is_some_and(|since| since.duration_until(now).as_secs() >= i64::from(min_ready_seconds))
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(DELETION_COST)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn phase(pod: &Pod) -> u8 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    }
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
}

/// Who goes first is less. `crowd`: how many of the set's pods are on the pod's node.
fn compare(a: &Pod, b: &Pod, crowd: &HashMap<String, usize>) -> Ordering {
    let on = |pod: &Pod| crowd.get(node(pod)).copied().unwrap_or(0);
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let (ready_a, ready_b) = (ready_since(a), ready_since(b));
    (!node(a).is_empty())
        .cmp(&!node(b).is_empty())
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| ready_a.is_some().cmp(&ready_b.is_some()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| on(b).cmp(&on(a)))
        // Those that became ready last go first, as do those that restarted most and those that are youngest.
        .then_with(|| ready_b.cmp(&ready_a))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(b).cmp(&created(a)))
}

/// The `count` pods to delete.
pub fn victims(mut pods: Vec<Arc<Pod>>, count: usize) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<String, usize> = HashMap::new();
    for pod in &pods {
        *crowd.entry(node(pod).to_owned()).or_default() += 1;
    }
    pods.sort_by(|a, b| compare(a, b, &crowd));
    pods.truncate(count);
    pods
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: Option<&str>, cost: &str) -> Arc<Pod> {
        let conditions: Vec<_> =
            ready.map(|at| json!({"type": "Ready", "status": "True", "lastTransitionTime": at})).into_iter().collect();
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {DELETION_COST: cost}},
            "spec": {"containers": []}, "status": {"phase": phase, "conditions": conditions},
        });
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_least_useful_go_first() {
        let (early, late) = (Some("2026-01-01T00:00:10Z"), Some("2026-01-01T00:00:20Z"));
        let pods = vec![
            pod("old", "n1", "Running", early, "0"),
            pod("dear", "n2", "Running", late, "9"),
            pod("young", "n2", "Running", late, "0"),
            pod("starting", "n1", "Running", None, "0"),
            pod("pulling", "n1", "Pending", None, "0"),
            pod("unplaced", "", "Pending", None, "0"),
        ];
        let order: Vec<String> =
            victims(pods, 6).iter().map(|pod| pod.metadata.name.clone().unwrap_or_default()).collect();
        // "old" is on the fuller node, which weighs more than how long it has been ready.
        assert_eq!(order, ["unplaced", "pulling", "starting", "old", "young", "dear"]);
    }

    #[test]
    fn available_is_ready_for_long_enough() {
        let pod = pod("a", "n", "Running", Some("2026-01-01T00:00:10Z"), "0");
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(is_available(&pod, 0, at("2026-01-01T00:00:10Z")));
        assert!(!is_available(&pod, 10, at("2026-01-01T00:00:19Z")));
        assert!(is_available(&pod, 10, at("2026-01-01T00:00:20Z")));
    }
}
