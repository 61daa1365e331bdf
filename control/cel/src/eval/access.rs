//! Selections: of fields, of elements, of what may be absent.

use super::Evaluation;
use crate::cost;
use crate::errors::{EvalError, Result};
use crate::plan::Node;
use crate::value::{List, Map, OpaqueValue, Value};

impl<'a> Evaluation<'a> {
    /// What is selected from. It counts as an attribute of its own if it is none.
    fn operand(&mut self, operand: &'a Node, counted: bool) -> Result<Value<'a>> {
        if operand.is_attribute() {
            return self.eval_attribute(operand, counted);
        }
        let value = self.eval(operand)?;
        if counted {
            self.charge(cost::SELECT)?;
        }
        Ok(value)
    }

    pub(super) fn select(
        &mut self,
        operand: &'a Node,
        field: &str,
        optional: bool,
        counted: bool,
    ) -> Result<Value<'a>> {
        let operand = self.operand(operand, counted)?;
        self.part(operand, optional, |value| of_field(value, field))
    }

    pub(super) fn index(
        &mut self,
        operand: &'a Node,
        index: &'a Node,
        optional: bool,
        counted: bool,
    ) -> Result<Value<'a>> {
        let operand = self.operand(operand, counted)?;
        let index = self.eval_branch(index);
        let fails = match &index {
            Ok(index) => go_type_of_no_index(index).is_some(),
            Err(error) => !error.is_cancelled(),
        };
        // An index that is none costs as much as one.
        if fails && !matches!(operand, Value::Optional(_)) {
            self.charge(cost::SELECT)?;
        }
        let index = index?;
        if let Some(name) = go_type_of_no_index(&index) {
            return Err(EvalError::new(format!("invalid qualifier type: {name}")));
        }
        self.part(operand, optional, |value| of_index(value, &index))
    }

    /// A part of a value, or of what an optional one holds; then what is absent is `optional.none()`.
    fn part(
        &mut self,
        operand: Value<'a>,
        optional: bool,
        part: impl Fn(&Value<'a>) -> std::result::Result<Value<'a>, Without>,
    ) -> Result<Value<'a>> {
        let (operand, optional) = match operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => ((*value).clone(), true),
            other => (other, optional),
        };
        match part(&operand) {
            Ok(value) => {
                self.charge(cost::SELECT)?;
                Ok(if optional { Value::some(value) } else { value })
            }
            Err(Without::Absent(_)) if optional => Ok(Value::Optional(None)),
            Err(Without::Absent(error) | Without::Wrong(error)) => {
                if !optional {
                    self.charge(cost::SELECT)?;
                }
                Err(error)
            }
        }
    }

    pub(super) fn test(&mut self, operand: &'a Node, field: &str) -> Result<Value<'a>> {
        let operand = self.operand(operand, false)?;
        let operand = match operand {
            Value::Optional(None) => return Ok(Value::Bool(false)),
            Value::Optional(Some(value)) => (*value).clone(),
            other => other,
        };
        self.charge(cost::SELECT)?;
        match operand {
            Value::Map(map) => match map.field(field) {
                Some(Ok(_)) => Ok(Value::Bool(true)),
                Some(Err(error)) => Err(error),
                None => Ok(Value::Bool(false)),
            },
            Value::Made(made) => Ok(Value::Bool(made.fields.contains_key(field))),
            Value::Variables => Ok(Value::Bool(true)),
            // What has no fields has not this one.
            _ => Ok(Value::Bool(false)),
        }
    }
}

fn no_such_key(key: &str) -> EvalError {
    EvalError::new(format!("no such key: {key}"))
}

/// Why there is no part.
enum Without {
    /// What is there has none such, or can have none.
    Absent(EvalError),
    Wrong(EvalError),
}

impl From<EvalError> for Without {
    fn from(error: EvalError) -> Self {
        Self::Wrong(error)
    }
}

fn of_field<'a>(value: &Value<'a>, field: &str) -> std::result::Result<Value<'a>, Without> {
    match value {
        Value::Map(map) => match map.field(field) {
            Some(value) => Ok(value?),
            None => Err(Without::Absent(no_such_key(field))),
        },
        Value::Made(made) => Ok(made.field(field)),
        Value::List(_) => Err(unsupported("string").into()),
        _ => Err(Without::Absent(no_such_key(field))),
    }
}

fn unsupported(index: &str) -> EvalError {
    EvalError::new(format!("unsupported index type '{index}' in list"))
}

fn of_index<'a>(value: &Value<'a>, index: &Value<'a>) -> std::result::Result<Value<'a>, Without> {
    match value {
        Value::List(list) => {
            let at = match index {
                Value::Int(at) => Some(*at),
                Value::Uint(at) => i64::try_from(*at).ok(),
                Value::Double(at) if at.fract() == 0.0 && at.abs() < 9.0e18 => Some(*at as i64),
                Value::Double(at) => return Err(EvalError::new(format!("unsupported index value {at} in list")).into()),
                _ => return Err(unsupported(index.type_name()).into()),
            };
            let at = at.and_then(|at| usize::try_from(at).ok());
            match at.and_then(|at| list.get(at)) {
                Some(value) => Ok(value?),
                None => Err(Without::Absent(EvalError::new(format!("index out of bounds: {}", shown(index))))),
            }
        }
        Value::Map(map) => match map.get(index) {
            Some(value) => Ok(value?),
            None => Err(Without::Absent(no_such_key(&shown(index)))),
        },
        _ => Err(Without::Absent(no_such_key(&shown(index)))),
    }
}

/// What cel-go calls the type of a value that nothing can be indexed with.
fn go_type_of_no_index(index: &Value<'_>) -> Option<&'static str> {
    Some(match index {
        Value::Null => "types.Null",
        Value::Optional(_) => "*types.Optional",
        Value::List(List::Json { .. }) => "[]interface {}",
        Value::List(List::Made { .. }) => "*types.baseList",
        Value::Map(Map::Made(_)) => "*types.baseMap",
        Value::Map(_) => "map[string]interface {}",
        Value::Opaque(OpaqueValue::Url(_)) => "cel.URL",
        Value::Opaque(OpaqueValue::Ip(_)) => "cel.IP",
        Value::Opaque(OpaqueValue::Cidr(_)) => "cel.CIDR",
        Value::Opaque(OpaqueValue::Quantity(_)) => "cel.Quantity",
        Value::Opaque(OpaqueValue::Semver(_)) => "cel.Semver",
        _ => return None,
    })
}

/// A key or index in a message.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(text) => text.as_str().to_owned(),
        other => other.type_name().to_owned(),
    }
}
