//! Ranges of addresses.

use super::{Overload, Sig, global, member, opaque, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::value::cidr::Cidr;
use crate::value::{OpaqueValue, Value, ip};

const CIDR: Sig = Sig::Opaque(Opaque::Cidr);
const IP: Sig = Sig::Opaque(Opaque::Ip);

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
