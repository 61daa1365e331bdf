//! What a node's credential may do, by [`crate::authorization::graph`]: its own Node and Lease, the pods bound to it, and of everything else
//! what those pods need. Upstream's node authorizer and its admission plugin NodeRestriction.

use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo, names};
use hypernetes_store::{Key, ResourceId, Store};
use serde_json::Value;

use crate::{
    Call, Inner,
    authorization::{
        Attributes,
        graph::{self, Graph, Reference},
    },
    stored_form,
};

/// Where nodes' Leases are.
const LEASES: &str = "kube-node-lease";

/// The node whose credential it is.
pub fn identity(user: &UserInfo) -> Option<&str> {
    let known = user.tenant.is_system() && user.groups.iter().any(|group| group == names::GROUP_NODES);
    user.name.strip_prefix(names::USER_NODE_PREFIX).filter(|name| known && !name.is_empty())
}

/// What one node asks.
pub struct Asked<'a> {
    pub store: &'a Store,
    pub graph: &'a Graph,
    pub node: &'a str,
    pub tenant: &'a TenantId,
}

impl Asked<'_> {
    /// Whether the node may do it. What an object has to say is [`restrict`]'s.
    pub async fn allows(&self, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        let verb = wanted.verb;
        let read = matches!(verb, "get" | "list" | "watch");
        let own = wanted.name == Some(self.node);
        let system = self.tenant.is_system() && !wanted.everywhere;
        Ok(match (wanted.group, wanted.resource, wanted.subresource) {
            ("", "nodes", "") => verb == "create" || (own && (read || matches!(verb, "update" | "patch"))),
            ("", "nodes", "status") => own && matches!(verb, "get" | "update" | "patch"),
            ("", "pods", "") => match verb {
                "list" | "watch" => wanted.requires("spec.nodeName") == Some(self.node),
                "get" | "delete" => self.has_pod(wanted).await?,
                _ => false,
            },
            ("", "pods", "status") => matches!(verb, "update" | "patch") && self.has_pod(wanted).await?,
            ("", "events", "") if matches!(verb, "create" | "get" | "update" | "patch") => {
                let namespace = wanted.namespace.unwrap_or_default();
                system || self.reaches(wanted, graph::NAMESPACES, "", namespace).await?
            }
            ("", "serviceaccounts", "token") => verb == "create" && self.reaches_named(wanted).await?,
            ("", "serviceaccounts" | "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
                verb == "get" && self.reaches_named(wanted).await?
            }
            ("", "persistentvolumes", "") => match self.named(wanted) {
                Some(key) if verb == "get" => self.graph.reaches_persistent_volume(self.node, &key).await?,
                _ => false,
            },
            ("coordination.k8s.io", "leases", "") => {
                let of_nodes = system && wanted.namespace == Some(LEASES);
                of_nodes && (verb == "create" || own && matches!(verb, "get" | "update" | "patch" | "delete"))
            }
            ("storage.k8s.io", "csinodes", "") => {
                verb == "create" || own && matches!(verb, "get" | "update" | "patch" | "delete")
            }
            ("storage.k8s.io", "csidrivers" | "storageclasses", "") | ("node.k8s.io", "runtimeclasses", "") => read,
            // The ports that are on the node, the networks that those are on, and these networks' subnets.
            ("network.hypernetes.io", "ports", "") => match verb {
                "list" | "watch" => wanted.requires("status.host") == Some(self.node),
                "get" => self.has_port(wanted).await?,
                _ => false,
            },
            ("network.hypernetes.io", "networks", "") => read && self.reaches_network(wanted, wanted.name).await?,
            ("network.hypernetes.io", "subnets", "") => {
                let network = wanted.requires("spec.network");
                matches!(verb, "list" | "watch") && self.reaches_network(wanted, network).await?
            }
            ("network.hypernetes.io", "ports", "status") => {
                matches!(verb, "get" | "update" | "patch") && self.has_port(wanted).await?
            }
            // What a pod's tenant may take of the node, and whether it still is one.
            ("identity.hypernetes.io", "projects", "") => verb == "get" && system && self.has_project(wanted).await?,
            ("volume.hypernetes.io", "volumes", "") => verb == "get" && self.reaches_volume(wanted).await?,
            ("volume.hypernetes.io", "attachments", "") => match verb {
                "create" => !wanted.everywhere,
                "get" | "list" | "watch" => self.reaches_volume(wanted).await? || self.has_attachment(wanted).await?,
                "delete" => self.has_attachment(wanted).await?,
                _ => false,
            },
            _ => false,
        })
    }

    fn named(&self, wanted: &Attributes<'_>) -> Option<Key> {
        let resource = ResourceId::new(wanted.group, wanted.resource);
        let namespace = wanted.namespace.unwrap_or_default();
        Key::new(&resource, self.tenant, namespace, wanted.name?).ok().filter(|_| !wanted.everywhere)
    }

    async fn reaches(
        &self,
        wanted: &Attributes<'_>,
        plural: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<bool, ApiError> {
        if wanted.everywhere {
            return Ok(false);
        }
        let (tenant, namespace, name) = (self.tenant.to_string(), namespace.to_owned(), name.to_owned());
        self.graph.reaches(self.node, &Reference { tenant, plural, namespace, name }).await
    }

    async fn reaches_named(&self, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        match (graph::plural(wanted.resource), wanted.namespace, wanted.name) {
            (Some(plural), Some(namespace), Some(name)) => self.reaches(wanted, plural, namespace, name).await,
            _ => Ok(false),
        }
    }

    async fn reaches_network(&self, wanted: &Attributes<'_>, network: Option<&str>) -> Result<bool, ApiError> {
        match network {
            Some(name) => self.reaches(wanted, graph::NETWORKS, "", name).await,
            None => Ok(false),
        }
    }

    async fn reaches_volume(&self, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        match wanted.name {
            Some(name) if !wanted.everywhere => self.graph.reaches_volume(self.node, self.tenant, name).await,
            _ => Ok(false),
        }
    }

    /// One that is gone is nobody's: the node is told that it is.
    async fn has_pod(&self, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        let Some(key) = self.named(wanted) else { return Ok(false) };
        Ok(self.graph.has_pod(self.node, &key, None).await? || self.stored(&key).await?.is_none())
    }

    /// The tenant of a pod on the node. One that is gone is nobody's: what the node has kept of it goes then.
    async fn has_project(&self, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        let Some(key) = self.named(wanted) else { return Ok(false) };
        Ok(self.reaches(wanted, graph::PROJECTS, "", key.name()).await? || self.stored(&key).await?.is_none())
    }

    /// The port of a pod on the node, or one that the node has had.
    async fn has_port(&self, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        let Some(key) = self.named(wanted) else { return Ok(false) };
        let Some(port) = self.stored(&key).await? else { return Ok(true) };
        if port["status"]["host"] == self.node {
            return Ok(true);
        }
        self.has_referenced(&port["spec"]["pod"]).await
    }

    async fn has_attachment(&self, wanted: &Attributes<'_>) -> Result<bool, ApiError> {
        let Some(key) = self.named(wanted) else { return Ok(false) };
        Ok(self.stored(&key).await?.is_none_or(|attachment| attachment["spec"]["node"] == self.node))
    }

    /// Whether a reference of a port or an attachment is to a pod of the node.
    async fn has_referenced(&self, pod: &Value) -> Result<bool, ApiError> {
        let text = |field: &str| pod[field].as_str().unwrap_or_default();
        match Key::new(&ResourceId::new("", "pods"), self.tenant, text("namespace"), text("name")) {
            Ok(key) => self.graph.has_pod(self.node, &key, Some(text("uid"))).await,
            Err(_) => Ok(false),
        }
    }

    async fn stored(&self, key: &Key) -> Result<Option<Value>, ApiError> {
        let entry = self.store.get(key).await?;
        entry.as_ref().map(stored_form::decode).transpose()
    }
}

/// What a node may not say in what it may write. `old` is what is stored.
///
/// # Errors
/// `Forbidden`.
pub async fn restrict(server: &Inner, call: &Call, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let forbidden = |why: String| Err(call.forbidden(name, &why));
    let (group, resource) = (call.resource.ty.group.as_str(), call.resource.plural.as_str());
    let Some(node) = identity(&call.user) else {
        // Where a node is reached decides who is asked for a shell in its pods.
        let moved = old.filter(|old| {
            ["addresses", "daemonEndpoints"].iter().any(|field| old["status"][field] != object["status"][field])
        });
        return if (group, resource) == ("", "nodes") && moved.is_some() && !call.is_component() {
            forbidden("a node's addresses are written by itself only".into())
        } else {
            Ok(())
        };
    };
    match (group, resource) {
        ("", "nodes") => restrict_node(call, node, object, old),
        ("coordination.k8s.io", "leases") | ("storage.k8s.io", "csinodes") if name != node => {
            forbidden(format!("can only access {resource} with the same name as the requesting node"))
        }
        ("network.hypernetes.io", "ports") if object["status"]["host"] != node => {
            forbidden(format!("node {node:?} can only bind a port to itself"))
        }
        ("volume.hypernetes.io", "attachments") => {
            let spec = &object["spec"];
            let tenant = call.tenant()?;
            let asked = Asked { store: server.store.stored(), graph: &server.graph, node, tenant: &tenant };
            let volume = spec["volume"].as_str().unwrap_or_default();
            let own = spec["node"] == node && spec["volume"] == name && asked.has_referenced(&spec["pod"]).await?;
            if own && server.graph.reaches_volume(node, &tenant, volume).await? {
                Ok(())
            } else {
                forbidden(format!("node {node:?} can only attach volumes that pods bound to it use"))
            }
        }
        _ => Ok(()),
    }
}

fn restrict_node(call: &Call, node: &str, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let forbidden = |why: String| Err(call.forbidden(name, &why));
    if name != node {
        return forbidden(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let empty = Value::Null;
    let before = old.unwrap_or(&empty);
    let labels = |object: &Value| object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (now, then) = (labels(object), labels(before));
    let changed = now.keys().chain(then.keys()).filter(|key| now.get(*key) != then.get(*key));
    let mut refused: Vec<&str> = changed.filter(|key| !may_label(key)).map(String::as_str).collect();
    refused.sort_unstable();
    refused.dedup();
    let list = refused.join(", ");
    if old.is_none() {
        return if refused.is_empty() {
            Ok(())
        } else {
            forbidden(format!("node {node:?} is not allowed to set the following labels: {list}"))
        };
    }
    if !refused.is_empty() {
        return forbidden(format!("is not allowed to modify labels: {list}"));
    }
    if object["spec"]["taints"] != before["spec"]["taints"] {
        return forbidden(format!("node {node:?} is not allowed to modify taints"));
    }
    if object["metadata"]["ownerReferences"] != before["metadata"]["ownerReferences"] {
        return forbidden(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    Ok(())
}

/// Labels in Kubernetes' own namespaces by which pods are placed that a node may set itself; other namespaces are free.
fn may_label(key: &str) -> bool {
    const OWN: &[&str] = &[
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    let Some((namespace, _)) = key.split_once('/') else { return true };
    let within = |parent: &str| namespace == parent || namespace.ends_with(&format!(".{parent}"));
    let reserved = within("kubernetes.io") || within("k8s.io");
    let delegated = ["kubelet.kubernetes.io", "node.kubernetes.io"].iter().any(|parent| within(parent));
    OWN.contains(&key)
        || !(reserved || within("hypernetes.io"))
        || (delegated && !within("node-restriction.kubernetes.io"))
}

/// Only infrastructure and the operator say on which node a pod is, and what became of it: a member who did could have any
/// node's kubelet run a pod that was never placed, or another's pod seem to be done. Nor is an attachment a tenant's to make
/// or to end: by it the store itself keeps a volume from being opened twice.
pub fn is_reserved(wanted: &Attributes<'_>) -> bool {
    let writes = !matches!(wanted.verb, "get" | "list" | "watch");
    writes
        && match (wanted.group, wanted.resource) {
            ("", "pods") => matches!(wanted.subresource, "binding" | "status"),
            ("", "bindings") | ("volume.hypernetes.io", "attachments") => true,
            ("storage.k8s.io", "volumeattachments" | "csistoragecapacities") => true,
            // Which devices a claim has got.
            ("resource.k8s.io", "resourceclaims") => !wanted.subresource.is_empty(),
            // What became of a network or a volume, infrastructure says.
            (group, _) if group.ends_with(".hypernetes.io") => wanted.subresource == "status",
            _ => false,
        }
}

/// Whether a caller sees Nodes without what is the operator's alone.
pub fn is_projected(call: &Call) -> bool {
    let tenants = matches!(&call.scope, crate::request::Scope::Tenant(tenant) if !tenant.is_system());
    tenants && call.resource.id == ResourceId::new("", "nodes") && !call.is_operator() && !call.is_infrastructure()
}

/// A Node as tenants see it: without its machine's ids, and the addresses and ports of the network below theirs.
pub fn project(node: &mut Value) {
    let Some(status) = node["status"].as_object_mut() else { return };
    status.remove("daemonEndpoints");
    if let Some(info) = status.get_mut("nodeInfo").and_then(Value::as_object_mut) {
        for id in ["machineID", "systemUUID", "bootID"] {
            // Clients expect them to be there.
            info.insert(id.into(), "".into());
        }
    }
    if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.retain(|address| address["type"] == "Hostname");
    }
    if let Some(metadata) = node["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("annotations");
    }
}

/// A pod's node is not its owner's to choose.
///
/// # Errors
/// `Forbidden`.
pub fn restrict_placement(call: &Call, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let node = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let wanted = node(object);
    if call.resource.id != ResourceId::new("", "pods")
        || old.map_or_else(String::new, node) == wanted
        || call.is_component()
        || call.is_operator()
    {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(call.forbidden(name, "spec.nodeName: the node of a pod is chosen by the scheduler"))
}

impl Call {
    /// `pods "a" is forbidden: <why>`.
    pub fn forbidden(&self, name: &str, why: &str) -> ApiError {
        let (group, plural) = (&self.served.ty.group, &self.resource.plural);
        let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let details = hypernetes_api::error::Details {
            name: name.into(),
            group: group.clone(),
            kind: plural.into(),
            ..Default::default()
        };
        ApiError::new(Reason::Forbidden, format!("{qualified} {name:?} is forbidden: {why}")).with_details(details)
    }

    /// The server's own components.
    pub fn is_component(&self) -> bool {
        self.user.tenant.is_system() && self.user.groups.iter().any(|group| group == names::GROUP_INFRASTRUCTURE)
    }

    pub fn is_operator(&self) -> bool {
        self.user.tenant.is_system() && self.user.groups.iter().any(|group| group == names::GROUP_MASTERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_by_which_pods_are_placed_are_not_a_nodes_to_choose() {
        for key in
            ["plain", "example.com/x", "kubernetes.io/hostname", "node.kubernetes.io/x", "a.kubelet.kubernetes.io/x"]
        {
            assert!(may_label(key), "{key}");
        }
        for key in [
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "node-role.kubernetes.io/x",
            "kubernetes.io/x",
            "x.k8s.io/y",
            "hypernetes.io/pool",
        ] {
            assert!(!may_label(key), "{key}");
        }
    }
}
