//! From JSON to values and back.

use std::sync::Arc;

use base64::Engine as _;
use serde_json::Value as Json;

use super::{List, Map, OpaqueValue, Text, Value};
use crate::errors::{EvalError, Result};
use crate::types::{Declaration, Kind};
use crate::value::time::{self, Time};

impl<'a> Value<'a> {
    /// What an object shows to expressions, with its declaration or (`None`) as JSON shows it.
    pub fn of_json(json: &'a Json, declared: Option<&'a Declaration>) -> Result<Self> {
        let Some(declared) = declared else { return Ok(Self::of_undeclared(json)) };
        let unexpected =
            |expected: &str| Err(EvalError::new(format!("invalid data, expected {expected}, got {}", go_type(json))));
        if json.is_null() && !matches!(declared.kind, Kind::Dyn) {
            if declared.nullable {
                return Ok(Self::Null);
            }
            return Err(EvalError::new("invalid data, got null for schema with nullable=false"));
        }
        Ok(match &declared.kind {
            Kind::Dyn => Self::of_undeclared(json),
            Kind::Bool => match json {
                Json::Bool(value) => Self::Bool(*value),
                _ => return unexpected("bool"),
            },
            Kind::Int => match json.as_i64() {
                Some(value) => Self::Int(value),
                None => return unexpected("int"),
            },
            Kind::Double => match json.as_f64() {
                Some(value) => Self::Double(value),
                None => return unexpected("float"),
            },
            Kind::IntOrString => match json {
                Json::String(text) => Self::String(Text::Borrowed(text)),
                _ => match json.as_i64() {
                    Some(value) => Self::Int(value),
                    None => {
                        return Err(EvalError::new(
                            "invalid data, expected XIntOrString value to be either a string or integer",
                        ));
                    }
                },
            },
            Kind::String | Kind::Bytes | Kind::Duration | Kind::Timestamp | Kind::Date => {
                let Json::String(text) = json else { return unexpected("string") };
                return of_text(text, &declared.kind);
            }
            Kind::List(list) => match json {
                Json::Array(items) => Self::List(List::Json { items, declared: Some(list) }),
                _ => {
                    return Err(EvalError::new(
                        "invalid data, expected an array for the provided schema with type=array",
                    ));
                }
            },
            Kind::Map(values) => match json {
                Json::Object(map) => Self::Map(Map::Json { map, values: Some(values) }),
                _ => return not_an_object(),
            },
            Kind::Object(object) => match json {
                Json::Object(map) => Self::Map(Map::Object { map, object }),
                _ => return not_an_object(),
            },
        })
    }

    fn of_undeclared(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::String(Text::Borrowed(text)),
            Json::Array(items) => Self::List(List::Json { items, declared: None }),
            Json::Object(map) => Self::Map(Map::Json { map, values: None }),
        }
    }

    /// The value as JSON, as an admission policy's parameters and patches need it. `None` for what JSON cannot say.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(value) => Json::from(*value),
            Self::Uint(value) => Json::from(*value),
            Self::Double(value) => Json::from(*value),
            Self::String(text) => Json::from(text.as_str()),
            Self::Bytes(bytes) => Json::from(base64::prelude::BASE64_STANDARD.encode(bytes)),
            Self::Duration(nanos) => Json::from(time::duration_text(*nanos)),
            Self::Timestamp(at) => Json::from(at.to_string()),
            Self::List(List::Json { items, .. }) => Json::Array(items.to_vec()),
            Self::List(list) => Json::Array(list.iter().map(|item| item.ok()?.to_json()).collect::<Option<_>>()?),
            Self::Map(Map::Json { map, .. } | Map::Object { map, .. }) => Json::Object((*map).clone()),
            Self::Map(map) => {
                let mut made = serde_json::Map::new();
                for key in map.keys() {
                    made.insert(key.as_str()?.to_owned(), map.get(&key)?.ok()?.to_json()?);
                }
                Json::Object(made)
            }
            Self::Made(made) => {
                let fields = made.fields().map(|(name, value)| Some((name.to_owned(), value.to_json()?)));
                Json::Object(fields.collect::<Option<_>>()?)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Opaque(OpaqueValue::Quantity(quantity)) => Json::from(quantity.to_string()),
            Self::Optional(None) | Self::Type(_) | Self::Opaque(_) | Self::Variables => return None,
        })
    }
}

fn not_an_object<'a>() -> Result<Value<'a>> {
    Err(EvalError::new("invalid data, expected a map for the provided schema with type=object"))
}

fn of_text<'a>(text: &'a str, kind: &Kind) -> Result<Value<'a>> {
    let invalid = |what: &str, why: &str| Err(EvalError::new(format!("Invalid {what} {text}: {why}")));
    match kind {
        Kind::Duration => match time::parse_format_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => invalid("duration", &format!("unable to parse {text} as duration")),
        },
        Kind::Timestamp => match Time::parse(text) {
            Some(at) => Ok(Value::Timestamp(at)),
            None => invalid(
                "date-time formatted string",
                &format!("parsing time \"{text}\" as \"2006-01-02T15:04:05\": cannot parse \"{text}\" as \"2006\""),
            ),
        },
        Kind::Date => match Time::parse_date(text) {
            Some(at) => Ok(Value::Timestamp(at)),
            None => invalid(
                "date formatted string",
                &format!("parsing time \"{text}\" as \"2006-01-02\": cannot parse \"{text}\" as \"2006\""),
            ),
        },
        Kind::Bytes => match base64::prelude::BASE64_STANDARD.decode(text) {
            Ok(bytes) => Ok(Value::Bytes(Arc::from(bytes))),
            Err(error) => invalid("byte formatted string", &error.to_string()),
        },
        _ => Ok(Value::String(Text::Borrowed(text))),
    }
}

/// What Go calls the type that JSON decodes to.
fn go_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.as_i64().is_some() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}
