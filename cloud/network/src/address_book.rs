//! What one tenant has on its networks, and who has which address there. No I/O.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use hypernetes_api::{
    names,
    subnet::{SubnetError, SubnetRange, address},
    types::network::{FixedIp, Network, Port, PortSpec, Subnet, port_of_pod},
};
use kube::ResourceExt;

use crate::{
    ipam::{AllocationError, Ipam},
    macs::{self, MacError, Macs},
};

/// What is known of a pod that may need a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodRecord {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Empty: not bound yet.
    pub node: String,
    /// The pod's own annotation.
    pub network: Option<String>,
    pub finished: bool,
    /// RFC 3339: sorts by age.
    pub created: String,
}

impl PodRecord {
    pub fn port(&self) -> String {
        port_of_pod(&self.uid)
    }
}

/// `device_owner` of a pod's port.
pub(crate) const POD_OWNER: &str = "hypernetes:pod";

#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    pub networks: BTreeMap<String, Arc<Network>>,
    pub subnets: BTreeMap<String, Arc<Subnet>>,
    pub ports: BTreeMap<String, Arc<Port>>,
    /// The network that each namespace names.
    pub namespaces: BTreeMap<String, Option<String>>,
    /// By uid.
    pub pods: HashMap<String, PodRecord>,
    /// By network. Few tenants have more than one.
    addresses: HashMap<String, Box<Addresses>>,
}

/// Who has what on one network.
#[derive(Debug, Default)]
struct Addresses {
    ipam: Ipam,
    macs: Macs,
}

/// Why a port cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Of a pod's namespace nothing is known yet: it will be.
    #[error("the namespace {0:?} is not known yet")]
    Namespace(String),
    #[error("there is no network {0:?}")]
    Network(String),
    #[error("the network {0:?} is being deleted")]
    Leaving(String),
    #[error("the address {ip} is not of the subnet {subnet:?}")]
    OtherSubnet { ip: Ipv4Addr, subnet: String },
    #[error("{0}")]
    Address(#[from] SubnetError),
    #[error("{0}")]
    Allocation(#[from] AllocationError),
    #[error("{0}")]
    Mac(#[from] MacError),
}

/// What a port has been given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placement {
    pub fixed_ips: Vec<FixedIp>,
    pub mac_address: String,
}

impl AddressBook {
    /// Gives a port, which need not exist yet, what it wants or what is free. Asked again for the same port it gives
    /// the same: what was given is kept until [`AddressBook::release`]. When it is refused nothing new is kept.
    pub fn place(&mut self, port: &str, network: &str, wanted: &[FixedIp], mac: &str) -> Result<Placement, Refusal> {
        let known = self.networks.get(network).ok_or_else(|| Refusal::Network(network.to_owned()))?;
        let exists = self.ports.get(port).is_some_and(|port| port.spec.network == network);
        if known.metadata.deletion_timestamp.is_some() && !exists {
            return Err(Refusal::Leaving(network.to_owned()));
        }
        let addresses = self.addresses.entry(network.to_owned()).or_default();
        let before: Vec<Ipv4Addr> = addresses.ipam.addresses(port).into_iter().map(|(_, ip)| ip).collect();
        let placed = addresses.place(port, wanted, mac);
        if placed.is_err() {
            addresses.ipam.release_except(port, &before);
        }
        placed
    }

    /// The placement of a pod's port, on the network that the pod or its namespace names.
    pub fn place_pod(&mut self, pod: &PodRecord) -> Result<(String, Placement), Refusal> {
        let namespace = self.namespaces.get(&pod.namespace).ok_or_else(|| Refusal::Namespace(pod.namespace.clone()))?;
        let network = pod.network.clone().or_else(|| namespace.clone());
        let network = network.unwrap_or_else(|| names::DEFAULT_NETWORK.to_owned());
        let placement = self.place(&pod.port(), &network, &[], "")?;
        Ok((network, placement))
    }

    /// Takes back all that the port has, on any network.
    pub fn release(&mut self, port: &str) {
        for addresses in self.addresses.values_mut() {
            addresses.ipam.release(port);
            addresses.macs.release(port);
        }
    }

    /// After a change that was not made: the port has what it says, and nothing more.
    pub fn restore(&mut self, port: &str) {
        let Some(object) = self.ports.get(port).cloned() else { return self.release(port) };
        let ips: Vec<Ipv4Addr> =
            object.spec.fixed_ips.iter().filter_map(|fixed| address(&fixed.ip_address).ok()).collect();
        if let Some(addresses) = self.addresses.get_mut(&object.spec.network)
            && ips.len() == object.spec.fixed_ips.len()
        {
            addresses.ipam.release_except(port, &ips);
        }
        self.note_port(&object, None);
    }

    /// The API server refused what the port was given: another server has given something of it to another port, of which
    /// this one will hear. It is not given again before.
    pub fn is_elsewhere(&mut self, port: &str, network: &str, fixed_ips: &[FixedIp]) {
        if let Some(addresses) = self.addresses.get_mut(network) {
            for ip in fixed_ips.iter().filter_map(|fixed| address(&fixed.ip_address).ok()) {
                addresses.ipam.is_elsewhere(port, ip);
            }
        }
        self.restore(port);
    }

    /// Takes back what was given to ports that do not exist.
    pub fn drop_reservations(&mut self) {
        let all = self.addresses.values();
        let owners = all.flat_map(|addresses| addresses.ipam.all_owners().chain(addresses.macs.all_owners()));
        let without: HashSet<String> = owners.filter(|owner| !self.ports.contains_key(*owner)).cloned().collect();
        without.iter().for_each(|port| self.release(port));
    }

    /// The port that has the address.
    pub fn owner(&self, network: &str, ip: Ipv4Addr) -> Option<String> {
        self.addresses.get(network)?.ipam.owner(ip).map(str::to_owned)
    }

    /// Notes what a port says it has. What others have it cannot have: [`AddressBook::place`] says so when it is asked.
    pub fn note_port(&mut self, port: &Port, old: Option<&Port>) {
        let name = port.name_any();
        if old.is_some_and(|old| old.spec.network != port.spec.network) {
            self.release(&name);
        }
        let addresses = self.addresses.entry(port.spec.network.clone()).or_default();
        let ips: Vec<Ipv4Addr> =
            port.spec.fixed_ips.iter().filter_map(|fixed| address(&fixed.ip_address).ok()).collect();
        // What is stored is so: what this server was about to give to others is none of theirs.
        let says =
            |other: &str, is: &dyn Fn(&PortSpec) -> bool| self.ports.get(other).is_some_and(|port| is(&port.spec));
        for ip in &ips {
            let given = addresses.ipam.owner(*ip).filter(|other| *other != name).map(str::to_owned);
            let text = ip.to_string();
            let has = |spec: &PortSpec| spec.fixed_ips.iter().any(|fixed| fixed.ip_address == text);
            if let Some(other) = given.filter(|other| !says(other, &has)) {
                addresses.ipam.take_from(&other, *ip);
            }
            let _ = addresses.ipam.claim(&name, *ip);
        }
        if let Ok(mac) = macs::parse(&port.spec.mac_address) {
            let given = addresses.macs.owner(&mac).filter(|other| *other != name).map(str::to_owned);
            let has = |spec: &PortSpec| macs::parse(&spec.mac_address).as_ref() == Ok(&mac);
            if let Some(other) = given.filter(|other| !says(other, &has)) {
                addresses.macs.release(&other);
            }
            let _ = addresses.macs.claim(&name, &mac);
        }
        // It gave up addresses; before it has any, those that it is about to get are not to be taken away.
        let changed = old.is_some_and(|old| old.spec.fixed_ips != port.spec.fixed_ips);
        if changed && ips.len() == port.spec.fixed_ips.len() {
            addresses.ipam.release_except(&name, &ips);
        }
    }

    /// Reckons the addresses of a network anew after a change of its subnets.
    pub fn renew(&mut self, network: &str) {
        let mut subnets: Vec<&Arc<Subnet>> = self.subnets.values().filter(|s| s.spec.network == network).collect();
        subnets.sort_by_key(|subnet| (subnet.metadata.creation_timestamp.clone(), subnet.name_any()));
        let ranges = subnets.into_iter().filter_map(|subnet| {
            let mut range = SubnetRange::parse(&subnet.spec).ok()?;
            if subnet.metadata.deletion_timestamp.is_some() {
                range.pools.clear();
            }
            Some((subnet.name_any(), range))
        });
        let ranges: Vec<_> = ranges.collect();
        let addresses = self.addresses.entry(network.to_owned()).or_default();
        addresses.ipam = std::mem::take(&mut addresses.ipam).over(ranges);
        let mut ports: Vec<Arc<Port>> = self.ports.values().filter(|p| p.spec.network == network).cloned().collect();
        ports.sort_by_key(|port| port.metadata.creation_timestamp.clone());
        for port in ports {
            self.note_port(&port, None);
        }
    }

    /// Drops what nothing uses any more.
    pub fn forget_network(&mut self, network: &str) {
        if self.addresses.get(network).is_some_and(|addresses| addresses.ipam.is_unused()) {
            self.addresses.remove(network);
        }
    }

    /// Whether the network has no address to give, by what is known of it.
    pub fn is_full(&self, network: &str) -> bool {
        self.addresses.get(network).is_none_or(|addresses| addresses.ipam.is_full())
    }

    /// Whether some of the network's addresses are promised to ports that are being made: it is not known yet what becomes of them.
    pub fn promises(&self, network: &str) -> bool {
        let Some(addresses) = self.addresses.get(network) else { return false };
        let stored: usize = self.ports_of(network).map(|port| port.spec.fixed_ips.len()).sum();
        addresses.ipam.given() > stored
    }

    pub fn ports_of<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a Arc<Port>> {
        self.ports.values().filter(move |port| port.spec.network == network)
    }

    pub fn network_in_use(&self, network: &str) -> bool {
        self.ports_of(network).next().is_some()
            || self.addresses.get(network).is_some_and(|addresses| !addresses.ipam.is_unused())
    }

    pub fn subnet_in_use(&self, subnet: &Subnet) -> bool {
        self.addresses.get(&subnet.spec.network).is_some_and(|addresses| addresses.ipam.uses(&subnet.name_any()))
    }

    pub fn overlapping(&self, network: &str, range: &SubnetRange) -> Option<String> {
        self.addresses.get(network)?.ipam.overlapping(range.cidr).map(str::to_owned)
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
            && self.subnets.is_empty()
            && self.ports.is_empty()
            && self.namespaces.is_empty()
            && self.pods.is_empty()
    }
}

impl Addresses {
    fn place(&mut self, port: &str, wanted: &[FixedIp], mac: &str) -> Result<Placement, Refusal> {
        let one = [FixedIp::default()];
        let wanted = if wanted.is_empty() { &one } else { wanted };
        // First the addresses that are named, so that none of them is given as the lowest free one.
        let mut fixed_ips = Vec::with_capacity(wanted.len());
        for fixed in wanted {
            let assigned = if fixed.ip_address.is_empty() {
                None
            } else {
                let (subnet, ip) = self.ipam.claim(port, address(&fixed.ip_address)?)?;
                if !fixed.subnet.is_empty() && fixed.subnet != subnet {
                    return Err(Refusal::OtherSubnet { ip, subnet: fixed.subnet.clone() });
                }
                Some((subnet, ip))
            };
            fixed_ips.push(assigned);
        }
        let named: Vec<Ipv4Addr> = fixed_ips.iter().flatten().map(|(_, ip)| *ip).collect();
        let mut spare = self.ipam.addresses(port);
        spare.retain(|(_, ip)| !named.contains(ip));
        let mut result = Vec::with_capacity(wanted.len());
        for (fixed, assigned) in wanted.iter().zip(fixed_ips) {
            let (subnet, ip) = match assigned {
                Some(assigned) => assigned,
                None => {
                    let subnet = (!fixed.subnet.is_empty()).then_some(fixed.subnet.as_str());
                    match spare.iter().position(|(name, _)| subnet.is_none_or(|subnet| subnet == name)) {
                        Some(index) => spare.remove(index),
                        None => self.ipam.allocate(port, subnet)?,
                    }
                }
            };
            result.push(FixedIp { subnet, ip_address: ip.to_string() });
        }
        let mac_address = if mac.is_empty() {
            self.macs.allocate(port, result.first().and_then(|fixed| fixed.ip_address.parse().ok()))
        } else {
            self.macs.claim(port, mac)?
        };
        Ok(Placement { fixed_ips: result, mac_address })
    }
}
