//! `network.hypernetes.io`: Neutron's things. Cluster-scoped in a tenant's logical cluster.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `metadata.name` of the port of the pod with this uid.
pub fn port_of_pod(uid: &str) -> String {
    format!("pod-{uid}")
}

/// Keeps networks and subnets while ports use them.
pub const IN_USE: &str = "network.hypernetes.io/in-use";

/// An isolated routing domain. It has a network namespace of its own on each host that has one of its pods.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.hypernetes.io",
    version = "v1alpha1",
    kind = "Network",
    plural = "networks",
    shortname = "net",
    status = "NetworkStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSpec {
    /// Neutron's `name` where it cannot be `metadata.name`.
    pub display_name: String,
    pub description: String,
    /// 0: the default (1450, what VXLAN leaves of 1500).
    pub mtu: u32,
    pub admin_state_down: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkStatus {
    /// `Active` when pods can be put on it.
    pub phase: String,
    /// VXLAN network identifier, unique in the whole installation (1..2^24).
    pub segment_id: u32,
}

/// A range of addresses on a network.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "network.hypernetes.io", version = "v1alpha1", kind = "Subnet", plural = "subnets")]
#[serde(rename_all = "camelCase", default)]
pub struct SubnetSpec {
    pub display_name: String,
    pub description: String,
    /// `metadata.name` of the network.
    pub network: String,
    /// e.g. `10.244.0.0/16`
    pub cidr: String,
    /// Empty: the first address of the range. `none`: no gateway.
    pub gateway: String,
    /// Empty: the whole range without network, broadcast and gateway addresses.
    pub allocation_pools: Vec<AllocationPool>,
    pub dns_nameservers: Vec<String>,
    pub disable_dhcp: bool,
}

/// First and last address, both included.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct AllocationPool {
    pub start: String,
    pub end: String,
}

/// One interface on a network. A pod's port has the owner reference of the pod and is bound to the pod's node.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(group = "network.hypernetes.io", version = "v1alpha1", kind = "Port", plural = "ports", status = "PortStatus")]
#[serde(rename_all = "camelCase", default)]
pub struct PortSpec {
    pub display_name: String,
    pub description: String,
    /// `metadata.name` of the network.
    pub network: String,
    /// Filled by address allocation where empty.
    pub fixed_ips: Vec<FixedIp>,
    /// Filled where empty.
    pub mac_address: String,
    /// e.g. `hypernetes:pod`
    pub device_owner: String,
    /// For a pod's port the pod's uid.
    pub device_id: String,
    /// The pod it belongs to, for a pod's port.
    pub pod: Option<PodReference>,
    pub admin_state_down: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FixedIp {
    /// `metadata.name` of the subnet.
    pub subnet: String,
    pub ip_address: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodReference {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PortStatus {
    /// `Down`, `Build` or `Active`.
    pub phase: String,
    /// The node that it is bound to.
    pub host: String,
}
