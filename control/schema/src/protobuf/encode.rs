//! JSON of a kind, turned into its message, and what messages are sent in: envelopes, lists, events of watches.
//!
//! What is empty is left out where Go has no pointer: to all who read it that is the same. Fields are in the order of their numbers, and
//! the same object is the same bytes.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{MAGIC, ProtobufError, Result, Target, is_empty, table};
use crate::{ObjectType, Schema, Struct, limits};

const VARINT: u32 = 0;
const FIXED: u32 = 1;
const BYTES: u32 = 2;

/// Whether the numbers of a kind's fields are known.
pub fn is_known(ty: &ObjectType) -> bool {
    !ty.is_defined() && ty.schema().as_struct().is_some_and(|shape| table().contains_key(&*shape.name))
}

/// The message of an object.
///
/// # Errors
/// When it is none of this kind.
pub fn message(ty: &ObjectType, object: &Value) -> Result<Vec<u8>> {
    let shape = ty.schema().as_struct().ok_or(ProtobufError::WireType)?;
    let mut out = Vec::with_capacity(512);
    write_struct(&mut out, object, shape, &shape.name, 0)?;
    Ok(out)
}

/// The message of an object's bare metadata: a `PartialObjectMetadata`.
///
/// # Errors
/// As [`message`].
pub fn metadata(ty: &ObjectType, object: &Value) -> Result<Vec<u8>> {
    let field = ty.schema().as_struct().and_then(|shape| shape.field("metadata")).ok_or(ProtobufError::WireType)?;
    let mut out = Vec::with_capacity(256);
    write_field(&mut out, 1, &object["metadata"], &field.schema, true, 0)?;
    Ok(out)
}

/// A message with what tells its kind around it.
pub fn enveloped(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind, message.len());
    out.extend_from_slice(message);
    out.extend_from_slice(&ENVELOPE_END);
    out
}

/// No encoding and no type of content: what ends an envelope.
pub const ENVELOPE_END: [u8; 4] = [3 << 3 | BYTES as u8, 0, 4 << 3 | BYTES as u8, 0];

/// All of an envelope before a message of this length.
pub fn envelope_head(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut meta = Vec::with_capacity(64);
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(meta.len() + 32);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &meta);
    put_tag(&mut out, 2, BYTES);
    put_varint(&mut out, length as u64);
    out
}

/// What every list has before its items.
pub fn list_head(version: &str, next: Option<&str>, remaining: Option<i64>) -> Vec<u8> {
    let mut meta = Vec::with_capacity(64);
    put_bytes(&mut meta, 2, version.as_bytes());
    if let Some(next) = next {
        put_bytes(&mut meta, 3, next.as_bytes());
    }
    if let Some(remaining) = remaining {
        put_tag(&mut meta, 4, VARINT);
        put_varint(&mut meta, remaining.cast_unsigned());
    }
    let mut out = Vec::with_capacity(meta.len() + 8);
    put_bytes(&mut out, 1, &meta);
    out
}

/// What stands before an item of a list.
pub fn item_head(length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    put_tag(&mut out, 2, BYTES);
    put_varint(&mut out, length as u64);
    out
}

/// An event of a watch, of an object in its envelope: with its length before it.
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    put_bytes(&mut raw, 1, object);
    let mut event = Vec::with_capacity(raw.len() + kind.len() + 16);
    put_bytes(&mut event, 1, kind.as_bytes());
    put_bytes(&mut event, 2, &raw);
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), event.as_slice()].concat()
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    put_varint(out, u64::from(number << 3 | wire));
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, number: u32, value: i64) {
    put_tag(out, number, VARINT);
    put_varint(out, value.cast_unsigned());
}

fn write_struct(out: &mut Vec<u8>, value: &Value, shape: &Struct, definition: &str, depth: usize) -> Result<()> {
    if depth > limits::MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let Some(fields) = value.as_object() else { return Err(ProtobufError::WireType) };
    for (number, target) in table().get(definition).map(Vec::as_slice).unwrap_or_default() {
        match target {
            Target::Inline(inner) => {
                let mut part = Vec::new();
                write_struct(&mut part, value, shape, inner, depth + 1)?;
                if !part.is_empty() {
                    put_bytes(out, *number, &part);
                }
            }
            Target::Field { name, pointer } => {
                if let (Some(value), Some(field)) = (fields.get(*name), shape.field(name)) {
                    write_field(out, *number, value, &field.schema, *pointer, depth)?;
                }
            }
        }
    }
    Ok(())
}

fn write_field(
    out: &mut Vec<u8>,
    number: u32,
    value: &Value,
    schema: &Arc<Schema>,
    pointer: bool,
    depth: usize,
) -> Result<()> {
    match (schema.resolve().as_ref(), value) {
        (_, Value::Null) => Ok(()),
        (Schema::List { items, .. }, Value::Array(list)) => {
            list.iter().try_for_each(|item| write_value(out, number, item, items, depth))
        }
        (Schema::Map { values, .. }, Value::Object(map)) => write_map(out, number, map, values, depth),
        (Schema::List { .. } | Schema::Map { .. }, _) => Err(ProtobufError::WireType),
        (_, value) if !pointer && is_empty(value) => Ok(()),
        _ => write_value(out, number, value, schema, depth),
    }
}

fn write_map(
    out: &mut Vec<u8>,
    number: u32,
    map: &Map<String, Value>,
    values: &Arc<Schema>,
    depth: usize,
) -> Result<()> {
    for (key, value) in map {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, key.as_bytes());
        match values.resolve().as_ref() {
            // A message is put around what is a list.
            Schema::List { items, .. } => {
                let mut list = Vec::new();
                for item in value.as_array().into_iter().flatten() {
                    write_value(&mut list, 1, item, items, depth + 1)?;
                }
                put_bytes(&mut entry, 2, &list);
            }
            _ => write_value(&mut entry, 2, value, values, depth + 1)?,
        }
        put_bytes(out, number, &entry);
    }
    Ok(())
}

fn write_value(out: &mut Vec<u8>, number: u32, value: &Value, schema: &Arc<Schema>, depth: usize) -> Result<()> {
    match schema.resolve().as_ref() {
        Schema::String => put_bytes(out, number, text(value)?.as_bytes()),
        Schema::Bytes => {
            put_bytes(out, number, &STANDARD.decode(text(value)?).map_err(|_| ProtobufError::NotText)?);
        }
        Schema::Boolean => put_number(out, number, value.as_bool().ok_or(ProtobufError::WireType)?.into()),
        Schema::Integer(_) => put_number(out, number, integer(value)?),
        Schema::Number => {
            put_tag(out, number, FIXED);
            let bits = value.as_f64().ok_or(ProtobufError::WireType)?.to_bits();
            out.extend_from_slice(&bits.to_le_bytes());
        }
        Schema::Time => put_bytes(out, number, &time(value, false)?),
        Schema::MicroTime => put_bytes(out, number, &time(value, true)?),
        Schema::Quantity => {
            let mut inner = Vec::new();
            match value {
                Value::Number(amount) => put_bytes(&mut inner, 1, amount.to_string().as_bytes()),
                value => put_bytes(&mut inner, 1, text(value)?.as_bytes()),
            }
            put_bytes(out, number, &inner);
        }
        Schema::IntOrString => {
            let mut inner = Vec::new();
            match value {
                Value::String(text) => {
                    put_number(&mut inner, 1, 1);
                    put_bytes(&mut inner, 3, text.as_bytes());
                }
                value => put_number(&mut inner, 2, integer(value)?),
            }
            put_bytes(out, number, &inner);
        }
        Schema::Any => {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, value.to_string().as_bytes());
            put_bytes(out, number, &inner);
        }
        Schema::Object(shape) => {
            let mut inner = Vec::new();
            write_struct(&mut inner, value, shape, &shape.name, depth + 1)?;
            put_bytes(out, number, &inner);
        }
        Schema::Map { .. } | Schema::List { .. } | Schema::OrElse(_) | Schema::Recursive(_) => {
            return Err(ProtobufError::WireType);
        }
    }
    Ok(())
}

/// Null, in a list or a map, is the empty text.
fn text(value: &Value) -> Result<&str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(""),
        _ => Err(ProtobufError::WireType),
    }
}

fn integer(value: &Value) -> Result<i64> {
    let whole = |number: f64| (number.fract() == 0.0).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole)).ok_or(ProtobufError::WireType)
}

fn time(value: &Value, micros: bool) -> Result<Vec<u8>> {
    let time: jiff::Timestamp = text(value)?.parse().map_err(|_| ProtobufError::Time)?;
    let mut out = Vec::new();
    put_number(&mut out, 1, time.as_second());
    if micros {
        put_number(&mut out, 2, time.subsec_nanosecond().into());
    }
    Ok(out)
}
