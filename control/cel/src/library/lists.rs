//! Kubernetes' lists: order, sums, the first and the last that is equal.

use std::cmp::Ordering;

use super::Context;
use super::{LIST_A, Overload, Sig, any, list, member, operators};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::value::Value;

const BOOLS: Sig = Sig::List(&Sig::Bool);
const INTS: Sig = Sig::List(&Sig::Int);
const UINTS: Sig = Sig::List(&Sig::Uint);
const DOUBLES: Sig = Sig::List(&Sig::Double);
const DURATIONS: Sig = Sig::List(&Sig::Duration);
const TIMESTAMPS: Sig = Sig::List(&Sig::Timestamp);
const STRINGS: Sig = Sig::List(&Sig::String);
const BYTES: Sig = Sig::List(&Sig::Bytes);

pub(super) const ROWS: &[Overload] = &[
    member("isSorted", "list_int_is_sorted_bool", &[INTS], Sig::Bool, Cost::Elements, is_sorted),
    member("isSorted", "list_uint_is_sorted_bool", &[UINTS], Sig::Bool, Cost::Elements, is_sorted),
    member("isSorted", "list_double_is_sorted_bool", &[DOUBLES], Sig::Bool, Cost::Elements, is_sorted),
    member("isSorted", "list_bool_is_sorted_bool", &[BOOLS], Sig::Bool, Cost::Elements, is_sorted),
    member("isSorted", "list_duration_is_sorted_bool", &[DURATIONS], Sig::Bool, Cost::Elements, is_sorted),
    member("isSorted", "list_timestamp_is_sorted_bool", &[TIMESTAMPS], Sig::Bool, Cost::Elements, is_sorted),
    member("isSorted", "list_string_is_sorted_bool", &[STRINGS], Sig::Bool, Cost::Elements, is_sorted),
    member("isSorted", "list_bytes_is_sorted_bool", &[BYTES], Sig::Bool, Cost::Elements, is_sorted),
    member("sum", "list_int_sum_int", &[INTS], Sig::Int, Cost::Elements, |context, args| {
        sum(context, args, Value::Int(0))
    }),
    member("sum", "list_uint_sum_uint", &[UINTS], Sig::Uint, Cost::Elements, |context, args| {
        sum(context, args, Value::Uint(0))
    }),
    member("sum", "list_double_sum_double", &[DOUBLES], Sig::Double, Cost::Elements, |context, args| {
        sum(context, args, Value::Double(0.0))
    }),
    member("sum", "list_duration_sum_duration", &[DURATIONS], Sig::Duration, Cost::Elements, |context, args| {
        sum(context, args, Value::Duration(0))
    }),
    member("max", "list_int_max_int", &[INTS], Sig::Int, Cost::Elements, max),
    member("max", "list_uint_max_uint", &[UINTS], Sig::Uint, Cost::Elements, max),
    member("max", "list_double_max_double", &[DOUBLES], Sig::Double, Cost::Elements, max),
    member("max", "list_bool_max_bool", &[BOOLS], Sig::Bool, Cost::Elements, max),
    member("max", "list_duration_max_duration", &[DURATIONS], Sig::Duration, Cost::Elements, max),
    member("max", "list_timestamp_max_timestamp", &[TIMESTAMPS], Sig::Timestamp, Cost::Elements, max),
    member("max", "list_string_max_string", &[STRINGS], Sig::String, Cost::Elements, max),
    member("max", "list_bytes_max_bytes", &[BYTES], Sig::Bytes, Cost::Elements, max),
    member("min", "list_int_min_int", &[INTS], Sig::Int, Cost::Elements, min),
    member("min", "list_uint_min_uint", &[UINTS], Sig::Uint, Cost::Elements, min),
    member("min", "list_double_min_double", &[DOUBLES], Sig::Double, Cost::Elements, min),
    member("min", "list_bool_min_bool", &[BOOLS], Sig::Bool, Cost::Elements, min),
    member("min", "list_duration_min_duration", &[DURATIONS], Sig::Duration, Cost::Elements, min),
    member("min", "list_timestamp_min_timestamp", &[TIMESTAMPS], Sig::Timestamp, Cost::Elements, min),
    member("min", "list_string_min_string", &[STRINGS], Sig::String, Cost::Elements, min),
    member("min", "list_bytes_min_bytes", &[BYTES], Sig::Bytes, Cost::Elements, min),
    member("indexOf", "list_a_index_of_int", &[LIST_A, Sig::A], Sig::Int, Cost::Elements, |context, args| {
        found(context, args, false)
    }),
    member("lastIndexOf", "list_a_last_index_of_int", &[LIST_A, Sig::A], Sig::Int, Cost::Elements, |context, args| {
        found(context, args, true)
    }),
];

fn is_sorted<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let mut before: Option<Value<'a>> = None;
    for item in list(args, 0)?.iter() {
        let item = item?;
        if let Some(before) = &before
            && before.compare(&item)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(context: &mut Context<'a>, args: &mut [Value<'a>], zero: Value<'a>) -> Result<Value<'a>> {
    let mut sum = zero;
    for item in list(args, 0)?.iter() {
        sum = operators::add(context, &mut [sum, item?])?;
    }
    Ok(sum)
}

fn max<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    extreme(args, "max", Ordering::Less)
}

fn min<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    extreme(args, "min", Ordering::Greater)
}

fn extreme<'a>(args: &[Value<'a>], name: &str, gives_way: Ordering) -> Result<Value<'a>> {
    let mut found: Option<Value<'a>> = None;
    for item in list(args, 0)?.iter() {
        let item = item?;
        match &found {
            Some(so_far) if so_far.compare(&item)? != gives_way => {}
            _ => found = Some(item),
        }
    }
    found.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn found<'a>(context: &mut Context<'a>, args: &mut [Value<'a>], last: bool) -> Result<Value<'a>> {
    let (list, sought) = (list(args, 0)?, any(args, 1)?);
    for index in 0..list.len() {
        let index = if last { list.len() - 1 - index } else { index };
        if let Some(Ok(item)) = list.get(index)
            && item.equals(sought, &mut context.meter)?
        {
            return Ok(Value::Int(index as i64));
        }
    }
    Ok(Value::Int(-1))
}
