//! Where a pod is: as its Port says, whose status the network service alone writes.

use std::net::Ipv4Addr;

use hypernetes_api::{
    ApiError, ObjectName, ResourceId, TenantId,
    types::network::{Port, port_of_pod},
};
use hypernetes_store::Key;
use serde_json::Value;

use crate::{Inner, stored_form};

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAddress {
    /// Name of its Node.
    pub node: ObjectName,
    /// Name of its Network, in the tenant's cluster.
    pub network: ObjectName,
    /// On that network.
    pub address: Ipv4Addr,
}

/// Where the pod is; `None`: nowhere yet, or no longer.
///
/// # Errors
/// The store's.
pub async fn of(server: &Inner, tenant: &TenantId, pod: &Value) -> Result<Option<PodAddress>, ApiError> {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let key = Key::new(&ResourceId::new("network.hypernetes.io", "ports"), tenant, "", &port_of_pod(uid))?;
    let Some(entry) = server.store.get(&key).await? else { return Ok(None) };
    // One that anybody may have written: what does not parse is no port of the pod's.
    Ok(serde_json::from_slice(stored_form::object(&entry)).ok().and_then(|port| address(&port, uid)))
}

fn address(port: &Port, pod_uid: &str) -> Option<PodAddress> {
    let (spec, status) = (&port.spec, port.status.as_ref()?);
    // Before that its addresses may be another's.
    let is_accepted = matches!(status.phase.as_str(), "Down" | "Active");
    let is_the_pods = spec.pod.as_ref().is_some_and(|pod| pod.uid == pod_uid);
    let address = spec.fixed_ips.first()?.ip_address.parse().ok()?;
    (is_accepted && is_the_pods).then_some(())?;
    Some(PodAddress { node: status.host.parse().ok()?, network: spec.network.parse().ok()?, address })
}

#[cfg(test)]
mod tests {
    use hypernetes_schema::patch;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_says_where_its_pod_is() {
        let port = json!({"metadata": {"name": "pod-u"}, "spec": {"network": "default", "pod": {"uid": "u"},
            "fixedIps": [{"ipAddress": "10.244.0.2"}]}, "status": {"phase": "Active", "host": "n1"}});
        let of = |change: Value| {
            let port = patch::merge_patch(port.clone(), change.to_string().as_bytes()).unwrap();
            address(&serde_json::from_value(port).unwrap(), "u")
        };
        let found = of(json!({})).unwrap();
        assert_eq!((&*found.node, &*found.network, found.address), ("n1", "default", [10, 244, 0, 2].into()));
        assert!(of(json!({"status": {"phase": "Down"}})).is_some());
        for wrong in [
            json!({"status": null}),
            json!({"status": {"phase": "Build"}}),
            json!({"status": {"host": ""}}),
            json!({"status": {"host": "a/b"}}),
            json!({"spec": {"pod": {"uid": "another"}}}),
            json!({"spec": {"pod": null}}),
            json!({"spec": {"network": "../x"}}),
            json!({"spec": {"fixedIps": []}}),
            json!({"spec": {"fixedIps": [{"ipAddress": "localhost"}]}}),
            json!({"spec": {"fixedIps": [{"ipAddress": "::1"}]}}),
        ] {
            assert_eq!(of(wrong.clone()), None, "{wrong}");
        }
    }
}
