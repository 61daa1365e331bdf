//! Values: made lazily of JSON, shared when copied.

pub(crate) mod check;
pub(crate) mod cidr;
mod compare;
pub(crate) mod format;
pub(crate) mod ip;
mod json;
mod key;
mod made;
pub(crate) mod semver;
pub(crate) mod time;
pub(crate) mod url;

use std::net::IpAddr;
use std::sync::Arc;

use hypernetes_schema::quantity::Quantity;
use serde_json::Value as Json;

use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::types::{Declaration, ListDeclaration, ObjectType};

use check::Check;
use cidr::Cidr;
use format::NamedFormat;
use semver::Semver;
use time::Time;
use url::Url;

pub(crate) use key::{Key, OwnedMap};
pub use made::Made;

/// A value of an expression. `'a` is the life of the objects and programs that it was made of.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Time),
    List(List<'a>),
    Map(Map<'a>),
    Type(TypeName),
    Optional(Option<Arc<Value<'a>>>),
    #[doc(hidden)]
    Opaque(OpaqueValue),
    /// An object that an expression has made.
    Made(Arc<Made<'a>>),
    /// The object whose fields are the variables of a composition.
    Variables,
}

/// A value of one of the libraries' types.
#[derive(Debug, Clone)]
pub enum OpaqueValue {
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Quantity(Arc<Quantity>),
    Semver(Arc<Semver>),
    Format(&'static NamedFormat),
    Check(Arc<Check>),
}

/// A string: of the object, or made.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// A type as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeName(pub(crate) &'static str);

#[derive(Debug, Clone)]
pub enum List<'a> {
    #[doc(hidden)]
    Json { items: &'a [Json], declared: Option<&'a ListDeclaration> },
    #[doc(hidden)]
    Made { values: Arc<Vec<Value<'a>>>, declared: Option<&'a ListDeclaration> },
}

#[derive(Debug, Clone)]
pub enum Map<'a> {
    /// Without a declaration, or with one of its values.
    #[doc(hidden)]
    Json { map: &'a serde_json::Map<String, Json>, values: Option<&'a Declaration> },
    #[doc(hidden)]
    Object { map: &'a serde_json::Map<String, Json>, object: &'a ObjectType },
    #[doc(hidden)]
    Made(Arc<OwnedMap<'a>>),
}

const _: () = assert!(size_of::<Value<'static>>() <= crate::meter::VALUE_BYTES);

impl<'a> Value<'a> {
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    pub(crate) fn list(values: Vec<Value<'a>>) -> Self {
        Self::List(List::Made { values: Arc::new(values), declared: None })
    }

    pub(crate) fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The value of an optional variable, such as `oldSelf` of a rule that has `optionalOldSelf`.
    pub fn optional(value: Option<Value<'a>>) -> Self {
        Self::Optional(value.map(Arc::new))
    }

    /// The name of its type, as `type()` and error messages say it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Opaque(value) => value.ty().name(),
            Self::Made(made) => made.type_name(),
            Self::Variables => Opaque::Variables.name(),
        }
    }

    /// What `size()` and the cost model say: `None` for what has no size. Strings are counted in characters.
    pub(crate) fn size(&self) -> Option<u64> {
        Some(match self {
            Self::String(text) => characters(text.as_str()),
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Opaque(OpaqueValue::Ip(ip)) => octets(*ip),
            Self::Opaque(OpaqueValue::Cidr(cidr)) => octets(cidr.address),
            _ => return None,
        })
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// A type or a value of a library, for messages: `type(int)`, `quantity(1Gi)`.
    pub fn describe(&self) -> String {
        match self {
            Self::Type(name) => format!("type({})", name.0),
            Self::Opaque(OpaqueValue::Url(url)) => format!("url({url})"),
            Self::Opaque(OpaqueValue::Ip(ip)) => format!("ip({ip})"),
            Self::Opaque(OpaqueValue::Cidr(cidr)) => format!("cidr({cidr})"),
            Self::Opaque(OpaqueValue::Quantity(quantity)) => format!("quantity({quantity})"),
            Self::Opaque(OpaqueValue::Semver(version)) => format!("semver({version})"),
            Self::Opaque(OpaqueValue::Format(format)) => format!("format({})", format.name),
            other => other.type_name().to_owned(),
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Int(value) | Self::Duration(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Double(value) => *value == 0.0,
            Self::String(text) => text.as_str().is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Made(made) => made.fields.is_empty(),
            Self::Timestamp(_) | Self::Type(_) | Self::Optional(_) | Self::Opaque(_) | Self::Variables => false,
        }
    }
}

/// Characters of a text; quick for the usual text, which is ASCII.
pub(crate) fn characters(text: &str) -> u64 {
    if text.is_ascii() { text.len() as u64 } else { text.chars().count() as u64 }
}

fn octets(ip: IpAddr) -> u64 {
    if ip.is_ipv4() { 4 } else { 16 }
}

impl OpaqueValue {
    pub(crate) fn ty(&self) -> Opaque {
        match self {
            Self::Url(_) => Opaque::Url,
            Self::Ip(_) => Opaque::Ip,
            Self::Cidr(_) => Opaque::Cidr,
            Self::Quantity(_) => Opaque::Quantity,
            Self::Semver(_) => Opaque::Semver,
            Self::Format(_) => Opaque::Format,
            Self::Check(check) => check.ty(),
        }
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json { items, .. } => items.len(),
            Self::Made { values, .. } => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn declared(&self) -> Option<&'a ListDeclaration> {
        match self {
            Self::Json { declared, .. } | Self::Made { declared, .. } => *declared,
        }
    }

    /// An element; one whose JSON is not what its schema says is an error.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>>> {
        match self {
            Self::Json { items, declared } => {
                let item = items.get(index)?;
                Some(Value::of_json(item, declared.map(|declared| &declared.items)))
            }
            Self::Made { values, .. } => values.get(index).cloned().map(Ok),
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Result<Value<'a>>> + '_ {
        (0..self.len()).map(|index| self.get(index).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD)))
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json { map, .. } | Self::Object { map, .. } => map.len(),
            Self::Made(map) => map.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key. Fields of objects that are `null` are absent.
    pub(crate) fn get(&self, key: &Value<'_>) -> Option<Result<Value<'a>>> {
        match self {
            Self::Made(map) => map.get(&Key::of(key)?).cloned().map(Ok),
            Self::Json { .. } | Self::Object { .. } => self.field(key.as_str()?),
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<Result<Value<'a>>> {
        match self {
            Self::Json { map, values } => Some(Value::of_json(map.get(name)?, *values)),
            Self::Object { map, object } => {
                let field = object.field(name)?;
                let value = map.get(&field.name).filter(|value| !value.is_null())?;
                Some(Value::of_json(value, Some(&field.declaration)))
            }
            Self::Made(map) => map.field(name).cloned().map(Ok),
        }
    }

    /// Keys and values, in the order of keys.
    pub fn entries(&self) -> impl Iterator<Item = Result<(Value<'a>, Value<'a>)>> {
        let map = self.clone();
        self.keys().into_iter().map(move |key| {
            let value = map.get(&key).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD))?;
            Ok((key, value))
        })
    }

    /// Keys in order. Those of an object are as expressions write them.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json { map, .. } => map.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
            Self::Object { map, object } => map
                .iter()
                .filter(|(name, _)| object.field_of_json(name).is_some())
                .map(|(name, _)| match crate::names::escape(name) {
                    Some(std::borrow::Cow::Owned(written)) => Value::text(written),
                    _ => Value::String(Text::Borrowed(name)),
                })
                .collect(),
            Self::Made(map) => map.keys().map(Key::value).collect(),
        }
    }
}
