//! What a pod's containers ask for, and may take, together.

use hypernetes_schema::walk::list;
use serde_json::Value;

use crate::amounts::{self, Amounts};

/// A list of a container's `resources`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Requests,
    Limits,
}

impl Of {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// What is looked at besides the containers' specifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// What the pod says of itself as a whole: as limit ranges see it.
    Specified,
    /// Also what its containers have while they are resized, and its overhead: as quotas see it.
    Held,
}

/// Containers and sidecars together, or the most that they and one of the init containers come to (KEP-753); what is said of the pod as a
/// whole goes before (KEP-2837).
pub fn total(pod: &Value, of: Of, view: View) -> Amounts {
    let spec = &pod["spec"];
    let (mut running, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in list(spec, "containers") {
        amounts::add(&mut running, &of_container(pod, container, "containerStatuses", of, view));
    }
    for container in list(spec, "initContainers") {
        let is_sidecar = container["restartPolicy"] == "Always";
        let view = if is_sidecar { view } else { View::Specified };
        let own = of_container(pod, container, "initContainerStatuses", of, view);
        if is_sidecar {
            amounts::add(&mut running, &own);
            amounts::add(&mut sidecars, &own);
            amounts::at_least(&mut peak, &sidecars);
        } else {
            let mut now = own;
            amounts::add(&mut now, &sidecars);
            amounts::at_least(&mut peak, &now);
        }
    }
    amounts::at_least(&mut running, &peak);
    let whole = amounts::read(&spec["resources"][of.field()]);
    running.extend(whole.into_iter().filter(|(name, _)| can_be_of_a_pod(name, view)));
    if view == View::Held {
        for (name, amount) in amounts::read(&spec["overhead"]) {
            match running.get_mut(&name) {
                Some(sum) if of == Of::Requests || !sum.is_zero() => *sum = *sum + amount,
                None if of == Of::Requests => drop(running.insert(name, amount)),
                _ => {}
            }
        }
    }
    running
}

/// Whether a pod says as a whole what it asks for.
pub fn is_set_as_a_whole(pod: &Value) -> bool {
    [Of::Requests, Of::Limits].iter().any(|of| {
        let list = pod["spec"]["resources"][of.field()].as_object();
        list.is_some_and(|list| list.keys().any(|name| can_be_of_a_pod(name, View::Held)))
    })
}

fn can_be_of_a_pod(name: &str, view: View) -> bool {
    matches!(name, "cpu" | "memory") || (view == View::Held && name.starts_with("hugepages-"))
}

/// While a container is resized the larger counts of what it has and what it will have (KEP-1287).
fn of_container(pod: &Value, container: &Value, statuses: &str, of: Of, view: View) -> Amounts {
    let mut specified = amounts::read(&container["resources"][of.field()]);
    let status = list(&pod["status"], statuses).iter().find(|status| status["name"] == container["name"]);
    let Some(status) = status.filter(|status| view == View::Held && status["resources"].is_object()) else {
        return specified;
    };
    let mut held = amounts::read(&status["resources"][of.field()]);
    if of == Of::Requests {
        amounts::at_least(&mut held, &amounts::read(&status["allocatedResources"]));
    }
    if is_infeasible(pod) {
        return held;
    }
    amounts::at_least(&mut specified, &held);
    specified
}

/// Its node can never have what it shall be resized to.
fn is_infeasible(pod: &Value) -> bool {
    let pending = list(&pod["status"], "conditions").iter().find(|one| one["type"] == "PodResizePending");
    pending.is_some_and(|one| one["reason"] == "Infeasible")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(amounts: &Amounts) -> Vec<String> {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn init_containers_count_by_their_peak_and_overhead_for_quotas_only() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "3"}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {"containers": [container("1")], "overhead": {"cpu": "10m", "memory": "1Mi"},
            "initContainers": [sidecar, container("2")]}});
        assert_eq!(texts(&total(&pod, Of::Requests, View::Specified)), ["cpu=2100m"]);
        assert_eq!(texts(&total(&pod, Of::Requests, View::Held)), ["cpu=2110m", "memory=1Mi"]);
        assert_eq!(texts(&total(&pod, Of::Limits, View::Held)), ["cpu=6010m"]);
    }

    #[test]
    fn a_container_that_is_resized_counts_by_the_larger() {
        let pod = |reason: &str| {
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]}, "status": {
                "conditions": [{"type": "PodResizePending", "reason": reason}],
                "containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": "2"}}]}})
        };
        assert_eq!(texts(&total(&pod("Deferred"), Of::Requests, View::Held)), ["cpu=3"]);
        assert_eq!(texts(&total(&pod("Infeasible"), Of::Requests, View::Held)), ["cpu=2"]);
        assert_eq!(texts(&total(&pod("Infeasible"), Of::Requests, View::Specified)), ["cpu=3"]);
    }

    #[test]
    fn what_is_said_of_the_pod_goes_before() {
        let pod = json!({"spec": {"resources": {"requests": {"cpu": "5", "hugepages-2Mi": "2Mi"}},
            "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}});
        assert_eq!(texts(&total(&pod, Of::Requests, View::Specified)), ["cpu=5", "memory=1Gi"]);
        assert_eq!(texts(&total(&pod, Of::Requests, View::Held)), ["cpu=5", "hugepages-2Mi=2Mi", "memory=1Gi"]);
        assert!(is_set_as_a_whole(&pod));
    }
}
