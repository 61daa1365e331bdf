//! Semantic versions, in the library's first version.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Overload, Sig, boolean, global, member, opaque, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::value::semver::{Parsed, Semver, parse};
use crate::value::{OpaqueValue, Value};

const SEMVER: Sig = Sig::Opaque(Opaque::Semver);
const TWO: &[Sig] = &[SEMVER, SEMVER];

pub(super) const ROWS: &[Overload] = &[
    global("semver", "string_to_semver", &[Sig::String], SEMVER, Cost::Parse(1), |_, args| {
        made(Semver::parse(text(args, 0)?))
    }),
    global("semver", "string_bool_to_semver", &[Sig::String, Sig::Bool], SEMVER, Cost::Parse(1), |_, args| {
        made(parse(text(args, 0)?, boolean(args, 1)?))
    }),
    global("isSemver", "is_semver_string", &[Sig::String], Sig::Bool, Cost::Parse(1), |_, args| {
        Ok(Value::Bool(Semver::parse(text(args, 0)?).is_ok()))
    }),
    global("isSemver", "is_semver_string_bool", &[Sig::String, Sig::Bool], Sig::Bool, Cost::Parse(1), |_, args| {
        Ok(Value::Bool(parse(text(args, 0)?, boolean(args, 1)?).is_ok()))
    }),
    member("isGreaterThan", "semver_is_greater_than", TWO, Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(compare(args)?.is_gt()))
    }),
    member("isLessThan", "semver_is_less_than", TWO, Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(compare(args)?.is_lt()))
    }),
    member("compareTo", "semver_compare_to", TWO, Sig::Int, Cost::One, |_, args| Ok(Value::Int(compare(args)? as i64))),
    member("major", "semver_major", &[SEMVER], Sig::Int, Cost::One, |_, args| {
        Ok(Value::Int(of(args, 0)?.numbers[0] as i64))
    }),
    member("minor", "semver_minor", &[SEMVER], Sig::Int, Cost::One, |_, args| {
        Ok(Value::Int(of(args, 0)?.numbers[1] as i64))
    }),
    member("patch", "semver_patch", &[SEMVER], Sig::Int, Cost::One, |_, args| {
        Ok(Value::Int(of(args, 0)?.numbers[2] as i64))
    }),
];

fn made<'a>(parsed: Parsed<Semver>) -> Result<Value<'a>> {
    parsed.map(|version| Value::Opaque(OpaqueValue::Semver(Arc::new(version)))).map_err(EvalError::new)
}

fn of<'v>(args: &'v [Value<'_>], index: usize) -> Result<&'v Semver> {
    match opaque(args, index)? {
        OpaqueValue::Semver(version) => Ok(version),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn compare(args: &[Value<'_>]) -> Result<Ordering> {
    Ok(of(args, 0)?.compare(of(args, 1)?))
}
