//! Objects that expressions of mutating policies make.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{List, Map, Value};
use crate::errors::EvalError;

/// An object, of a type with the name that the expression has said: `Object.spec`, `JSONPatch`.
#[derive(Debug)]
pub struct Made<'a> {
    pub(crate) name: Arc<str>,
    pub(crate) fields: BTreeMap<Arc<str>, Value<'a>>,
}

impl<'a> Made<'a> {
    /// The name of its type.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.fields.iter().map(|(name, value)| (&**name, value))
    }

    /// A field; one that is not set is `null`, or an empty text in an operation.
    pub(crate) fn field(&self, name: &str) -> Value<'a> {
        match self.fields.get(name) {
            Some(value) => value.clone(),
            None if self.is_operation() && name != "value" => Value::text(""),
            None => Value::Null,
        }
    }

    fn is_operation(&self) -> bool {
        &*self.name == "JSONPatch"
    }

    /// What is wrong with a value of a field.
    pub(crate) fn check_field(name: &str, field: &str, value: &Value<'_>) -> Result<(), EvalError> {
        if name != "JSONPatch" || field == "value" || value.as_str().is_some() {
            return Ok(());
        }
        let of = match value {
            Value::Int(_) => "int64",
            Value::Uint(_) => "uint64",
            Value::Double(_) => "float64",
            other => other.type_name(),
        };
        Err(EvalError::new(format!("unexpected type {of} for JSONPatchType '{field}' field")))
    }

    /// What error messages call its type.
    pub(super) fn type_name(&self) -> &'static str {
        if self.is_operation() { "JSONPatch" } else { "Object" }
    }

    /// Whether each object within has the name of the path that leads to it from this one.
    ///
    /// # Errors
    ///
    /// One message for each that has not.
    pub fn check_names(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        check(self, &self.name, &mut wrong);
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

fn check(made: &Made<'_>, expected: &str, wrong: &mut Vec<String>) {
    if *made.name != *expected {
        wrong.push(format!(
            "unexpected type name \"{}\", expected \"{expected}\", which matches field name path from root Object type",
            made.name
        ));
    }
    for (field, value) in &made.fields {
        check_within(value, &format!("{expected}.{field}"), wrong);
    }
}

fn check_within(value: &Value<'_>, expected: &str, wrong: &mut Vec<String>) {
    match value {
        Value::Made(made) => check(made, expected, wrong),
        Value::List(list @ List::Made { .. }) => {
            list.iter().flatten().for_each(|value| check_within(&value, expected, wrong));
        }
        Value::Map(map @ Map::Made(_)) => {
            map.entries().flatten().for_each(|(_, value)| check_within(&value, expected, wrong));
        }
        _ => {}
    }
}
