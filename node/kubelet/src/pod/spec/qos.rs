//! Quality of service: a pod's class, and who ends first where memory is short.

use k8s_openapi::api::core::v1::{Container as ContainerSpec, PodSpec};

use super::resources::request;
use crate::quantity::Amount;

/// The kernel's adjustment of a container's score, from -1000 (never ended) to 1000 (the first).
const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;
/// What is between: above what guards the node, and below those that asked for nothing.
const BURSTABLE: std::ops::RangeInclusive<i64> = 2..=999;
const NODE_CRITICAL: &str = "system-node-critical";

/// The pod's class, by what its containers ask for.
pub fn class(spec: &PodSpec) -> &'static str {
    let resources: Vec<_> = spec.containers.iter().map(|c| c.resources.clone().unwrap_or_default()).collect();
    let empty = |r: &k8s_openapi::api::core::v1::ResourceRequirements| {
        r.limits.as_ref().is_none_or(|l| l.is_empty()) && r.requests.as_ref().is_none_or(|l| l.is_empty())
    };
    if resources.iter().all(empty) {
        return "BestEffort";
    }
    let guaranteed = resources.iter().all(|r| {
        let limits = r.limits.clone().unwrap_or_default();
        ["cpu", "memory"].iter().all(|name| {
            limits
                .get(*name)
                .is_some_and(|limit| r.requests.as_ref().and_then(|q| q.get(*name)).is_none_or(|q| q == limit))
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// `node_memory`: bytes that this node has.
pub fn oom_score_adj(spec: &PodSpec, wanted: &ContainerSpec, node_memory: Amount) -> i64 {
    if spec.priority_class_name.as_deref() == Some(NODE_CRITICAL) {
        return GUARANTEED;
    }
    match class(spec) {
        "Guaranteed" => GUARANTEED,
        "BestEffort" => BEST_EFFORT,
        // The more a container has asked for, the less it is one that took what it was not promised.
        _ => {
            let is_sidecar = wanted.restart_policy.as_deref() == Some("Always");
            let least = spec.containers.iter().map(|container| burstable(container, node_memory)).min();
            let own = burstable(wanted, node_memory);
            // What the others rely on goes no sooner than they.
            if is_sidecar { own.min(least.unwrap_or(own)) } else { own }
        }
    }
}

fn burstable(container: &ContainerSpec, node_memory: Amount) -> i64 {
    let requested = i128::from(request(container, "memory").unwrap_or_default().units());
    let share = (1000 * requested).checked_div(node_memory.units().into()).unwrap_or(0);
    let score = i64::try_from(1000 - share).unwrap_or(*BURSTABLE.start());
    score.clamp(*BURSTABLE.start(), *BURSTABLE.end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_follow_the_class_and_what_was_asked_for() {
        let pod = |spec| serde_json::from_value::<PodSpec>(spec).unwrap();
        let score = |spec: &PodSpec| oom_score_adj(spec, &spec.containers[0], Amount::from_units(8 << 30));
        let with = |resources| pod(json!({"containers": [{"name": "a", "resources": resources}]}));
        assert_eq!(score(&with(json!({}))), 1000);
        assert_eq!(score(&with(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), -997);
        assert_eq!(score(&with(json!({"requests": {"memory": "2Gi"}}))), 750);
        assert_eq!(score(&with(json!({"requests": {"cpu": "1"}}))), 999);
        assert_eq!(score(&with(json!({"requests": {"memory": "8Gi"}}))), 2);
        assert_eq!(score(&with(json!({"limits": {"memory": "2Gi"}}))), 750);
        let critical = pod(json!({"priorityClassName": NODE_CRITICAL, "containers": [{"name": "a"}]}));
        assert_eq!(score(&critical), -997);
        let spec = pod(json!({
            "containers": [{"name": "a", "resources": {"requests": {"memory": "4Gi"}}}],
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
        }));
        let init = spec.init_containers.as_ref().unwrap();
        assert_eq!(
            [&init[0], &init[1]].map(|container| oom_score_adj(&spec, container, Amount::from_units(8 << 30))),
            [500, 999]
        );
    }
}
