//! Ranges of addresses: an address and the length of its prefix.

use std::fmt;
use std::net::IpAddr;

use super::url::quoted;
use super::{Overload, Sig, global, ip, member, opaque, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::value::{OpaqueValue, Value};

const CIDR: Sig = Sig::Opaque(Opaque::Cidr);
const IP: Sig = Sig::Opaque(Opaque::Ip);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub(crate) address: IpAddr,
    length: u8,
}

pub(super) const ROWS: &[Overload] = &[
    global("cidr", "string_to_cidr", &[Sig::String], CIDR, Cost::Parse(1), |_, args| {
        parse(text(args, 0)?).map(|cidr| Value::Opaque(OpaqueValue::Cidr(cidr)))
    }),
    global("isCIDR", "is_cidr", &[Sig::String], Sig::Bool, Cost::Parse(1), |_, args| {
        Ok(Value::Bool(Cidr::parse(text(args, 0)?).is_ok()))
    }),
    member(
        "containsIP",
        "cidr_contains_ip_string",
        &[CIDR, Sig::String],
        Sig::Bool,
        Cost::ContainsIp { text: true },
        |_, args| {
            // Upstream says no more of what is no address.
            let ip = ip::parse(text(args, 1)?).map_err(|_| EvalError::NO_SUCH_OVERLOAD)?;
            Ok(Value::Bool(of(args, 0)?.contains(ip)))
        },
    ),
    member("containsIP", "cidr_contains_ip_ip", &[CIDR, IP], Sig::Bool, Cost::ContainsIp { text: false }, |_, args| {
        match opaque(args, 1)? {
            OpaqueValue::Ip(ip) => Ok(Value::Bool(of(args, 0)?.contains(*ip))),
            _ => Err(EvalError::NO_SUCH_OVERLOAD),
        }
    }),
    member(
        "containsCIDR",
        "cidr_contains_cidr_string",
        &[CIDR, Sig::String],
        Sig::Bool,
        Cost::ContainsCidr { text: true },
        |_, args| Ok(Value::Bool(of(args, 0)?.contains_all(parse(text(args, 1)?)?))),
    ),
    member(
        "containsCIDR",
        "cidr_contains_cidr",
        &[CIDR, CIDR],
        Sig::Bool,
        Cost::ContainsCidr { text: false },
        |_, args| Ok(Value::Bool(of(args, 0)?.contains_all(of(args, 1)?))),
    ),
    member("ip", "cidr_ip", &[CIDR], IP, Cost::One, |_, args| Ok(Value::Opaque(OpaqueValue::Ip(of(args, 0)?.address)))),
    member("prefixLength", "cidr_prefix_length", &[CIDR], Sig::Int, Cost::One, |_, args| {
        Ok(Value::Int(i64::from(of(args, 0)?.length)))
    }),
    member("masked", "cidr_masked", &[CIDR], CIDR, Cost::One, |_, args| {
        Ok(Value::Opaque(OpaqueValue::Cidr(of(args, 0)?.masked())))
    }),
    global("string", "cidr_to_string", &[CIDR], Sig::String, Cost::One, |_, args| {
        Ok(Value::text(of(args, 0)?.to_string()))
    }),
];

fn of(args: &[Value<'_>], index: usize) -> Result<Cidr> {
    match opaque(args, index)? {
        OpaqueValue::Cidr(cidr) => Ok(*cidr),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn parse(text: &str) -> Result<Cidr> {
    Cidr::parse(text)
        .map_err(|why| EvalError::new(format!("network address parse error during conversion from string: {why}")))
}

impl Cidr {
    fn parse(text: &str) -> std::result::Result<Self, String> {
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

    fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4() && Self::bits(ip, self.length) == Self::bits(self.address, self.length)
    }

    fn contains_all(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    fn masked(self) -> Self {
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
