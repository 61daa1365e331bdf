//! Structural schemas: the shape that a tenant's definition gives to a kind of its own (KEP-1693 of upstream, "structural
//! schema"). What is said of values is compiled once; objects are pruned, given defaults and validated by it.
//!
//! A schema that is not structural is refused before it comes here; what would not be understood all the same says nothing.

mod defaults;
mod formats;
mod lists;
mod number;
mod path;
mod pattern;
mod prune;
mod shape;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::{
    pattern::{MAX_COMPILED, MAX_MATCHING, Pattern, compile},
    validate::{Fault, FaultKind},
};
use crate::ListKind;

/// JSON's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What the values of a map are.
#[derive(Debug)]
pub enum Additional {
    Values(Box<Structural>),
    /// Anything, or nothing at all.
    Allowed(bool),
}

/// A schema, or a part of one.
#[derive(Debug, Default)]
pub struct Structural {
    pub ty: Option<Type>,
    pub int_or_string: bool,
    pub preserves_unknown: bool,
    /// It has an object of the API, whose metadata is an object's.
    pub embedded: bool,
    pub nullable: bool,
    pub properties: BTreeMap<Box<str>, Structural>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Structural>>,
    pub default: Option<Value>,
    pub list: ListKind,
    pub atomic: bool,
    /// Whether anything at or below it has a default.
    has_defaults: bool,
    checks: Checks,
}

/// What holds for values, besides their shape.
#[derive(Debug, Default)]
struct Checks {
    format: Option<Box<str>>,
    maximum: Option<(f64, bool)>,
    minimum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    max_length: Option<u64>,
    min_length: Option<u64>,
    pattern: Option<Pattern>,
    max_items: Option<u64>,
    min_items: Option<u64>,
    max_properties: Option<u64>,
    min_properties: Option<u64>,
    values: Vec<Value>,
    required: Vec<Box<str>>,
    all_of: Vec<Structural>,
    any_of: Vec<Structural>,
    one_of: Vec<Structural>,
    not: Option<Box<Structural>>,
}

impl Structural {
    /// Of an `openAPIV3Schema` that has been accepted.
    pub fn parse(schema: &Value) -> Self {
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let text = |name: &str| schema.get(name).and_then(Value::as_str);
        let ty = text("type").and_then(Type::parse);
        let int_or_string = flag("x-kubernetes-int-or-string");
        let inner = |name: &str| schema.get(name).filter(|inner| inner.is_object()).map(Self::parse).map(Box::new);
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
        let mut parsed = Self {
            ty,
            int_or_string,
            preserves_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            nullable: flag("nullable"),
            properties: properties.map(|(name, property)| (name.as_str().into(), Self::parse(property))).collect(),
            additional: match schema.get("additionalProperties") {
                Some(Value::Bool(allowed)) => Some(Additional::Allowed(*allowed)),
                Some(values @ Value::Object(_)) => Some(Additional::Values(Box::new(Self::parse(values)))),
                _ => None,
            },
            items: inner("items"),
            default: schema.get("default").cloned().filter(|default| !default.is_null()),
            list: match text("x-kubernetes-list-type") {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(keys.filter_map(Value::as_str).map(Into::into).collect()),
                _ => ListKind::Atomic,
            },
            atomic: text("x-kubernetes-map-type") == Some("atomic"),
            has_defaults: false,
            checks: Checks::parse(schema, ty, int_or_string),
        };
        parsed.has_defaults = parsed.default.is_some() || parsed.parts().any(|part| part.has_defaults);
        parsed
    }

    /// The schemas of what is in it.
    fn parts(&self) -> impl Iterator<Item = &Self> {
        let values = match &self.additional {
            Some(Additional::Values(values)) => Some(&**values),
            _ => None,
        };
        self.properties.values().chain(values).chain(self.items.as_deref())
    }

    /// What is said of a field: of one that is named, or of any.
    fn of_field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(property), _) => Some(property),
            (None, Some(Additional::Values(values))) => Some(values),
            (None, _) => None,
        }
    }

    /// Whether anything in it has a default.
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// What is said of the field at a path of names; none where nothing is.
    pub fn at<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> Option<&Self> {
        path.into_iter().try_fold(self, |schema, name| schema.of_field(name))
    }
}

impl Checks {
    fn parse(schema: &Value, ty: Option<Type>, int_or_string: bool) -> Self {
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let bound = |name: &str, exclusive: &str| {
            number(name).map(|bound| (bound, schema.get(exclusive) == Some(&Value::Bool(true))))
        };
        let several = |name: &str| -> Vec<Structural> {
            let list = schema.get(name).and_then(Value::as_array);
            list.into_iter().flatten().map(Structural::parse).collect()
        };
        let pattern = schema.get("pattern").and_then(Value::as_str).filter(|pattern| !pattern.is_empty());
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let format = schema.get("format").and_then(Value::as_str);
        Self {
            format: format.filter(|format| formats::is_known(format, ty, int_or_string)).map(Into::into),
            maximum: bound("maximum", "exclusiveMaximum"),
            minimum: bound("minimum", "exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: pattern.map(Pattern::new),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            values: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            required: required.filter_map(Value::as_str).map(Into::into).collect(),
            all_of: several("allOf"),
            any_of: several("anyOf"),
            one_of: several("oneOf"),
            not: schema.get("not").filter(|not| not.is_object()).map(Structural::parse).map(Box::new),
        }
    }
}
