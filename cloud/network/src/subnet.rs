//! What a Subnet's specification means.

use std::net::Ipv4Addr;

use hypernetes_api::types::network::{AllocationPool, SubnetSpec};

/// Written as a gateway: there is none.
pub(crate) const NO_GATEWAY: &str = "none";

/// A checked range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubnetRange {
    pub cidr: Cidr,
    pub gateway: Option<Ipv4Addr>,
    /// First and last, both included; in the order given, without overlaps.
    pub pools: Vec<(Ipv4Addr, Ipv4Addr)>,
}

/// An IPv4 network: the host part is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    first: u32,
    length: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubnetError {
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

impl SubnetRange {
    pub fn parse(spec: &SubnetSpec) -> Result<Self, SubnetError> {
        let cidr = Cidr::parse(&spec.cidr)?;
        let gateway = match spec.gateway.as_str() {
            NO_GATEWAY => None,
            "" => Some(cidr.usable().0),
            text => Some(address(text)?),
        };
        if let Some(gateway) = gateway.filter(|gateway| !cidr.has_usable(*gateway)) {
            return Err(SubnetError::Gateway(gateway));
        }
        let pools = if spec.allocation_pools.is_empty() {
            default_pools(cidr, gateway)
        } else {
            parse_pools(&spec.allocation_pools, cidr, gateway)?
        };
        Ok(Self { cidr, gateway, pools })
    }
}

pub(crate) fn address(text: &str) -> Result<Ipv4Addr, SubnetError> {
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

fn parse_pools(
    pools: &[AllocationPool],
    cidr: Cidr,
    gateway: Option<Ipv4Addr>,
) -> Result<Vec<(Ipv4Addr, Ipv4Addr)>, SubnetError> {
    let mut parsed: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
    for pool in pools {
        let (start, end) = (address(&pool.start)?, address(&pool.end)?);
        if end < start {
            return Err(SubnetError::Backwards(start, end));
        }
        if !cidr.has_usable(start) || !cidr.has_usable(end) {
            return Err(SubnetError::PoolOutside(start, end));
        }
        if let Some((other, _)) = parsed.iter().find(|(s, e)| start <= *e && *s <= end) {
            return Err(SubnetError::PoolsOverlap(*other, start));
        }
        if let Some(gateway) = gateway.filter(|gateway| (start..=end).contains(gateway)) {
            return Err(SubnetError::GatewayInPool(gateway, start, end));
        }
        parsed.push((start, end));
    }
    Ok(parsed)
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
