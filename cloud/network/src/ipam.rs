//! Who has which address on one network. Pure: no I/O.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use hypernetes_api::subnet::{Cidr, SubnetRange};

use crate::ranges::Ranges;

/// Addresses of one network: each belongs to at most one port, or is free, or is the gateway's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ipam {
    /// In the order in which addresses are looked for.
    subnets: Vec<Entry>,
    owners: HashMap<Ipv4Addr, String>,
    by_owner: HashMap<String, Vec<Ipv4Addr>>,
    /// Given by other servers to ports of which nothing has been heard yet.
    elsewhere: HashSet<Ipv4Addr>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// `metadata.name`
    name: String,
    range: SubnetRange,
    /// Of the pools.
    free: Ranges,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AllocationError {
    #[error("the network has no subnet that can be used")]
    NoSubnet,
    #[error("all addresses of the network are in use")]
    Exhausted,
    #[error("there is no subnet {0:?} on the network")]
    UnknownSubnet(String),
    #[error("{0} is not a usable address of a subnet of the network")]
    Outside(Ipv4Addr),
    #[error("{0} is the gateway's address")]
    Gateway(Ipv4Addr),
    #[error("{ip} is in use by the port {owner:?}")]
    InUse { ip: Ipv4Addr, owner: String },
}

/// An address with the `metadata.name` of its subnet.
pub(crate) type Assigned = (String, Ipv4Addr);

impl Ipam {
    /// Subnets in the order of their age. One that overlaps an older one is not used.
    pub fn new(subnets: impl IntoIterator<Item = (String, SubnetRange)>) -> Self {
        let mut ipam = Self::default();
        for (name, range) in subnets {
            if ipam.overlapping(range.cidr).is_some() {
                continue;
            }
            let mut free = Ranges::default();
            for (first, last) in &range.pools {
                free.insert(first.to_bits(), last.to_bits());
            }
            ipam.subnets.push(Entry { name, range, free });
        }
        ipam
    }

    /// The same owners' addresses, over changed subnets. Addresses that no subnet has any more are forgotten.
    pub fn over(self, subnets: impl IntoIterator<Item = (String, SubnetRange)>) -> Self {
        let mut ipam = Self::new(subnets);
        for (ip, owner) in self.owners {
            // Not even a gateway that came later takes an address from its owner.
            if let Some(entry) = ipam.subnets.iter_mut().find(|entry| entry.range.cidr.has_usable(ip)) {
                entry.free.remove(ip.to_bits());
                ipam.note(&owner, ip);
            }
        }
        ipam
    }

    /// What the owner has, lowest first, with the subnets.
    pub fn addresses(&self, owner: &str) -> Vec<Assigned> {
        let mut ips = self.by_owner.get(owner).cloned().unwrap_or_default();
        ips.sort_unstable();
        ips.into_iter().filter_map(|ip| Some((self.subnet_of(ip)?.to_owned(), ip))).collect()
    }

    pub fn subnet_of(&self, ip: Ipv4Addr) -> Option<&str> {
        self.subnets.iter().find(|entry| entry.range.cidr.has_usable(ip)).map(|entry| entry.name.as_str())
    }

    /// Whether anybody has an address of the subnet.
    pub fn uses(&self, subnet: &str) -> bool {
        self.owners.keys().any(|ip| self.subnet_of(*ip) == Some(subnet))
    }

    /// Whether no address is left to give: none that is free, and none that another server has given.
    pub fn is_full(&self) -> bool {
        self.elsewhere.is_empty() && self.subnets.iter().all(|subnet| subnet.free.lowest().is_none())
    }

    /// How many addresses have owners.
    pub fn given(&self) -> usize {
        self.owners.len()
    }

    pub fn is_unused(&self) -> bool {
        self.owners.is_empty()
    }

    /// The subnet in use that shares addresses with the range.
    pub fn overlapping(&self, cidr: Cidr) -> Option<&str> {
        self.subnets.iter().find(|subnet| subnet.range.cidr.overlaps(cidr)).map(|subnet| subnet.name.as_str())
    }

    /// Whose the address is.
    pub fn owner(&self, ip: Ipv4Addr) -> Option<&str> {
        self.owners.get(&ip).map(String::as_str)
    }

    /// Gives the lowest free address of the first subnet that has one, or of the one named.
    pub fn allocate(&mut self, owner: &str, subnet: Option<&str>) -> Result<Assigned, AllocationError> {
        if let Some(name) = subnet
            && !self.subnets.iter().any(|subnet| subnet.name == name)
        {
            return Err(AllocationError::UnknownSubnet(name.to_owned()));
        }
        if self.subnets.is_empty() {
            return Err(AllocationError::NoSubnet);
        }
        let found = self.lowest(subnet).or_else(|| {
            // Some of them may have gone unheard of.
            self.hear_of_elsewhere();
            self.lowest(subnet)
        });
        let (name, ip) = found.ok_or(AllocationError::Exhausted)?;
        self.note(owner, ip);
        Ok((name, ip))
    }

    /// Takes out the lowest free one.
    fn lowest(&mut self, subnet: Option<&str>) -> Option<Assigned> {
        let mut candidates = self.subnets.iter_mut().filter(|entry| subnet.is_none_or(|name| entry.name == name));
        candidates.find_map(|entry| Some((entry.name.clone(), Ipv4Addr::from_bits(entry.free.pop_lowest()?))))
    }

    /// What the owner has turned out to be another server's port's: the owner does not have it, and nobody is given it
    /// before that port is heard of, unless nothing else is free.
    pub fn is_elsewhere(&mut self, owner: &str, ip: Ipv4Addr) {
        if self.owners.get(&ip).is_none_or(|other| other != owner) {
            return;
        }
        self.take_from(owner, ip);
        self.elsewhere.insert(ip);
    }

    /// The owner does not have the address. It is not free for it.
    pub fn take_from(&mut self, owner: &str, ip: Ipv4Addr) {
        self.owners.remove(&ip);
        if let Some(ips) = self.by_owner.get_mut(owner) {
            ips.retain(|other| *other != ip);
            if ips.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }

    fn hear_of_elsewhere(&mut self) {
        for ip in std::mem::take(&mut self.elsewhere) {
            if !self.owners.contains_key(&ip) {
                self.give_back(ip);
            }
        }
    }

    fn give_back(&mut self, ip: Ipv4Addr) {
        let pooled = |entry: &&mut Entry| entry.range.pools.iter().any(|(first, last)| (*first..=*last).contains(&ip));
        if let Some(entry) = self.subnets.iter_mut().find(pooled) {
            entry.free.insert(ip.to_bits(), ip.to_bits());
        }
    }

    /// All who have an address.
    pub fn all_owners(&self) -> impl Iterator<Item = &String> {
        self.by_owner.keys()
    }

    /// Gives this very address, of a pool or not. What the owner has already it may claim again.
    pub fn claim(&mut self, owner: &str, ip: Ipv4Addr) -> Result<Assigned, AllocationError> {
        let entry = self
            .subnets
            .iter_mut()
            .find(|subnet| subnet.range.cidr.has_usable(ip))
            .ok_or(AllocationError::Outside(ip))?;
        if entry.range.gateway == Some(ip) {
            return Err(AllocationError::Gateway(ip));
        }
        let name = entry.name.clone();
        match self.owners.get(&ip) {
            Some(other) if other != owner => Err(AllocationError::InUse { ip, owner: other.clone() }),
            Some(_) => Ok((name, ip)),
            None => {
                entry.free.remove(ip.to_bits());
                self.note(owner, ip);
                Ok((name, ip))
            }
        }
    }

    fn note(&mut self, owner: &str, ip: Ipv4Addr) {
        self.elsewhere.remove(&ip);
        self.owners.insert(ip, owner.to_owned());
        self.by_owner.entry(owner.to_owned()).or_default().push(ip);
    }

    /// Takes back all that the owner has.
    pub fn release(&mut self, owner: &str) {
        self.release_except(owner, &[]);
    }

    /// Takes back all that the owner has but these.
    pub fn release_except(&mut self, owner: &str, kept: &[Ipv4Addr]) {
        let Some(ips) = self.by_owner.remove(owner) else { return };
        let (kept, gone): (Vec<_>, Vec<_>) = ips.into_iter().partition(|ip| kept.contains(ip));
        for ip in gone {
            self.owners.remove(&ip);
            self.give_back(ip);
        }
        if !kept.is_empty() {
            self.by_owner.insert(owner.to_owned(), kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use hypernetes_api::types::network::{AllocationPool, SubnetSpec};
    use proptest::prelude::*;

    use super::*;

    fn range(cidr: &str, pools: &[(&str, &str)]) -> SubnetRange {
        let pools = pools.iter().map(|(start, end)| AllocationPool { start: (*start).into(), end: (*end).into() });
        let spec = SubnetSpec { cidr: cidr.into(), allocation_pools: pools.collect(), ..SubnetSpec::default() };
        SubnetRange::parse(&spec).unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn lowest_first_and_claims() {
        let mut ipam = Ipam::new([("a".into(), range("10.0.0.0/29", &[])), ("b".into(), range("10.0.1.0/30", &[]))]);
        assert_eq!(ipam.allocate("p1", None), Ok(("a".into(), ip("10.0.0.2"))));
        assert_eq!(ipam.claim("p2", ip("10.0.0.3")), Ok(("a".into(), ip("10.0.0.3"))));
        assert_eq!(ipam.claim("p2", ip("10.0.0.3")), Ok(("a".into(), ip("10.0.0.3"))));
        assert_eq!(ipam.allocate("p3", None), Ok(("a".into(), ip("10.0.0.4"))));
        assert_eq!(
            ipam.claim("p4", ip("10.0.0.2")),
            Err(AllocationError::InUse { ip: ip("10.0.0.2"), owner: "p1".into() })
        );
        assert_eq!(ipam.claim("p4", ip("10.0.0.1")), Err(AllocationError::Gateway(ip("10.0.0.1"))));
        for outside in ["10.0.0.0", "10.0.0.7", "10.0.2.1"] {
            assert_eq!(ipam.claim("p4", ip(outside)), Err(AllocationError::Outside(ip(outside))));
        }
        ipam.release("p1");
        ipam.release("p1");
        assert_eq!(ipam.allocate("p5", None), Ok(("a".into(), ip("10.0.0.2"))));
        assert_eq!(ipam.allocate("p6", Some("b")), Ok(("b".into(), ip("10.0.1.2"))));
        assert_eq!(ipam.allocate("p7", Some("b")), Err(AllocationError::Exhausted));
        assert_eq!(ipam.allocate("p7", Some("c")), Err(AllocationError::UnknownSubnet("c".into())));
        assert_eq!(Ipam::default().allocate("p", None), Err(AllocationError::NoSubnet));
    }

    #[test]
    fn outside_the_pools_only_on_demand() {
        let mut ipam = Ipam::new([("a".into(), range("10.0.0.0/24", &[("10.0.0.10", "10.0.0.11")]))]);
        ipam.claim("p1", ip("10.0.0.99")).unwrap();
        ipam.release("p1");
        ipam.allocate("p1", None).unwrap();
        ipam.allocate("p2", None).unwrap();
        assert_eq!(ipam.allocate("p3", None), Err(AllocationError::Exhausted));
    }

    #[test]
    fn what_another_server_gave_is_given_last() {
        let mut ipam = Ipam::new([("a".into(), range("10.0.0.0/29", &[]))]);
        ipam.allocate("p1", None).unwrap();
        ipam.is_elsewhere("p1", ip("10.0.0.2"));
        ipam.is_elsewhere("p1", ip("10.0.0.3"));
        assert!(ipam.owner(ip("10.0.0.2")).is_none() && ipam.addresses("p1").is_empty());
        assert_eq!(ipam.allocate("p1", None), Ok(("a".into(), ip("10.0.0.3"))));
        // Its port is heard of, and goes.
        ipam.claim("other", ip("10.0.0.2")).unwrap();
        ipam.release("other");
        assert_eq!(ipam.allocate("p2", None), Ok(("a".into(), ip("10.0.0.2"))));
        // One of which nothing is heard.
        ipam.is_elsewhere("p2", ip("10.0.0.2"));
        for want in ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"] {
            assert_eq!(ipam.allocate("p3", None), Ok(("a".into(), ip(want))));
        }
        assert_eq!(ipam.allocate("p3", None), Err(AllocationError::Exhausted));
    }

    #[test]
    fn an_overlapping_subnet_is_not_used() {
        let ipam = Ipam::new([
            ("a".into(), range("10.0.0.0/24", &[])),
            ("b".into(), range("10.0.0.128/25", &[])),
            ("c".into(), range("10.0.1.0/24", &[])),
        ]);
        assert_eq!(ipam.overlapping(Cidr::parse("10.0.0.200/30").unwrap()), Some("a"));
        assert_eq!(ipam.subnets.len(), 2);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u8),
        Claim(u8, u8),
        Release(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..40).prop_map(Step::Allocate),
            2 => (0u8..40, 0u8..20).prop_map(|(owner, last)| Step::Claim(owner, last)),
            2 => (0u8..40).prop_map(Step::Release),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        /// Against a plain model: no address has two owners, each allocation is the lowest free one, and it fails only
        /// when there is none.
        #[test]
        fn nobody_shares_an_address(steps in steps()) {
            let mut ipam = Ipam::new([("a".into(), range("10.0.0.0/28", &[("10.0.0.3", "10.0.0.6"), ("10.0.0.8", "10.0.0.13")]))]);
            let pool: BTreeSet<Ipv4Addr> = (3..=6).chain(8..=13).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
            let mut model: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Allocate(owner) => {
                        let owner = owner.to_string();
                        let lowest = pool.iter().find(|ip| !model.contains_key(ip)).copied();
                        let want = lowest.map(|ip| ("a".to_owned(), ip)).ok_or(AllocationError::Exhausted);
                        prop_assert_eq!(ipam.allocate(&owner, None), want);
                        model.extend(lowest.map(|ip| (ip, owner)));
                    }
                    Step::Claim(owner, last) => {
                        let (owner, ip) = (owner.to_string(), Ipv4Addr::new(10, 0, 0, last));
                        let free = model.get(&ip).is_none_or(|other| *other == owner);
                        let possible = (2..15).contains(&last) && free;
                        prop_assert_eq!(ipam.claim(&owner, ip).is_ok(), possible);
                        if possible {
                            model.insert(ip, owner);
                        }
                    }
                    Step::Release(owner) => {
                        ipam.release(&owner.to_string());
                        model.retain(|_, other| *other != owner.to_string());
                    }
                }
                for last in 0..16 {
                    let ip = Ipv4Addr::new(10, 0, 0, last);
                    prop_assert_eq!(ipam.owner(ip), model.get(&ip).map(String::as_str));
                }
            }
        }
    }
}
