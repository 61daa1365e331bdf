//! Whether this node takes a pod that is bound to it: whoever bound it, the node's own arithmetic has the last word.
//!
//! Upstream's kubelet does the same (`pkg/kubelet/lifecycle`); reasons and messages are its own.

use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};

use crate::{
    node::allocatable::Allocatable,
    pod::{rejection::Rejection, spec::resources::checked_request},
    quantity::{Amount, InvalidAmount},
};

/// `others`: the pods that the node has taken already, and that are not over.
///
/// # Errors
/// The first reason against the pod.
pub fn admit(has: &Allocatable, node: &Node, others: &[PodSpec], spec: &PodSpec) -> Result<(), Rejection> {
    if others.len() >= has.pods {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        return Err(Rejection::short("OutOfpods", "pods", 1, count(others.len()), count(has.pods)));
    }
    for (resource, reason, capacity, shown) in [
        ("cpu", "OutOfcpu", has.cpu, Amount::millis as fn(Amount) -> i64),
        ("memory", "OutOfmemory", has.memory, Amount::units),
    ] {
        let requested =
            requests(spec, resource).map_err(|error| Rejection::invalid(format!("requests of {resource}: {error}")))?;
        // What could not be read was not admitted.
        let used = others.iter().filter_map(|other| requests(other, resource).ok());
        let used = used.fold(Amount::default(), Amount::plus);
        if requested > Amount::default() && used.plus(requested) > capacity {
            return Err(Rejection::short(reason, resource, shown(requested), shown(used), shown(capacity)));
        }
    }
    let taken: Vec<_> = others.iter().flat_map(host_ports).collect();
    if host_ports(spec).iter().any(|wanted| taken.iter().any(|held| wanted.conflicts(held))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::predicate("NodePorts", why));
    }
    let taints = node.spec.iter().flat_map(|node| node.taints.iter().flatten());
    let mut hard = taints.filter(|taint| taint.effect == "NoExecute");
    if hard.any(|taint| !spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))) {
        let why = "node(s) had taints that the pod didn't tolerate";
        return Err(Rejection::predicate("TaintToleration", why));
    }
    Ok(())
}

/// What a pod asks for in all: its containers together, or its largest init container if that is more, with the sidecars
/// that run beside them, and its overhead. What is asked for the pod as a whole goes before.
fn requests(spec: &PodSpec, resource: &str) -> Result<Amount, InvalidAmount> {
    let overhead = Amount::of(spec.overhead.as_ref(), resource)?.unwrap_or_default();
    let whole = spec.resources.as_ref();
    if let Some(whole) = Amount::of(whole.and_then(|r| r.requests.as_ref()), resource)? {
        return Ok(whole.plus(overhead));
    }
    let (mut sidecars, mut most) = (Amount::default(), Amount::default());
    for init in spec.init_containers.iter().flatten() {
        let own = checked_request(init, resource)?;
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(own);
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars.plus(own));
        }
    }
    let mut sum = sidecars;
    for container in &spec.containers {
        sum = sum.plus(checked_request(container, resource)?);
    }
    Ok(sum.max(most).plus(overhead))
}

#[derive(PartialEq, Eq)]
struct HostPort<'a> {
    address: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    fn conflicts(&self, other: &Self) -> bool {
        let same_address = self.address == other.address || self.address == ANY || other.address == ANY;
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

const ANY: &str = "0.0.0.0";

fn host_ports(spec: &PodSpec) -> Vec<HostPort<'_>> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    let on_host = ports.filter_map(|port| {
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or(ANY);
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort { address, protocol: port.protocol.as_deref().unwrap_or("TCP"), port: number })
    });
    on_host.collect()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        // Without a key all are meant, which takes "Exists".
        None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn asking(requests: Value) -> PodSpec {
        spec(json!({"containers": [{"name": "a", "resources": {"requests": requests}}]}))
    }

    fn reason(node: Value, others: &[PodSpec], wanted: &PodSpec) -> Option<Rejection> {
        let parse = |text| Amount::parse(text).unwrap();
        let has = Allocatable { cpu: parse("2"), memory: parse("1Gi"), pods: 3 };
        admit(&has, &serde_json::from_value(node).unwrap(), others, wanted).err()
    }

    #[test]
    fn requests_are_summed_against_what_there_is() {
        let half = asking(json!({"cpu": "1", "memory": "512Mi"}));
        let others = [half.clone(), half.clone()];
        assert_eq!(reason(json!({}), &others[..1], &half), None);
        assert_eq!(reason(json!({}), &others, &asking(json!({}))), None, "what asks for nothing is always taken");
        let short = reason(json!({}), &others[..1], &asking(json!({"cpu": "1001m"}))).unwrap();
        assert_eq!(short.reason, "OutOfcpu");
        assert_eq!(short.message, "Node didn't have enough resource: cpu, requested: 1001, used: 1000, capacity: 2000");
        assert_eq!(reason(json!({}), &others, &asking(json!({"memory": "1"}))).unwrap().reason, "OutOfmemory");
        let three = [half.clone(), asking(json!({})), asking(json!({}))];
        let full = reason(json!({}), &three, &asking(json!({}))).unwrap();
        assert_eq!(full.message, "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3");
        // A negative request neither comes in nor makes room for others.
        let negative = asking(json!({"memory": "-200Gi"}));
        assert_eq!(reason(json!({}), &[], &negative).unwrap().reason, "InvalidPod");
        let large = asking(json!({"memory": "2Gi"}));
        assert_eq!(reason(json!({}), &[negative], &large).unwrap().reason, "OutOfmemory");
        let huge = asking(json!({"memory": "9223372036854775807"}));
        assert_eq!(reason(json!({}), &[huge.clone(), huge.clone()], &huge).unwrap().reason, "OutOfmemory");
    }

    #[test]
    fn a_pods_requests_are_its_largest_moment() {
        let pod = spec(json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                {"name": "i", "resources": {"limits": {"cpu": "5"}}},
            ],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}],
            "overhead": {"cpu": "250m"},
        }));
        assert_eq!(requests(&pod, "cpu").unwrap().millis(), 6250);
        assert_eq!(requests(&pod, "memory").unwrap().millis(), 0);
    }

    #[test]
    fn a_port_of_the_host_is_one_pods() {
        let on = |port: Value| spec(json!({"containers": [{"name": "a", "ports": [port]}]}));
        let web = on(json!({"containerPort": 80, "hostPort": 80}));
        let conflict = |port| reason(json!({}), std::slice::from_ref(&web), &on(port)).map(|r| r.message);
        assert_eq!(
            conflict(json!({"containerPort": 8080, "hostPort": 80, "hostIP": "127.0.0.1"})).unwrap(),
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        );
        assert_eq!(conflict(json!({"containerPort": 80, "hostPort": 81})), None);
        assert_eq!(conflict(json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"})), None);
        assert_eq!(conflict(json!({"containerPort": 80})), None);
    }

    #[test]
    fn taints_that_are_not_tolerated_keep_pods_away() {
        let node = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
        let tolerating = |toleration: Value| spec(json!({"containers": [], "tolerations": [toleration]}));
        let plain = asking(json!({}));
        let refused = reason(node("NoExecute"), &[], &plain).unwrap();
        assert_eq!(
            refused.message,
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
        );
        // As upstream: that one is the scheduler's.
        assert_eq!(reason(node("NoSchedule"), &[], &plain), None);
        for good in [
            json!({"operator": "Exists"}),
            json!({"key": "k", "value": "v"}),
            json!({"key": "k", "operator": "Exists"}),
        ] {
            assert_eq!(reason(node("NoExecute"), &[], &tolerating(good.clone())), None, "{good}");
        }
        for bad in [
            json!({"key": "k"}),
            json!({"key": "x", "operator": "Exists"}),
            json!({"value": "v"}),
            json!({"operator": "Exists", "effect": "NoSchedule"}),
        ] {
            assert!(reason(node("NoExecute"), &[], &tolerating(bad.clone())).is_some(), "{bad}");
        }
    }
}
