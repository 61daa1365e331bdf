//! What pods ask for and nodes have: cpu in thousandths of a core, everything else in whole units.

use std::collections::BTreeMap;

use hypernetes_schema::quantity::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, Node, Pod},
    apimachinery::pkg::api::resource,
};

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, i64>;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";

fn amount(name: &str, quantity: &resource::Quantity) -> i64 {
    // What is no quantity was refused when it was written.
    let parsed = Quantity::parse(&quantity.0);
    parsed.map_or(0, |quantity| if name == CPU { quantity.milli() } else { quantity.value() })
}

fn amounts(quantities: Option<&BTreeMap<String, resource::Quantity>>) -> Amounts {
    quantities.into_iter().flatten().map(|(name, quantity)| (name.clone(), amount(name, quantity))).collect()
}

/// A container's requests; a limit without a request is one.
fn of_container(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let mut all = amounts(resources.and_then(|resources| resources.limits.as_ref()));
    all.extend(amounts(resources.and_then(|resources| resources.requests.as_ref())));
    all
}

pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

pub fn subtract(from: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        let rest = from.entry(name.clone()).or_default();
        *rest = rest.saturating_sub(*amount);
    }
}

/// What a pod needs of a node: its containers and sidecars together, or the largest of its init containers with the
/// sidecars that run by then, and the overhead; and one place (KEP-753).
pub fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut running = Amounts::new();
    let mut peak = Amounts::new();
    for init in spec.init_containers.iter().flatten() {
        let own = of_container(init);
        let mut now = running.clone();
        add(&mut now, &own);
        for (name, amount) in now {
            let most = peak.entry(name).or_default();
            *most = amount.max(*most);
        }
        if init.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &own);
        }
    }
    for container in &spec.containers {
        add(&mut running, &of_container(container));
    }
    for (name, amount) in peak {
        let most = running.entry(name).or_default();
        *most = amount.max(*most);
    }
    add(&mut running, &amounts(spec.overhead.as_ref()));
    running.insert(PODS.into(), 1);
    running
}

/// What a node has for pods.
pub fn allocatable(node: &Node) -> Amounts {
    amounts(node.status.as_ref().and_then(|status| status.allocatable.as_ref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_always() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"memory": "10Mi"},
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "2", "memory": "1Mi"}}},
            ],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "64Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "0.5"}}},
            ],
        }}))
        .unwrap();
        let expected = [(CPU, 2100), (MEMORY, 74 << 20), (PODS, 1)];
        assert_eq!(requests(&pod), expected.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect());
    }
}
