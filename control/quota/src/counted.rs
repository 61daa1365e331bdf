//! How much an object takes of a quota, by its kind.

use std::collections::{BTreeMap, BTreeSet};

use hypernetes_schema::{quantity::Quantity, walk::list};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    amounts::{self, Amounts},
    pod::{self, Of, View},
    scope::{Scope, is_terminating},
};

/// How objects of a kind are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    Pods,
    Services,
    Claims,
    /// By their number alone, under these names.
    Objects {
        count: String,
        alias: Option<&'static str>,
    },
}

const OF_PODS: [&str; 11] = [
    "count/pods",
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const OF_SERVICES: [&str; 4] = ["count/services", "services", "services.nodeports", "services.loadbalancers"];
const OF_CLAIMS: [&str; 3] = ["count/persistentvolumeclaims", "persistentvolumeclaims", "requests.storage"];
/// Counted under these names before there was `count/`.
const ALIASES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
/// Of these a quota has never counted any.
const NEVER: [&str; 2] = ["bindings", "events"];
/// A container has to say what it asks for of these where a quota is about them. Upstream calls that a mistake of its own.
const HAS_TO_BE_SAID: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const OF_A_CLASS: &str = ".storageclass.storage.k8s.io/";

impl Counted {
    /// None: a quota does not count them.
    pub fn of(group: &str, plural: &str) -> Option<Self> {
        Some(match (group, plural) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("", plural) if NEVER.contains(&plural) => return None,
            ("", plural) => {
                let alias = ALIASES.into_iter().find(|alias| *alias == plural);
                Self::Objects { count: format!("count/{plural}"), alias }
            }
            (group, plural) => Self::Objects { count: format!("count/{plural}.{group}"), alias: None },
        })
    }

    /// Group and plural of what is counted under a name; none: nothing is.
    pub fn named(name: &str) -> Option<(&str, &str)> {
        if let Some(resource) = name.strip_prefix("count/") {
            let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
            return Some((group, plural));
        }
        let core = |counted: &Self| counted.counts(name);
        match name {
            name if ALIASES.contains(&name) => Some(("", name)),
            _ if core(&Self::Claims) => Some(("", "persistentvolumeclaims")),
            _ if core(&Self::Services) => Some(("", "services")),
            _ if core(&Self::Pods) => Some(("", "pods")),
            _ => None,
        }
    }

    /// Whether it is counted under this name.
    pub fn counts(&self, name: &str) -> bool {
        match self {
            Self::Pods => {
                OF_PODS.contains(&name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || name.strip_prefix("requests.").is_some_and(|_| is_extended(name))
            }
            Self::Services => OF_SERVICES.contains(&name),
            Self::Claims => {
                let of_class = name.rsplit_once(OF_A_CLASS).map(|(_, resource)| resource);
                OF_CLAIMS.contains(&name)
                    || of_class
                        .is_some_and(|resource| ["persistentvolumeclaims", "requests.storage"].contains(&resource))
            }
            Self::Objects { count, alias } => count == name || *alias == Some(name),
        }
    }

    pub(crate) fn is_in(&self, scope: &Scope, object: &Value) -> bool {
        match self {
            Self::Pods => scope.has_pod(object),
            Self::Claims => scope.has_claim(object),
            Self::Services | Self::Objects { .. } => false,
        }
    }

    /// Whether a change of an object can be one of what it takes.
    pub fn is_changed(&self, subresource: Option<&str>, old: &Value, new: &Value) -> bool {
        match (self, subresource) {
            (Self::Pods, None) => is_terminating(old) != is_terminating(new),
            (Self::Pods, Some("resize")) | (Self::Services, None) | (Self::Claims, None | Some("status")) => true,
            _ => false,
        }
    }

    /// What an object takes, by all names that it is counted under.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Self::Pods => of_pod(object, now),
            Self::Services => of_service(object),
            Self::Claims => of_claim(object),
            Self::Objects { count, alias } => {
                let names = alias.iter().map(|alias| (*alias).to_owned()).chain([count.clone()]);
                names.map(|name| (name, Quantity::count(1))).collect()
            }
        }
    }

    /// From when on an object takes less though it stays as it is.
    pub fn less_at(&self, object: &Value) -> Option<Timestamp> {
        if *self == Self::Pods { over_at(object) } else { None }
    }

    /// What an object has to say where a quota is about these names, and does not.
    pub(crate) fn missing(&self, names: &[&str], object: &Value) -> Option<String> {
        if *self != Self::Pods || pod::is_set_as_a_whole(object) {
            return None;
        }
        let mut missing = BTreeMap::<&str, BTreeSet<&str>>::new();
        for container in list(&object["spec"], "containers").iter().chain(list(&object["spec"], "initContainers")) {
            let said = compute(
                &amounts::read(&container["resources"]["requests"]),
                &amounts::read(&container["resources"]["limits"]),
            );
            let unsaid = names.iter().filter(|name| HAS_TO_BE_SAID.contains(name) && !said.contains_key(**name));
            for name in unsaid {
                missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
            }
        }
        let each = missing
            .into_iter()
            .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")));
        let each: Vec<String> = each.collect();
        (!each.is_empty()).then(|| format!("must specify {}", each.join("; ")))
    }
}

/// With a domain that is not Kubernetes' own, or of a class of devices.
fn is_extended(name: &str) -> bool {
    let device = name.trim_start_matches("requests.").starts_with("deviceclass.resource.kubernetes.io/");
    (name.contains('/') && !name.contains("kubernetes.io/")) || device
}

/// Requests and limits under the names that quotas have for them; and one pod.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut all = Amounts::from([("pods".to_owned(), Quantity::count(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = requests.get(name) {
            all.extend([(name.to_owned(), *amount), (format!("requests.{name}"), *amount)]);
        }
        all.extend(limits.get(name).map(|amount| (format!("limits.{name}"), *amount)));
    }
    for (name, amount) in requests {
        if name.starts_with("hugepages-") {
            all.extend([(name.clone(), *amount), (format!("requests.{name}"), *amount)]);
        } else if !name.starts_with("requests.") && is_extended(name) {
            all.insert(format!("requests.{name}"), *amount);
        }
    }
    all
}

fn of_pod(pod: &Value, now: Timestamp) -> Amounts {
    let mut all = match is_over(pod, now) {
        true => Amounts::new(),
        false => {
            let [requests, limits] = [Of::Requests, Of::Limits].map(|of| pod::total(pod, of, View::Held));
            compute(&requests, &limits)
        }
    };
    all.insert("count/pods".into(), Quantity::count(1));
    all
}

/// It takes nothing of its node any more; or it should be gone by now, whatever its node says.
fn is_over(pod: &Value, now: Timestamp) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed") || over_at(pod).is_some_and(|at| now > at)
}

/// From when on a pod that is deleted takes nothing, if it should still be there.
fn over_at(pod: &Value) -> Option<Timestamp> {
    let metadata = &pod["metadata"];
    let grace = metadata["deletionGracePeriodSeconds"].as_i64()?;
    let deleted: Timestamp = metadata["deletionTimestamp"].as_str()?.parse().ok()?;
    deleted.saturating_add(SignedDuration::from_secs(grace)).ok()
}

fn of_service(service: &Value) -> Amounts {
    let spec = &service["spec"];
    let ports = list(spec, "ports");
    let given = || ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (balancers, node_ports) = match spec["type"].as_str() {
        Some("NodePort") => (0, ports.len()),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (1, given()),
        Some("LoadBalancer") => (1, ports.len()),
        _ => (0, 0),
    };
    let amounts = [
        ("count/services", 1),
        ("services", 1),
        ("services.loadbalancers", balancers),
        ("services.nodeports", node_ports),
    ];
    amounts.map(|(name, many)| (name.to_owned(), Quantity::count(many))).into()
}

/// In whole bytes; the larger of what is asked for and what is being made of it.
fn of_claim(claim: &Value) -> Amounts {
    let one = Quantity::count(1);
    let mut all =
        Amounts::from([("persistentvolumeclaims".to_owned(), one), ("count/persistentvolumeclaims".to_owned(), one)]);
    let class = claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    let class = class.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    if !class.is_empty() {
        all.insert(format!("{class}{OF_A_CLASS}persistentvolumeclaims"), one);
    }
    let storage = |list: &Value| amounts::read(list).get("storage").copied();
    if let Some(asked) = storage(&claim["spec"]["resources"]["requests"]) {
        let storage = storage(&claim["status"]["allocatedResources"]).map_or(asked, |given| given.max(asked)).whole();
        all.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            all.insert(format!("{class}{OF_A_CLASS}requests.storage"), storage);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_what_is_counted_under_it() {
        for (name, found) in [
            ("pods", Some(("", "pods"))),
            ("requests.example.com/gpu", Some(("", "pods"))),
            ("hugepages-2Mi", Some(("", "pods"))),
            ("count/pods", Some(("", "pods"))),
            ("count/deployments.apps", Some(("apps", "deployments"))),
            ("count/widgets.example.com", Some(("example.com", "widgets"))),
            ("secrets", Some(("", "secrets"))),
            ("services.nodeports", Some(("", "services"))),
            ("gold.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
            ("storage", None),
            ("example.com/gpu", None),
        ] {
            assert_eq!(Counted::named(name), found, "{name}");
            if let Some((group, plural)) = found {
                assert!(Counted::of(group, plural).unwrap().counts(name), "{name}");
            }
        }
        assert_eq!(Counted::of("", "events"), None);
    }
}
