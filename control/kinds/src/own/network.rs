//! `network.hypernetes.io`: what Neutron's API shows, each tenant's own.

use hypernetes_api::types::network::{Network, Port, Subnet};
use serde_json::Value;

use super::pod_reference;
use crate::{
    columns::{Cell, between, column, list, path, path_or, text, wide},
    resource::Resource,
    subresource::Subresource,
};

const OF: &str = "network";

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::own::<Network>(OF, "Network", "networks")
            .short_names(&["net"])
            .subresources(&[Subresource::Status])
            .columns(between([
                column("Status", path_or("status.phase", "Build")),
                wide("Segment", path("status.segmentId")),
            ])),
        Resource::own::<Port>(OF, "Port", "ports").subresources(&[Subresource::Status]).columns(between([
            column("Network", path("spec.network")),
            column("Address", Cell::Of(addresses)),
            wide("MAC", path("spec.macAddress")),
            column("Status", path_or("status.phase", "Down")),
            wide("Host", path("status.host")),
            column("Pod", Cell::Of(|o| pod_reference(o, "spec.pod"))),
        ])),
        Resource::own::<Subnet>(OF, "Subnet", "subnets")
            .columns(between([
                column("Network", path("spec.network")),
                column("CIDR", path("spec.cidr")),
                wide("Gateway", path("spec.gateway")),
            ]))
            .immutable(&[&["spec", "network"], &["spec", "cidr"]]),
    ]
}

fn addresses(port: &Value) -> Value {
    let addresses: Vec<&str> = list(port, "spec.fixedIps").map(|ip| text(ip, "ipAddress")).collect();
    if addresses.is_empty() { "<none>".into() } else { addresses.join(",").into() }
}
