//! Kubernetes' protobuf encoding of what clients send (`application/vnd.kubernetes.protobuf`), turned into JSON.
//!
//! client-go's typed clients write in it, and cannot be asked not to; the other direction is [`encode`]'s. The schema tells what a field
//! is, the table of numbers (`facts/protobuf.txt`) which one.
//!
//! Input is untrusted: lengths are checked against what is there, depth is bounded, and nothing is allocated ahead.

pub mod encode;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::{ObjectType, Schema, Struct, facts, limits};

/// What stands before the envelope (upstream: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`).
const MAGIC: &[u8] = b"k8s\0";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("the body does not begin as a protobuf object does")]
    NoEnvelope,
    #[error("the message ends in the middle of a field")]
    Truncated,
    #[error("a field has a wire type that its kind does not have")]
    WireType,
    #[error("a text is not UTF-8")]
    NotText,
    #[error("a time is out of range")]
    Time,
    #[error("embedded JSON is not valid")]
    Json,
    #[error("it is nested too deeply")]
    Depth,
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// The envelope: `runtime.Unknown`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    message: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// # Errors
    /// When the body is not such an envelope.
    pub fn open(body: &'a [u8]) -> Result<Self> {
        let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::NoEnvelope)?);
        let mut envelope = Self::default();
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => {
                    let mut meta = Reader(wire.bytes()?);
                    while let Some((number, wire)) = meta.next()? {
                        match number {
                            1 => envelope.api_version = wire.text()?,
                            2 => envelope.kind = wire.text()?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.message = wire.bytes()?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// The object as JSON of its kind, with `apiVersion` and `kind` as the envelope has them.
    ///
    /// # Errors
    /// When the message is not one of this kind.
    pub fn decode(&self, ty: &ObjectType) -> Result<Value> {
        let Schema::Object(shape) = ty.schema().as_ref() else { return Err(ProtobufError::WireType) };
        let mut object = Map::new();
        read_message(self.message, shape, &shape.name, &mut object, 0)?;
        object.insert("apiVersion".into(), self.api_version.into());
        object.insert("kind".into(), self.kind.into());
        Ok(object.into())
    }
}

/// Where a field's value goes.
enum Target {
    Field {
        name: &'static str,
        pointer: bool,
    },
    /// The fields of this definition, beside the others.
    Inline(&'static str),
}

type Table = HashMap<&'static str, Vec<(u32, Target)>>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        facts::rows(include_str!("../../facts/protobuf.txt"))
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let definition = words.next()?;
                let field = |word: &'static str| {
                    let (name, number) = word.split_once('=')?;
                    let target = match (name.strip_prefix('@'), name.strip_suffix('*')) {
                        (Some(definition), _) => Target::Inline(definition),
                        (None, Some(name)) => Target::Field { name, pointer: true },
                        (None, None) => Target::Field { name, pointer: false },
                    };
                    Some((number.parse().ok()?, target))
                };
                Some((definition, words.filter_map(field).collect()))
            })
            .collect()
    })
}

/// The fields that a definition has numbers for, or none if it is not in the table.
pub fn numbered(definition: &str) -> Option<Vec<&'static str>> {
    let rows = table().get(definition)?;
    let fields = rows.iter().flat_map(|(_, target)| match target {
        Target::Field { name, .. } => vec![*name],
        Target::Inline(inner) => numbered(inner).unwrap_or_default(),
    });
    Some(fields.collect())
}

fn read_message(
    data: &[u8],
    shape: &Struct,
    definition: &str,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    if depth > limits::MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let numbers = table().get(definition).map(Vec::as_slice).unwrap_or_default();
    let mut reader = Reader(data);
    while let Some((number, wire)) = reader.next()? {
        match numbers.iter().find(|(known, _)| *known == number).map(|(_, target)| target) {
            // A field that is newer than this server: as in JSON, it is not kept.
            None => {}
            Some(Target::Inline(inner)) => read_message(wire.bytes()?, shape, inner, out, depth + 1)?,
            Some(Target::Field { name, pointer }) => {
                let Some(field) = shape.field(name) else { continue };
                read_field(wire, &field.schema, name, *pointer, out, depth)?;
            }
        }
    }
    Ok(())
}

fn read_field(
    wire: Wire<'_>,
    schema: &Arc<Schema>,
    name: &str,
    pointer: bool,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    match schema.resolve().as_ref() {
        Schema::List { items, .. } => {
            let item = read_value(wire, items, depth)?;
            match out.get_mut(name) {
                Some(Value::Array(list)) => list.push(item),
                _ => drop(out.insert(name.to_owned(), vec![item].into())),
            }
        }
        Schema::Map { values, .. } => {
            let (key, value) = read_entry(wire.bytes()?, values, depth)?;
            match out.get_mut(name) {
                Some(Value::Object(map)) => drop(map.insert(key, value)),
                _ => drop(out.insert(name.to_owned(), Value::Object([(key, value)].into_iter().collect()))),
            }
        }
        _ => {
            let value = read_value(wire, schema, depth)?;
            if pointer || !is_empty(&value) {
                out.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// What Go sends of a field that was never set, unless it is a pointer.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn read_entry(data: &[u8], values: &Arc<Schema>, depth: usize) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), Value::Null);
    let mut reader = Reader(data);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => wire.text()?.clone_into(&mut key),
            2 => {
                value = match values.resolve().as_ref() {
                    // A list cannot be a map's value in protobuf: a message is put around it.
                    Schema::List { items, .. } => {
                        let mut list = Vec::new();
                        let mut reader = Reader(wire.bytes()?);
                        while let Some((number, wire)) = reader.next()? {
                            if number == 1 {
                                list.push(read_value(wire, items, depth + 1)?);
                            }
                        }
                        list.into()
                    }
                    _ => read_value(wire, values, depth + 1)?,
                };
            }
            _ => {}
        }
    }
    if value.is_null() {
        value = match values.resolve().as_ref() {
            Schema::String | Schema::Bytes | Schema::Quantity => "".into(),
            _ => Value::Null,
        };
    }
    Ok((key, value))
}

fn read_value(wire: Wire<'_>, schema: &Arc<Schema>, depth: usize) -> Result<Value> {
    Ok(match schema.resolve().as_ref() {
        Schema::String => match wire {
            // `meta.v1.Duration` is text in JSON and seconds in no protobuf that clients send.
            Wire::Bytes(_) => wire.text()?.into(),
            Wire::Number(_) => return Err(ProtobufError::WireType),
        },
        Schema::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Schema::Boolean => (wire.number()? != 0).into(),
        Schema::Integer(_) => wire.integer()?.into(),
        Schema::Number => f64::from_bits(wire.number()?).into(),
        Schema::Time => time(wire.bytes()?, false)?,
        Schema::MicroTime => time(wire.bytes()?, true)?,
        Schema::Quantity => {
            first(wire.bytes()?, 1)?.map_or_else(|| Ok("0".into()), |inner| inner.text().map(Value::from))?
        }
        Schema::IntOrString => int_or_string(wire.bytes()?)?,
        Schema::Any => match first(wire.bytes()?, 1)? {
            Some(raw) => serde_json::from_slice(raw.bytes()?).map_err(|_| ProtobufError::Json)?,
            None => Value::Null,
        },
        Schema::Object(shape) => {
            let mut fields = Map::new();
            read_message(wire.bytes()?, shape, &shape.name, &mut fields, depth + 1)?;
            fields.into()
        }
        // Definitions are sent in JSON.
        Schema::Map { .. } | Schema::List { .. } | Schema::OrElse(_) | Schema::Recursive(_) => {
            return Err(ProtobufError::WireType);
        }
    })
}

/// The last value of a field.
fn first(data: &[u8], wanted: u32) -> Result<Option<Wire<'_>>> {
    let (mut reader, mut found) = (Reader(data), None);
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn time(data: &[u8], micros: bool) -> Result<Value> {
    let number = |field| first(data, field)?.map_or(Ok(0), |wire: Wire<'_>| wire.integer());
    let (seconds, nanos) = (number(1)?, number(2)?);
    // Go's zero time: none.
    if seconds == 0 && nanos == 0 || seconds == -62_135_596_800 {
        return Ok(Value::Null);
    }
    let nanos = if micros { i32::try_from(nanos).map_err(|_| ProtobufError::Time)? } else { 0 };
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Time)?;
    Ok(if micros { time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string() } else { time.to_string() }.into())
}

/// `type` (0: a number), `intVal`, `strVal`.
fn int_or_string(data: &[u8]) -> Result<Value> {
    let is_text = first(data, 1)?.is_some_and(|wire| wire.integer() == Ok(1));
    let field = first(data, if is_text { 3 } else { 2 })?;
    Ok(match (field, is_text) {
        (Some(wire), true) => wire.text()?.into(),
        (Some(wire), false) => wire.integer()?.into(),
        (None, true) => "".into(),
        (None, false) => 0.into(),
    })
}

/// A field's value as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn number(self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(ProtobufError::WireType),
        }
    }

    /// Negative numbers are sent in two's complement.
    fn integer(self) -> Result<i64> {
        self.number().map(u64::cast_signed)
    }

    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(ProtobufError::WireType),
        }
    }

    fn text(self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::NotText)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::WireType)?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(u32::from_le_bytes(self.array()?).into()),
            _ => return Err(ProtobufError::WireType),
        };
        Ok(Some((number, wire)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::WireType)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
