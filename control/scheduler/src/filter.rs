//! Whether a pod can run on a node, and why not: in upstream's words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, Pod, Taint, Toleration,
};

use hypernetes_schema::requests::{Amounts, CPU, PODS};

/// All reasons why the pod cannot run there; none: it can.
pub fn reasons(pod: &Pod, node: &Node, free: &Amounts, wanted: &Amounts, volumes: &[&PersistentVolume]) -> Vec<String> {
    let Some(spec) = &pod.spec else { return vec!["the pod has no spec".into()] };
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    // The first of these alone is told, as upstream stops at the first plugin that refuses.
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let cordon =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Default::default() };
    if cordoned && !tolerations.iter().any(|toleration| tolerates(toleration, &cordon)) {
        return vec!["node(s) were unschedulable".into()];
    }
    if let Some(taint) = untolerated(taints, tolerations) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
    }
    if !is_ready(node) {
        return vec!["node(s) were not ready".into()];
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if !has_labels(node, spec.node_selector.as_ref()) || required.is_some_and(|selector| !selects(selector, node)) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    let reachable = |volume: &&PersistentVolume| {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        affinity.and_then(|affinity| affinity.required.as_ref()).is_none_or(|selector| selects(selector, node))
    };
    if !volumes.iter().all(reachable) {
        return vec!["node(s) had volume node affinity conflict".into()];
    }
    wanted
        .iter()
        .filter(|(name, amount)| **amount > 0 && free.get(*name).copied().unwrap_or(0) < **amount)
        .map(|(name, _)| if name == PODS { "Too many pods".into() } else { format!("Insufficient {name}") })
        .collect()
}

pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_labels(node: &Node, wanted: Option<&BTreeMap<String, String>>) -> bool {
    let labels = node.metadata.labels.as_ref();
    wanted.into_iter().flatten().all(|(name, value)| labels.is_some_and(|labels| labels.get(name) == Some(value)))
}

/// `operator: Exists` without a key tolerates everything; without an effect, every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect, operator) = (text(&toleration.key), text(&toleration.effect), text(&toleration.operator));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match operator.as_str() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

/// The first taint that keeps the pod away.
fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// All requirements of a term; an empty term matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_ref() } else { None };
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|requirement| meets(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| meets(requirement, field(&requirement.key)))
}

fn meets(requirement: &NodeSelectorRequirement, have: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let numbers = || {
        let have = have?.parse::<i64>().ok()?;
        let [wanted] = values else { return None };
        Some((have, wanted.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => have.is_some_and(|have| values.contains(have)),
        "NotIn" => have.is_none_or(|have| !values.contains(have)),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => numbers().is_some_and(|(have, wanted)| have > wanted),
        "Lt" => numbers().is_some_and(|(have, wanted)| have < wanted),
        _ => false,
    }
}

/// How well a node that fits suits, more is better: it has much left (upstream's `LeastAllocated`), is preferred, and
/// has no taint that would rather not have the pod.
pub fn score(pod: &Pod, node: &Node, all: &Amounts, free: &Amounts, wanted: &Amounts) -> i64 {
    // Of each up to 100.
    let part = |name: &str, least: i128| {
        let all = all.get(name).copied().unwrap_or(0);
        let rest = free.get(name).copied().unwrap_or(0) - wanted.get(name).copied().unwrap_or(0).max(least);
        if all > 0 { i64::try_from(rest.max(0) * 100 / all).unwrap_or(100) } else { 0 }
    };
    // A pod that asks for nothing still weighs something, or all such pods went to one node.
    let left = i64::midpoint(part(CPU, 100), part(hypernetes_schema::requests::MEMORY, 200 << 20));
    let spec = pod.spec.as_ref();
    let affinity = spec.and_then(|spec| spec.affinity.as_ref()).and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let preferred = preferred.into_iter().flatten().filter(|term| term_matches(&term.preference, node));
    let preference = preferred.map(|term| i64::from(term.weight)).fold(0, i64::saturating_add);
    let tolerations = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let reluctant = taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule")
        .filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
        .count();
    let reluctance = i64::try_from(reluctant).unwrap_or(i64::MAX).saturating_mul(300);
    preference.saturating_mul(2).saturating_add(left).saturating_sub(reluctance)
}

/// `0/3 nodes are available: 1 Insufficient memory, 2 node(s) were unschedulable.`
pub fn summary(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use hypernetes_schema::requests::{allocatable, requests};

    fn node(spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}, "spec": spec,
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"},
                "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    fn pod(mut spec: Value) -> Pod {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn why(spec: Value, node: &Node) -> Vec<String> {
        let pod = pod(spec);
        reasons(&pod, node, &allocatable(node), &requests(&pod).unwrap(), &[])
    }

    #[test]
    fn resources_must_fit() {
        let node = node(json!({}));
        let asking = |cpu: &str, memory: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]});
        assert!(why(asking("2", "1Gi"), &node).is_empty());
        assert_eq!(why(asking("2001m", "2Gi"), &node), ["Insufficient cpu", "Insufficient memory"]);
        let full = Amounts::from([(PODS.to_owned(), 0)]);
        let pod = pod(json!({}));
        assert_eq!(reasons(&pod, &node, &full, &requests(&pod).unwrap(), &[]), ["Too many pods"]);
    }

    #[test]
    fn taints_keep_away_who_does_not_tolerate_them() {
        let node = node(json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"},
            {"key": "slow", "effect": "PreferNoSchedule"}]}));
        assert_eq!(why(json!({}), &node), ["node(s) had untolerated taint {gpu: yes}"]);
        let tolerating = |toleration: Value| why(json!({"tolerations": [toleration]}), &node).is_empty();
        assert!(tolerating(json!({"operator": "Exists"})));
        assert!(tolerating(json!({"key": "gpu", "value": "yes"})));
        assert!(tolerating(json!({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"})));
        assert!(!tolerating(json!({"key": "gpu", "value": "no"})));
        assert!(!tolerating(json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"})));
    }

    #[test]
    fn cordoned_and_unready_nodes_get_nothing() {
        assert_eq!(why(json!({}), &node(json!({"unschedulable": true}))), ["node(s) were unschedulable"]);
        let mut node = node(json!({}));
        node.status.as_mut().unwrap().conditions = None;
        assert_eq!(why(json!({}), &node), ["node(s) were not ready"]);
    }

    #[test]
    fn selectors_and_affinity_choose() {
        let node = node(json!({}));
        let fits = |spec: Value| why(spec, &node).is_empty();
        assert!(fits(json!({"nodeSelector": {"zone": "a"}})));
        assert!(!fits(json!({"nodeSelector": {"zone": "b"}})));
        let required = |requirement: Value, field: &str| {
            fits(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{field: [requirement]}]}}}}))
        };
        let labels = |key: &str, operator: &str, values: Value| {
            required(json!({"key": key, "operator": operator, "values": values}), "matchExpressions")
        };
        assert!(labels("zone", "In", json!(["a", "b"])) && !labels("zone", "NotIn", json!(["a"])));
        assert!(labels("cores", "Gt", json!(["4"])) && !labels("cores", "Lt", json!(["8"])));
        assert!(labels("zone", "Exists", json!([])) && !labels("none", "Exists", json!([])));
        assert!(required(json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}), "matchFields"));
        assert!(!required(json!({"key": "metadata.name", "operator": "In", "values": ["n2"]}), "matchFields"));
    }

    #[test]
    fn the_emptier_node_scores_more_and_the_preferred_more_still() {
        let node = node(json!({}));
        let (all, pod) = (allocatable(&node), pod(json!({})));
        let wanted = requests(&pod).unwrap();
        let mut half = all.clone();
        half.insert(CPU.into(), 1000);
        assert!(score(&pod, &node, &all, &all, &wanted) > score(&pod, &node, &all, &half, &wanted));
    }

    #[test]
    fn the_summary_is_upstreams() {
        let reasons =
            BTreeMap::from([("Insufficient memory".to_owned(), 1), ("node(s) were unschedulable".to_owned(), 2)]);
        assert_eq!(
            summary(3, &reasons),
            "0/3 nodes are available: 1 Insufficient memory, 2 node(s) were unschedulable."
        );
    }
}
