//! Selections: of fields, of elements, of what may be absent.

use super::Evaluation;
use crate::cost;
use crate::errors::{EvalError, Result};
use crate::plan::Node;
use crate::value::Value;

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
        let index = self.eval_branch(index)?;
        self.part(operand, optional, |value| of_index(value, &index))
    }

    /// A part of a value, or of what an optional one holds; then what is absent is `optional.none()`.
    fn part(
        &mut self,
        operand: Value<'a>,
        optional: bool,
        part: impl Fn(&Value<'a>) -> Result<Option<Value<'a>>>,
    ) -> Result<Value<'a>> {
        let (operand, optional) = match operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => ((*value).clone(), true),
            other => (other, optional),
        };
        match part(&operand) {
            Ok(Some(value)) => {
                self.charge(cost::SELECT)?;
                Ok(if optional { Value::some(value) } else { value })
            }
            Ok(None) => Ok(Value::Optional(None)),
            // What cannot have parts has none.
            Err(_) if optional => Ok(Value::Optional(None)),
            Err(error) => {
                self.charge(cost::SELECT)?;
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
            Value::Variables => Ok(Value::Bool(true)),
            // What has no fields has not this one.
            _ => Ok(Value::Bool(false)),
        }
    }
}

fn no_such_key(key: &str) -> EvalError {
    EvalError::new(format!("no such key: {key}"))
}

fn of_field<'a>(value: &Value<'a>, field: &str) -> Result<Option<Value<'a>>> {
    match value {
        Value::Map(map) => match map.field(field) {
            Some(value) => value.map(Some),
            None => Err(no_such_key(field)),
        },
        _ => Err(no_such_key(field)),
    }
}

fn of_index<'a>(value: &Value<'a>, index: &Value<'a>) -> Result<Option<Value<'a>>> {
    match value {
        Value::List(list) => {
            let at = match index {
                Value::Int(at) => Some(*at),
                Value::Uint(at) => i64::try_from(*at).ok(),
                Value::Double(at) if at.fract() == 0.0 && at.abs() < 9.0e18 => Some(*at as i64),
                Value::Double(at) => return Err(EvalError::new(format!("unsupported index value {at} in list"))),
                _ => return Err(EvalError::new(format!("unsupported index type '{}' in list", index.type_name()))),
            };
            let out = || EvalError::new(format!("index out of bounds: {}", shown(index)));
            let at = at.and_then(|at| usize::try_from(at).ok()).ok_or_else(out)?;
            list.get(at).ok_or_else(out)?.map(Some)
        }
        Value::Map(map) => match map.get(index) {
            Some(value) => value.map(Some),
            None => Err(no_such_key(&shown(index))),
        },
        _ => Err(no_such_key(&shown(index))),
    }
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
