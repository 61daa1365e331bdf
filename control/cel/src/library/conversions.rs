//! `size`, `type`, and from one type to another.

use std::sync::Arc;

use super::Context;
use super::{LIST_A, MAP_AB, Overload, Sig, global, member};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::value::time::{self, Time};
use crate::value::{TypeName, Value};

pub(super) const ROWS: &[Overload] = &[
    global("size", "size_bytes", &[Sig::Bytes], Sig::Int, Cost::One, size),
    member("size", "bytes_size", &[Sig::Bytes], Sig::Int, Cost::One, size),
    global("size", "size_list", &[LIST_A], Sig::Int, Cost::One, size),
    member("size", "list_size", &[LIST_A], Sig::Int, Cost::One, size),
    global("size", "size_map", &[MAP_AB], Sig::Int, Cost::One, size),
    member("size", "map_size", &[MAP_AB], Sig::Int, Cost::One, size),
    global("size", "size_string", &[Sig::String], Sig::Int, Cost::One, size),
    member("size", "string_size", &[Sig::String], Sig::Int, Cost::One, size),
    global("type", "type", &[Sig::A], Sig::TypeOf(&Sig::A), Cost::One, |_, args| {
        Ok(Value::Type(TypeName(args[0].type_name())))
    }),
    global("dyn", "to_dyn", &[Sig::A], Sig::Dyn, Cost::One, same),
    global("bool", "bool_to_bool", &[Sig::Bool], Sig::Bool, Cost::One, same),
    global("bool", "string_to_bool", &[Sig::String], Sig::Bool, Cost::One, to_bool),
    global("bytes", "bytes_to_bytes", &[Sig::Bytes], Sig::Bytes, Cost::One, same),
    global("bytes", "string_to_bytes", &[Sig::String], Sig::Bytes, Cost::TextToBytes, to_bytes),
    global("double", "double_to_double", &[Sig::Double], Sig::Double, Cost::One, same),
    global("double", "int64_to_double", &[Sig::Int], Sig::Double, Cost::One, to_double),
    global("double", "string_to_double", &[Sig::String], Sig::Double, Cost::One, to_double),
    global("double", "uint64_to_double", &[Sig::Uint], Sig::Double, Cost::One, to_double),
    global("duration", "duration_to_duration", &[Sig::Duration], Sig::Duration, Cost::One, same),
    global("duration", "int64_to_duration", &[Sig::Int], Sig::Duration, Cost::One, to_duration),
    global("duration", "string_to_duration", &[Sig::String], Sig::Duration, Cost::One, to_duration),
    global("int", "int64_to_int64", &[Sig::Int], Sig::Int, Cost::One, same),
    global("int", "double_to_int64", &[Sig::Double], Sig::Int, Cost::One, to_int),
    global("int", "duration_to_int64", &[Sig::Duration], Sig::Int, Cost::One, to_int),
    global("int", "string_to_int64", &[Sig::String], Sig::Int, Cost::One, to_int),
    global("int", "timestamp_to_int64", &[Sig::Timestamp], Sig::Int, Cost::One, to_int),
    global("int", "uint64_to_int64", &[Sig::Uint], Sig::Int, Cost::One, to_int),
    global("string", "string_to_string", &[Sig::String], Sig::String, Cost::One, same),
    global("string", "bool_to_string", &[Sig::Bool], Sig::String, Cost::One, to_string),
    global("string", "bytes_to_string", &[Sig::Bytes], Sig::String, Cost::BytesToText, to_string),
    global("string", "double_to_string", &[Sig::Double], Sig::String, Cost::One, to_string),
    global("string", "duration_to_string", &[Sig::Duration], Sig::String, Cost::One, to_string),
    global("string", "int64_to_string", &[Sig::Int], Sig::String, Cost::One, to_string),
    global("string", "timestamp_to_string", &[Sig::Timestamp], Sig::String, Cost::One, to_string),
    global("string", "uint64_to_string", &[Sig::Uint], Sig::String, Cost::One, to_string),
    global("timestamp", "timestamp_to_timestamp", &[Sig::Timestamp], Sig::Timestamp, Cost::One, same),
    global("timestamp", "int64_to_timestamp", &[Sig::Int], Sig::Timestamp, Cost::One, to_timestamp),
    global("timestamp", "string_to_timestamp", &[Sig::String], Sig::Timestamp, Cost::One, to_timestamp),
    global("uint", "uint64_to_uint64", &[Sig::Uint], Sig::Uint, Cost::One, same),
    global("uint", "double_to_uint64", &[Sig::Double], Sig::Uint, Cost::One, to_uint),
    global("uint", "int64_to_uint64", &[Sig::Int], Sig::Uint, Cost::One, to_uint),
    global("uint", "string_to_uint64", &[Sig::String], Sig::Uint, Cost::One, to_uint),
];

fn size<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    args[0].size().map(|size| Value::Int(size as i64)).ok_or(EvalError::NO_SUCH_OVERLOAD)
}

fn same<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    Ok(args[0].clone())
}

fn cannot(value: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

fn to_bool<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args[0].as_str() {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Value::Bool(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Value::Bool(false)),
        _ => Err(cannot(&args[0], "bool")),
    }
}

fn to_bytes<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let text = super::text(args, 0)?;
    context.meter.grow(text.len())?;
    Ok(Value::Bytes(Arc::from(text.as_bytes())))
}

fn to_double<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Double(match &args[0] {
        Value::Int(value) => *value as f64,
        Value::Uint(value) => *value as f64,
        Value::String(text) => parse_double(text.as_str()).ok_or_else(|| cannot(&args[0], "double"))?,
        other => return Err(cannot(other, "double")),
    }))
}

/// What Go's `ParseFloat` reads, but for hexadecimal and underscores.
fn parse_double(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    // Go calls what is too large an error.
    let named = text.trim_start_matches(['+', '-']).starts_with(['i', 'I', 'n', 'N']);
    (named || value.is_finite()).then_some(value)
}

fn to_duration<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::String(text) => time::parse_duration(text.as_str())
            .map(Value::Duration)
            .ok_or_else(|| cannot(&args[0], "google.protobuf.Duration")),
        other => Err(cannot(other, "google.protobuf.Duration")),
    }
}

fn to_int<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let overflow = || EvalError::new("integer overflow");
    Ok(Value::Int(match &args[0] {
        Value::Double(value) => {
            // Both ends are refused: a double cannot tell the largest integer from the one behind it.
            if !value.is_finite() || *value <= i64::MIN as f64 || *value >= i64::MAX as f64 {
                return Err(overflow());
            }
            *value as i64
        }
        Value::Duration(nanos) => *nanos,
        Value::String(text) => parse_int(text.as_str()).ok_or_else(|| cannot(&args[0], "int"))?,
        Value::Timestamp(at) => at.seconds(),
        Value::Uint(value) => i64::try_from(*value).map_err(|_| overflow())?,
        other => return Err(cannot(other, "int")),
    }))
}

fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn to_uint<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let overflow = || EvalError::new("unsigned integer overflow");
    Ok(Value::Uint(match &args[0] {
        Value::Double(value) => {
            if !value.is_finite() || *value < 0.0 || *value >= u64::MAX as f64 {
                return Err(overflow());
            }
            *value as u64
        }
        Value::Int(value) => u64::try_from(*value).map_err(|_| overflow())?,
        Value::String(text) if text.as_str().starts_with('+') => return Err(cannot(&args[0], "uint")),
        Value::String(text) => text.as_str().parse().map_err(|_| cannot(&args[0], "uint"))?,
        other => return Err(cannot(other, "uint")),
    }))
}

fn to_string<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::text(match &args[0] {
        Value::Bool(value) => value.to_string(),
        Value::Bytes(bytes) => {
            context.meter.grow(bytes.len())?;
            match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
            }
        }
        Value::Double(value) => time::double_text(*value),
        Value::Duration(nanos) => time::duration_text(*nanos),
        Value::Int(value) => value.to_string(),
        Value::Timestamp(at) => at.to_string(),
        Value::Uint(value) => value.to_string(),
        other => return Err(cannot(other, "string")),
    }))
}

fn to_timestamp<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Int(seconds) => {
            Time::of_seconds(*seconds).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
        }
        Value::String(text) => Time::parse(text.as_str())
            .map(Value::Timestamp)
            .ok_or_else(|| cannot(&args[0], "google.protobuf.Timestamp")),
        other => Err(cannot(other, "google.protobuf.Timestamp")),
    }
}
