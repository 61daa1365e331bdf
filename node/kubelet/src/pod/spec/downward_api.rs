//! What a pod is told of itself (the downward API).

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceFieldSelector};

/// What a container asks for or may use of a resource, as the downward API gives it.
pub fn resource_of(wanted: &ContainerSpec, selector: &ResourceFieldSelector) -> Result<String, String> {
    let resources = wanted.resources.clone().unwrap_or_default();
    let found = match selector.resource.split_once('.') {
        Some(("limits", name)) => resources.limits.and_then(|list| list.get(name).cloned()),
        Some(("requests", name)) => resources.requests.and_then(|list| list.get(name).cloned()),
        _ => return Err(format!("resource {:?} is not known", selector.resource)),
    };
    Ok(found.map_or_else(|| "0".into(), |quantity| quantity.0))
}

/// A field of the pod that the downward API gives.
pub fn field_of(pod: &Pod, path: &str) -> Option<String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let entry = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key).cloned()).unwrap_or_default()
    };
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return match map {
            "metadata.labels" => Some(entry(&pod.metadata.labels, key)),
            "metadata.annotations" => Some(entry(&pod.metadata.annotations, key)),
            _ => None,
        };
    }
    let lines = |map: &Option<std::collections::BTreeMap<String, String>>| {
        let lines: Vec<String> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
        lines.join("\n")
    };
    Some(match path {
        "metadata.name" => name,
        "metadata.namespace" => namespace,
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&pod.metadata.labels),
        "metadata.annotations" => lines(&pod.metadata.annotations),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => status.and_then(|s| s.pod_ip.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => status.and_then(|s| s.host_ip.clone()).unwrap_or_default(),
        _ => return None,
    })
}
