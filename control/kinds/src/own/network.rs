//! `network.hypernetes.io`: what Neutron's API shows, each tenant's own.

use std::net::Ipv4Addr;

use hypernetes_api::{
    subnet::{Part, SubnetRange},
    types::network::{Network, Port, Subnet, SubnetSpec},
};
use serde_json::Value;

use super::pod_reference;
use crate::{
    columns::{Cell, between, column, list, path, path_or, text, wide},
    field::{Errors, Field},
    resource::Resource,
    subresource::Subresource,
    unique::{Unique, Within},
};

const OF: &str = "network";

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::own::<Network>(OF, "Network", "networks")
            .short_names(&["net"])
            .subresources([Subresource::status()])
            .columns(between([
                column("Status", path_or("status.phase", "Build")),
                wide("Segment", path("status.segmentId")),
            ]))
            .unique(segment),
        Resource::own::<Port>(OF, "Port", "ports")
            .subresources([Subresource::status()])
            .columns(between([
                column("Network", path("spec.network")),
                column("Address", Cell::Of(addresses)),
                wide("MAC", path("spec.macAddress")),
                column("Status", path_or("status.phase", "Down")),
                wide("Host", path("status.host")),
                column("Pod", Cell::Of(|o| pod_reference(o, "spec.pod"))),
            ]))
            // A host follows its own ports, and the subnets of the networks that they are on.
            .selectable(["spec.network", "status.host"])
            .indexed("status.host")
            .unique(on_network),
        Resource::own::<Subnet>(OF, "Subnet", "subnets")
            .columns(between([
                column("Network", path("spec.network")),
                column("CIDR", path("spec.cidr")),
                wide("Gateway", path("spec.gateway")),
            ]))
            .selectable(["spec.network"])
            .check(range)
            .immutable(&[&["spec", "network"], &["spec", "cidr"]]),
    ]
}

/// A subnet's range, gateway and pools are such as addresses can be given from.
fn range(subnet: &Field<'_>, errors: &mut Errors) {
    let spec = subnet.get("spec");
    if spec.get("cidr").is_empty() {
        spec.get("cidr").required(errors, "the range of its addresses");
    }
    let Ok(parsed) = serde_json::from_value::<SubnetSpec>(spec.value.clone()) else { return };
    let pools: Vec<Field<'_>> = spec.get("allocationPools").items().collect();
    let pool = |place: usize| pools.get(place);
    for (part, fault) in SubnetRange::faults(&parsed) {
        let field = match part {
            Part::Cidr => Some(spec.get("cidr")).filter(|cidr| !cidr.is_empty()),
            Part::Gateway => Some(spec.get("gateway")),
            Part::Pool(place) => pool(place).cloned(),
            Part::PoolStart(place) => pool(place).map(|pool| pool.get("start")),
            Part::PoolEnd(place) => pool(place).map(|pool| pool.get("end")),
        };
        if let Some(field) = field {
            field.invalid(errors, fault.to_string());
        }
    }
}

/// Its number is one network's in the whole installation: packets are told apart by it alone.
fn segment(network: &Value) -> Vec<Unique> {
    let Some(number) = network["status"]["segmentId"].as_u64().filter(|number| *number != 0) else { return vec![] };
    let number = number.to_string();
    vec![Unique::new("segments", Within::Everywhere, number.clone(), "status.segmentId".into(), &number)]
}

/// A port's addresses are its own on its network. What is no address is nobody's.
fn on_network(port: &Value) -> Vec<Unique> {
    let network = text(&port["spec"], "network");
    let fixed = list(port, "spec.fixedIps").enumerate().filter_map(|(place, fixed)| {
        let address: Ipv4Addr = text(fixed, "ipAddress").parse().ok()?;
        let path = format!("spec.fixedIps[{place}].ipAddress");
        Some(Unique::new("addresses", Within::Tenant, format!("{address}.{network}"), path, &address.to_string()))
    });
    let mac = text(&port["spec"], "macAddress").replace('-', ":").to_ascii_lowercase();
    let of_a_station = mac.len() == 17 && mac.bytes().all(|byte| byte == b':' || byte.is_ascii_hexdigit());
    let mac = of_a_station.then(|| {
        let name = format!("{}.{network}", mac.replace(':', "-"));
        Unique::new("stations", Within::Tenant, name, "spec.macAddress".into(), &mac)
    });
    fixed.chain(mac).collect()
}

fn addresses(port: &Value) -> Value {
    let addresses: Vec<&str> = list(port, "spec.fixedIps").map(|ip| text(ip, "ipAddress")).collect();
    if addresses.is_empty() { "<none>".into() } else { addresses.join(",").into() }
}
