//! Which pod, and which port of it, a Service's port means. Services have no addresses yet: one of its pods is chosen, at random, of
//! those that run and are ready.

use hypernetes_api::{ApiError, Reason, ResourceId, TenantId};
use hypernetes_kinds::registry;
use hypernetes_store::{Entry, Key, Prefix, RangeOptions};
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::{
    ServicePort,
    address::{self, PodAddress},
};
use crate::{Inner, read::selection, request::selectors::Selector, stored_form};

/// A pod of the Service and the port there.
///
/// # Errors
/// As kube-apiserver says them: `NotFound`, `ServiceUnavailable`.
pub async fn resolve(
    server: &Inner,
    tenant: &TenantId,
    namespace: &str,
    name: &str,
    port: ServicePort<'_>,
) -> Result<(PodAddress, u16), ApiError> {
    // What cannot be a name is nothing's.
    let not_found = || ApiError::not_found("", "service", name);
    let key = Key::new(&ResourceId::new("", "services"), tenant, namespace, name).map_err(|_| not_found())?;
    let service = stored_form::decode(&server.store.get(&key).await?.ok_or_else(not_found)?)?;
    let kind = service["spec"]["type"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "ClusterIP" | "NodePort" | "LoadBalancer") {
        return Err(unavailable(format!("unsupported service type {kind:?}")));
    }
    let none = || unavailable(format!("no endpoints available for service {name:?}"));
    let target = match (target_port(&service, port), port) {
        (Some(target), _) => target,
        (None, ServicePort::Number(number)) => {
            return Err(unavailable(format!("no service port {number} found for service {name:?}")));
        }
        (None, ServicePort::Name(_)) => return Err(none()),
    };
    let mut pods = selected(server, tenant, namespace, &service["spec"]["selector"]).await?;
    pods.shuffle(&mut rand::rng());
    for entry in pods {
        let pod = stored_form::decode(&entry)?;
        if let (true, Some(port)) = (is_ready(&pod), container_port(&pod, &target))
            && let Some(place) = address::of(server, tenant, &pod).await?
        {
            return Ok((place, port));
        }
    }
    Err(none())
}

fn unavailable(message: String) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, message)
}

/// The pods that a Service's selector selects. One without a selector has none.
async fn selected(server: &Inner, tenant: &TenantId, namespace: &str, labels: &Value) -> Result<Vec<Entry>, ApiError> {
    let chosen = labels.as_object().filter(|labels| !labels.is_empty());
    let selector = chosen.and_then(|labels| Selector::of_object(&json!({"matchLabels": labels})));
    let (Some(selector), Some(resource)) = (selector, registry::builtin_of("", "v1", "Pod")) else { return Ok(vec![]) };
    let prefix = Prefix::tenant(&resource.id, tenant, Some(namespace))?;
    let listing = server.store.range(&prefix, RangeOptions::default()).await?;
    let is_selected = |entry: &Entry| selection::matches(&selector, entry, resource);
    listing
        .entries
        .into_iter()
        .map(|entry| Ok(is_selected(&entry)?.then_some(entry)))
        .filter_map(Result::transpose)
        .collect()
}

/// `targetPort` of the TCP port that is meant, a number or a name.
fn target_port(service: &Value, wanted: ServicePort<'_>) -> Option<Value> {
    let is_it = |port: &&Value| {
        let called = match wanted {
            ServicePort::Number(number) => port["port"] == number,
            ServicePort::Name(name) => port["name"].as_str().unwrap_or_default() == name,
        };
        called && is_tcp(port)
    };
    let port = service["spec"]["ports"].as_array()?.iter().find(is_it)?;
    let is_given = |target: &&Value| !target.is_null() && **target != 0 && **target != "";
    Some(Some(&port["targetPort"]).filter(is_given).unwrap_or(&port["port"]).clone())
}

/// The number of a target port in a pod: a name is one of its containers' ports, sidecars' included.
fn container_port(pod: &Value, target: &Value) -> Option<u16> {
    let number = match target.as_str() {
        None => target,
        Some(name) => {
            let of = |field: &str| pod["spec"][field].as_array().into_iter().flatten();
            let sidecars = of("initContainers").filter(|container| container["restartPolicy"] == "Always");
            let ports = of("containers").chain(sidecars).flat_map(|container| container["ports"].as_array());
            &ports.flatten().find(|port| port["name"] == name && is_tcp(port))?["containerPort"]
        }
    };
    number.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn is_tcp(port: &Value) -> bool {
    matches!(port["protocol"].as_str(), None | Some("" | "TCP"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["phase"] == "Running"
        && conditions.into_iter().flatten().any(|is| is["type"] == "Ready" && is["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_port_is_a_port_of_the_pods() {
        let pod = json!({"spec": {
            "containers": [{"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
                {"ports": [{"name": "https", "containerPort": 8443}, {"name": "dns", "containerPort": 5353, "protocol": "TCP"}]}],
            "initContainers": [{"ports": [{"name": "once", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}]}});
        let of = |port: Value, wanted: ServicePort<'_>| {
            container_port(
                &pod,
                &target_port(&json!({"spec": {"ports": [{"port": 1, "protocol": "UDP"}, port]}}), wanted)?,
            )
        };
        let first = ServicePort::Number(443);
        for (port, number) in [
            (json!({"port": 443}), Some(443)),
            (json!({"port": 443, "targetPort": 0}), Some(443)),
            (json!({"port": 443, "targetPort": 8000}), Some(8000)),
            (json!({"port": 443, "targetPort": "https"}), Some(8443)),
            (json!({"port": 443, "targetPort": "dns"}), Some(5353)),
            (json!({"port": 443, "targetPort": "side"}), Some(2)),
            (json!({"port": 443, "targetPort": "once"}), None),
            (json!({"port": 443, "targetPort": "8443"}), None),
            (json!({"port": 443, "targetPort": 70_000}), None),
            (json!({"port": 443, "targetPort": -1}), None),
            (json!({"port": 443, "protocol": "UDP"}), None),
            (json!({"port": 444}), None),
        ] {
            assert_eq!(of(port.clone(), first), number, "{port}");
        }
        assert_eq!(of(json!({"port": 9, "name": "web", "targetPort": "https"}), ServicePort::Name("web")), Some(8443));
        assert_eq!(of(json!({"port": 9}), ServicePort::Name("")), Some(9));
        assert_eq!(of(json!({"port": 9}), ServicePort::Name("web")), None);
        assert_eq!(of(json!({"port": 1}), ServicePort::Number(1)), Some(1));
    }
}
