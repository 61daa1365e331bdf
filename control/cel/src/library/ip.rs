//! IP addresses.

use std::net::{IpAddr, Ipv4Addr};

use super::{Overload, Sig, global, member, opaque, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::value::ip::parse;
use crate::value::{OpaqueValue, Value};

const IP: Sig = Sig::Opaque(Opaque::Ip);

macro_rules! test {
    ($name:literal, $id:literal, $test:expr) => {
        member($name, $id, &[IP], Sig::Bool, Cost::One, |_, args| {
            let test: fn(IpAddr) -> bool = $test;
            Ok(Value::Bool(test(of(args)?)))
        })
    };
}

pub(super) const ROWS: &[Overload] = &[
    global("ip", "string_to_ip", &[Sig::String], IP, Cost::Parse(1), |_, args| {
        parse(text(args, 0)?).map(|ip| Value::Opaque(OpaqueValue::Ip(ip))).map_err(EvalError::new)
    }),
    global("isIP", "is_ip", &[Sig::String], Sig::Bool, Cost::Parse(1), |_, args| {
        Ok(Value::Bool(parse(text(args, 0)?).is_ok()))
    }),
    global("ip.isCanonical", "ip_is_canonical", &[Sig::String], Sig::Bool, Cost::Parse(2), |_, args| {
        let written = text(args, 0)?;
        let ip = parse(written).map_err(EvalError::new)?;
        Ok(Value::Bool(ip.to_string() == written))
    }),
    member("family", "ip_family", &[IP], Sig::Int, Cost::One, |_, args| {
        Ok(Value::Int(if of(args)?.is_ipv4() { 4 } else { 6 }))
    }),
    test!("isUnspecified", "ip_is_unspecified", |ip| ip.is_unspecified()),
    test!("isLoopback", "ip_is_loopback", |ip| ip.is_loopback()),
    test!("isLinkLocalMulticast", "ip_is_link_local_multicast", is_link_local_multicast),
    test!("isLinkLocalUnicast", "ip_is_link_local_unicast", is_link_local_unicast),
    test!("isGlobalUnicast", "ip_is_global_unicast", |ip| {
        !ip.is_unspecified()
            && !ip.is_loopback()
            && !ip.is_multicast()
            && !is_link_local_unicast(ip)
            && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
    }),
    global("string", "ip_to_string", &[IP], Sig::String, Cost::One, |_, args| Ok(Value::text(of(args)?.to_string()))),
];

fn of(args: &[Value<'_>]) -> Result<IpAddr> {
    match opaque(args, 0)? {
        OpaqueValue::Ip(ip) => Ok(*ip),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}
