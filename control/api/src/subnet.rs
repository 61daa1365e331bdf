//! What a Subnet's specification means, and what is wrong with one: the API server refuses by it, and the network service allocates.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::types::network::{AllocationPool, SubnetSpec};

/// Written as a gateway: there is none.
pub const NO_GATEWAY: &str = "none";

/// A checked range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetRange {
    pub cidr: Cidr,
    pub gateway: Option<Ipv4Addr>,
    /// First and last, both included; in the order given, without overlaps.
    pub pools: Vec<(Ipv4Addr, Ipv4Addr)>,
}

/// An IPv4 network: the host part is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    first: u32,
    length: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("{0:?} is not an IPv4 range such as 10.0.0.0/24, of at least four addresses")]
    Cidr(String),
    #[error("IPv6 subnets are not supported")]
    Ipv6,
    #[error("{0:?} is not an IPv4 address")]
    Address(String),
    #[error("{0} is not a usable address of the range")]
    Gateway(Ipv4Addr),
    #[error("the pool {0} to {1} ends before it begins")]
    Backwards(Ipv4Addr, Ipv4Addr),
    #[error("the pool {0} to {1} is not within the usable addresses of the range")]
    PoolOutside(Ipv4Addr, Ipv4Addr),
    #[error("the pools that begin at {0} and {1} overlap")]
    PoolsOverlap(Ipv4Addr, Ipv4Addr),
    #[error("the gateway {0} is in the pool {1} to {2}")]
    GatewayInPool(Ipv4Addr, Ipv4Addr, Ipv4Addr),
}

impl Cidr {
    /// A host part that is not zero is cut off.
    pub fn parse(text: &str) -> Result<Self, SubnetError> {
        if text.split('/').next().is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()) {
            return Err(SubnetError::Ipv6);
        }
        let parse = || {
            let (ip, length) = text.split_once('/')?;
            let (ip, length): (Ipv4Addr, u8) = (ip.parse().ok()?, length.parse().ok()?);
            // Fewer than four addresses leave none for a gateway and a port.
            (1..=30).contains(&length).then(|| Self { first: ip.to_bits() & (u32::MAX << (32 - length)), length })
        };
        parse().ok_or_else(|| SubnetError::Cidr(text.chars().take(64).collect()))
    }

    fn last(self) -> u32 {
        self.first | (u32::MAX >> self.length)
    }

    /// Without the network's and the broadcast address.
    pub fn usable(self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from_bits(self.first + 1), Ipv4Addr::from_bits(self.last() - 1))
    }

    pub fn has_usable(self, ip: Ipv4Addr) -> bool {
        let (first, last) = self.usable();
        (first..=last).contains(&ip)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.length)
    }
}

/// Which part of a specification is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Cidr,
    Gateway,
    /// The pool of this place in the list.
    Pool(usize),
    PoolStart(usize),
    PoolEnd(usize),
}

/// One thing that is wrong, and where.
pub type Fault = (Part, SubnetError);

impl SubnetRange {
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(spec: &SubnetSpec) -> Result<Self, SubnetError> {
        let mut faults = Vec::new();
        match (Self::read(spec, &mut faults), faults.into_iter().next()) {
            (_, Some((_, error))) => Err(error),
            (Some(range), None) => Ok(range),
            (None, None) => Err(SubnetError::Cidr(String::new())),
        }
    }

    /// All that is wrong with it. What can only be told beside a range is not, where that is none.
    pub fn faults(spec: &SubnetSpec) -> Vec<Fault> {
        let mut faults = Vec::new();
        Self::read(spec, &mut faults);
        faults
    }

    /// None where there is no range; what is wrong is appended.
    fn read(spec: &SubnetSpec, faults: &mut Vec<Fault>) -> Option<Self> {
        let cidr = Cidr::parse(&spec.cidr).map_err(|error| faults.push((Part::Cidr, error))).ok();
        let gateway = match spec.gateway.as_str() {
            NO_GATEWAY => None,
            "" => cidr.map(|cidr| cidr.usable().0),
            text => address(text).map_err(|error| faults.push((Part::Gateway, error))).ok(),
        };
        if let (Some(cidr), Some(gateway)) = (cidr, gateway)
            && !cidr.has_usable(gateway)
        {
            faults.push((Part::Gateway, SubnetError::Gateway(gateway)));
        }
        let given = parse_pools(&spec.allocation_pools, cidr, gateway, faults);
        let cidr = cidr?;
        let pools = if spec.allocation_pools.is_empty() { default_pools(cidr, gateway) } else { given };
        Some(Self { cidr, gateway, pools })
    }
}

/// # Errors
/// When it is no IPv4 address.
pub fn address(text: &str) -> Result<Ipv4Addr, SubnetError> {
    text.parse().map_err(|_| SubnetError::Address(text.chars().take(64).collect()))
}

/// All usable addresses but the gateway's.
fn default_pools(cidr: Cidr, gateway: Option<Ipv4Addr>) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let (first, last) = cidr.usable();
    let Some(gateway) = gateway else { return vec![(first, last)] };
    let (first, last, gateway) = (first.to_bits(), last.to_bits(), gateway.to_bits());
    let parts = [(first, gateway - 1), (gateway + 1, last)];
    let not_empty = parts.into_iter().filter(|(first, last)| first <= last);
    not_empty.map(|(first, last)| (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last))).collect()
}

/// The good ones; what is wrong with the others is appended.
fn parse_pools(
    pools: &[AllocationPool],
    cidr: Option<Cidr>,
    gateway: Option<Ipv4Addr>,
    faults: &mut Vec<Fault>,
) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let mut parsed: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
    // The same in order: there may be thousands.
    let mut ordered: BTreeMap<Ipv4Addr, Ipv4Addr> = BTreeMap::new();
    for (place, pool) in pools.iter().enumerate() {
        let start = address(&pool.start).map_err(|error| faults.push((Part::PoolStart(place), error)));
        let end = address(&pool.end).map_err(|error| faults.push((Part::PoolEnd(place), error)));
        let (Ok(start), Ok(end)) = (start, end) else { continue };
        let overlapped = ordered.range(..=end).next_back().filter(|(_, last)| start <= **last);
        let fault = if end < start {
            Some(SubnetError::Backwards(start, end))
        } else if cidr.is_some_and(|cidr| !cidr.has_usable(start) || !cidr.has_usable(end)) {
            Some(SubnetError::PoolOutside(start, end))
        } else if let Some((other, _)) = overlapped {
            Some(SubnetError::PoolsOverlap(*other, start))
        } else {
            let gateway = gateway.filter(|gateway| (start..=end).contains(gateway));
            gateway.map(|gateway| SubnetError::GatewayInPool(gateway, start, end))
        };
        match fault {
            Some(error) => faults.push((Part::Pool(place), error)),
            None => {
                parsed.push((start, end));
                ordered.insert(start, end);
            }
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(cidr: &str, gateway: &str, pools: &[(&str, &str)]) -> SubnetSpec {
        SubnetSpec {
            cidr: cidr.into(),
            gateway: gateway.into(),
            allocation_pools: pools
                .iter()
                .map(|(start, end)| AllocationPool { start: (*start).into(), end: (*end).into() })
                .collect(),
            ..SubnetSpec::default()
        }
    }

    fn shown(range: &SubnetRange) -> String {
        let pools: Vec<String> = range.pools.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        format!("{} {:?} {}", range.cidr, range.gateway, pools.join(","))
    }

    #[test]
    fn defaults() {
        for (cidr, gateway, want) in [
            ("10.0.0.0/24", "", "10.0.0.0/24 Some(10.0.0.1) 10.0.0.2-10.0.0.254"),
            ("10.0.0.7/24", "10.0.0.9", "10.0.0.0/24 Some(10.0.0.9) 10.0.0.1-10.0.0.8,10.0.0.10-10.0.0.254"),
            ("10.0.0.0/30", "10.0.0.2", "10.0.0.0/30 Some(10.0.0.2) 10.0.0.1-10.0.0.1"),
            ("10.0.0.0/30", "none", "10.0.0.0/30 None 10.0.0.1-10.0.0.2"),
            (
                "255.255.255.0/24",
                "255.255.255.254",
                "255.255.255.0/24 Some(255.255.255.254) 255.255.255.1-255.255.255.253",
            ),
        ] {
            assert_eq!(shown(&SubnetRange::parse(&spec(cidr, gateway, &[])).unwrap()), want);
        }
    }

    #[test]
    fn bad_ones_say_why() {
        let error = |cidr: &str, gateway: &str, pools: &[(&str, &str)]| {
            SubnetRange::parse(&spec(cidr, gateway, pools)).unwrap_err().to_string()
        };
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/31", "10.0.0.0/0", "10.0.0/24", "x/24", "10.0.0.0/-1"] {
            assert!(error(bad, "", &[]).contains("is not an IPv4 range"), "{bad}");
        }
        assert_eq!(error("fd00::/64", "", &[]), "IPv6 subnets are not supported");
        let net = "10.0.0.0/24";
        assert!(error(net, "gate", &[]).contains("is not an IPv4 address"));
        for bad in ["10.0.1.1", "10.0.0.0", "10.0.0.255"] {
            assert!(error(net, bad, &[]).contains("usable"), "{bad}");
        }
        assert!(error(net, "", &[("10.0.0.9", "10.0.0.5")]).contains("ends before"));
        assert!(error(net, "", &[("10.0.0.9", "10.0.0.255")]).contains("not within"));
        assert!(error(net, "", &[("10.0.0.9", "10.0.0.20"), ("10.0.0.20", "10.0.0.30")]).contains("overlap"));
        assert!(error(net, "10.0.0.10", &[("10.0.0.9", "10.0.0.20")]).contains("is in the pool"));
    }
}
