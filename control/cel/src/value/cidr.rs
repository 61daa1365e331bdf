//! Ranges of addresses: an address and the length of its prefix.

use std::fmt;
use std::net::IpAddr;

use super::ip;
use super::url::quoted;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

impl Cidr {
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let failed = |why: String| {
            format!(
                "network address parse error during conversion from string: netip.ParsePrefix({}): {why}",
                quoted(text)
            )
        };
        let (address, length) = text.rsplit_once('/').ok_or_else(|| failed("no '/'".to_owned()))?;
        let ip = ip::address(address).map_err(failed)?;
        if address.contains('%') {
            return Err(failed("IPv6 zones cannot be present in a prefix".to_owned()));
        }
        let bad = || failed(format!("bad bits after slash: {}", quoted(length)));
        if length.len() > 1 && !length.starts_with(|c: char| ('1'..='9').contains(&c)) {
            return Err(bad());
        }
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits: u32 = length.parse().map_err(|_| bad())?;
        if length.starts_with('+') {
            return Err(bad());
        }
        if bits > most {
            return Err(failed("prefix length out of range".to_owned()));
        }
        if ip::is_mapped(ip) {
            return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quoted(text)));
        }
        Ok(Self { address: ip, length: bits as u8 })
    }

    /// The address in 128 bits, without what is behind the prefix.
    fn bits(address: IpAddr, length: u8) -> u128 {
        let (bits, width) = match address {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let behind = width - u32::from(length).min(width);
        bits.checked_shr(behind).unwrap_or(0).checked_shl(behind).unwrap_or(0)
    }

    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4() && Self::bits(ip, self.length) == Self::bits(self.address, self.length)
    }

    pub(crate) fn contains_all(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    pub(crate) fn masked(self) -> Self {
        let bits = Self::bits(self.address, self.length);
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(bits.into()),
        };
        Self { address, length: self.length }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}
