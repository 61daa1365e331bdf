//! What pods ask for and nodes have: cpu in thousandths of a core, everything else in whole units. The scheduler places pods by it,
//! and tenants' quotas count it.

use std::collections::BTreeMap;

use crate::quantity::{ParseQuantityError, Quantity};
use k8s_openapi::{
    api::core::v1::{Container, Node, Pod},
    apimachinery::pkg::api::resource,
};

/// Amounts by resource name. Exact: of each quantity at most an `i64`, so that no sum of them overflows.
pub type Amounts = BTreeMap<String, i128>;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";

/// Why a quantity asks for nothing that a node could have, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("resource {name}: Invalid value: {text:?}: must be greater than or equal to 0")]
    Negative { name: String, text: String },
    #[error("resource {name}: Invalid value: {text:?}: {why}")]
    Unreadable { name: String, text: String, why: ParseQuantityError },
}

fn amount(name: &str, quantity: &resource::Quantity) -> Result<i128, Refusal> {
    let short = |text: &str| text.chars().take(80).collect::<String>();
    let refused = || (short(name), short(&quantity.0));
    let parsed = Quantity::parse(&quantity.0).map_err(|why| {
        let (name, text) = refused();
        Refusal::Unreadable { name, text, why }
    })?;
    if parsed.is_negative() {
        let (name, text) = refused();
        return Err(Refusal::Negative { name, text });
    }
    Ok(i128::from(if name == CPU { parsed.milli() } else { parsed.value() }))
}

type Quantities = BTreeMap<String, resource::Quantity>;

fn amounts(quantities: Option<&Quantities>) -> Result<Amounts, Refusal> {
    quantities.into_iter().flatten().map(|(name, quantity)| Ok((name.clone(), amount(name, quantity)?))).collect()
}

/// [`amounts`] of what is there whatever it says: what is no amount takes no room and gives none.
fn lenient(quantities: Option<&Quantities>) -> Amounts {
    let each = quantities.into_iter().flatten();
    each.map(|(name, quantity)| (name.clone(), amount(name, quantity).unwrap_or(0))).collect()
}

/// A container's requests; a limit without a request is one.
fn of_container(container: &Container, read: Read) -> Result<Amounts, Refusal> {
    let resources = container.resources.as_ref();
    let mut all = read(resources.and_then(|resources| resources.limits.as_ref()))?;
    all.extend(read(resources.and_then(|resources| resources.requests.as_ref()))?);
    Ok(all)
}

type Read = fn(Option<&Quantities>) -> Result<Amounts, Refusal>;

pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum += *amount;
    }
}

pub fn subtract(from: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        let rest = from.entry(name.clone()).or_default();
        *rest -= *amount;
    }
}

/// What a pod needs of a node: its containers and sidecars together, or the largest of its init containers with the
/// sidecars that run by then, and the overhead; and one place (KEP-753).
///
/// # Errors
/// When a quantity is negative or none: no node has that, and none gets room by it.
pub fn requests(pod: &Pod) -> Result<Amounts, Refusal> {
    sum(pod, amounts)
}

/// What a pod takes that is on its node already. What is no amount takes nothing.
pub fn taken(pod: &Pod) -> Amounts {
    // That way of reading refuses nothing.
    sum(pod, |quantities| Ok(lenient(quantities))).unwrap_or_default()
}

fn sum(pod: &Pod, read: Read) -> Result<Amounts, Refusal> {
    let Some(spec) = &pod.spec else { return Ok(Amounts::new()) };
    let mut running = Amounts::new();
    let mut peak = Amounts::new();
    for init in spec.init_containers.iter().flatten() {
        let own = of_container(init, read)?;
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
        add(&mut running, &of_container(container, read)?);
    }
    for (name, amount) in peak {
        let most = running.entry(name).or_default();
        *most = amount.max(*most);
    }
    // What is asked for the pod as a whole goes before (KEP-2837).
    running.extend(read(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))?);
    add(&mut running, &read(spec.overhead.as_ref())?);
    running.insert(PODS.into(), 1);
    Ok(running)
}

/// What a node has for pods.
pub fn allocatable(node: &Node) -> Amounts {
    lenient(node.status.as_ref().and_then(|status| status.allocatable.as_ref()))
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
        assert_eq!(
            requests(&pod).unwrap(),
            expected.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
        );
        let whole: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"cpu": "1"},
            "resources": {"requests": {"cpu": "3"}, "limits": {"memory": "1Gi"}},
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "4", "memory": "64Mi"}}}],
        }}))
        .unwrap();
        let all = requests(&whole).unwrap();
        assert_eq!((all[CPU], all[MEMORY]), (4000, 64 << 20));
    }

    #[test]
    fn nothing_negative_or_unreadable_is_asked_for_and_none_gives_room() {
        for text in ["-200Gi", "-1m", "", "ten", "1GB", "0x10", "-9223372036854775808", &"9".repeat(500)] {
            for (field, name) in [("requests", MEMORY), ("limits", CPU), ("requests", "example.com/x")] {
                let container = |text: &str| json!({"name": "c", "resources": {field: {name: text}}});
                let pods = [
                    json!({"spec": {"containers": [container("1"), container(text)]}}),
                    json!({"spec": {"containers": [], "initContainers": [container(text)]}}),
                    json!({"spec": {"containers": [container("1")], "overhead": {name: text}}}),
                ];
                for pod in pods {
                    let pod: Pod = serde_json::from_value(pod).unwrap();
                    let refusal = requests(&pod).unwrap_err().to_string();
                    assert!(refusal.contains(name) && refusal.len() < 300, "{refusal}");
                    assert!(taken(&pod).values().all(|amount| *amount >= 0));
                }
            }
        }
    }

    #[test]
    fn sums_of_the_largest_are_exact() {
        let most = json!({"name": "c", "resources": {"requests": {"memory": "1e60", "cpu": "1e60"}}});
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [most.clone(), most.clone(), most]}})).unwrap();
        let mut all = Amounts::new();
        for _ in 0..1000 {
            add(&mut all, &requests(&pod).unwrap());
        }
        assert_eq!(all[MEMORY], 3000 * i128::from(i64::MAX));
        subtract(&mut all, &requests(&pod).unwrap());
        assert_eq!(all[MEMORY], 2997 * i128::from(i64::MAX));
    }
}
