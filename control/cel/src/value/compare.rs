//! Equality and order.

use std::cmp::Ordering;

use super::{List, Map, OpaqueValue, Value};
use crate::errors::{EvalError, Result};
use crate::meter::Meter;
use crate::types::Merges;

impl<'a> Value<'a> {
    /// Whether two values are equal; values of different types are not, but numbers are compared by what they mean.
    pub(crate) fn equals(&self, other: &Value<'a>, meter: &mut Meter) -> Result<bool> {
        meter.step(1)?;
        Ok(match (self, other) {
            (Self::Null, Self::Null) | (Self::Variables, Self::Variables) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a.as_str() == b.as_str(),
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Optional(None), Self::Optional(None)) => true,
            (Self::Optional(Some(a)), Self::Optional(Some(b))) => a.equals(b, meter)?,
            (Self::Opaque(a), Self::Opaque(b)) if a.ty() == b.ty() => a.equals(b),
            (_, Self::Null) => false,
            (Self::Opaque(OpaqueValue::Ip(_) | OpaqueValue::Cidr(_)), _) => false,
            // These say that there is no such comparison, where others say that they differ.
            (Self::Opaque(_), _) => return Err(EvalError::NO_SUCH_OVERLOAD),
            (Self::Made(a), Self::Made(b)) => {
                let mut same = a.name == b.name && a.fields.len() == b.fields.len();
                for (name, value) in &a.fields {
                    same = same
                        && match b.fields.get(name) {
                            Some(other) => value.equals(other, meter)?,
                            None => false,
                        };
                }
                same
            }
            (Self::List(a), Self::List(b)) => a.equals(b, meter)?,
            (Self::Map(a), Self::Map(b)) => a.equals(b, meter)?,
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        })
    }

    /// The order of two values of one type, or of two numbers.
    pub(crate) fn compare(&self, other: &Value<'a>) -> Result<Ordering> {
        Ok(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.as_str().cmp(b.as_str()),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Double(a), Self::Double(b)) if a.is_nan() || b.is_nan() => {
                return Err(EvalError::new("NaN values cannot be ordered"));
            }
            _ => return self.compare_numbers(other).ok_or(EvalError::NO_SUCH_OVERLOAD),
        })
    }

    fn compare_numbers(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => compare_double(*a, i128::from(*b)),
            (Self::Double(a), Self::Uint(b)) => compare_double(*a, i128::from(*b)),
            (Self::Int(a), Self::Double(b)) => compare_double(*b, i128::from(*a)).map(Ordering::reverse),
            (Self::Uint(a), Self::Double(b)) => compare_double(*b, i128::from(*a)).map(Ordering::reverse),
            _ => None,
        }
    }
}

/// A double beside a whole number of 64 bits, as cel-go compares them: numbers within a double's reach as doubles.
fn compare_double(double: f64, whole: i128) -> Option<Ordering> {
    const BEYOND: f64 = 18_446_744_073_709_551_616.0;
    if double.is_nan() {
        return None;
    }
    if double >= BEYOND {
        return Some(Ordering::Greater);
    }
    if double < -BEYOND {
        return Some(Ordering::Less);
    }
    double.partial_cmp(&(whole as f64))
}

impl OpaqueValue {
    fn equals(&self, other: &OpaqueValue) -> bool {
        match (self, other) {
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Check(a), Self::Check(b)) => a == b,
            _ => false,
        }
    }
}

impl<'a> List<'a> {
    /// The left list's `x-kubernetes-list-type` says how.
    fn equals(&self, other: &List<'a>, meter: &mut Meter) -> Result<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        match self.declared().map(|declared| &declared.merges) {
            Some(Merges::Set) => {
                for item in other.iter() {
                    if self.position(&item?, meter)?.is_none() {
                        return Ok(false);
                    }
                }
            }
            Some(Merges::Map(keys)) => {
                for item in other.iter() {
                    let item = item?;
                    let Some(at) = self.position_of_key(&item, keys, meter)? else { return Ok(false) };
                    let same = self.get(at).ok_or(EvalError::NO_SUCH_OVERLOAD)??;
                    if !same.equals(&item, meter)? {
                        return Ok(false);
                    }
                }
            }
            Some(Merges::Atomic) | None => {
                for (a, b) in self.iter().zip(other.iter()) {
                    if !a?.equals(&b?, meter)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Where the first element is that equals a value. An element that is an error is one only if none is found.
    pub(crate) fn position(&self, value: &Value<'a>, meter: &mut Meter) -> Result<Option<usize>> {
        let mut error = None;
        for (index, item) in self.iter().enumerate() {
            match item.and_then(|item| item.equals(value, meter)) {
                Ok(true) => return Ok(Some(index)),
                Ok(false) => {}
                Err(cancelled) if cancelled.is_cancelled() => return Err(cancelled),
                Err(first) => error = error.or(Some(first)),
            }
        }
        error.map_or(Ok(None), Err)
    }

    /// Where the last element is that has the same key fields as a value.
    pub(crate) fn position_of_key(
        &self,
        value: &Value<'a>,
        keys: &[String],
        meter: &mut Meter,
    ) -> Result<Option<usize>> {
        'items: for index in (0..self.len()).rev() {
            let item = self.get(index).ok_or(EvalError::NO_SUCH_OVERLOAD)??;
            for key in keys {
                meter.step(1)?;
                let same = match (part(&item, key).transpose()?, part(value, key).transpose()?) {
                    (Some(a), Some(b)) => a.equals(&b, meter)?,
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    continue 'items;
                }
            }
            return Ok(Some(index));
        }
        Ok(None)
    }
}

fn part<'a>(value: &Value<'a>, name: &str) -> Option<Result<Value<'a>>> {
    match value {
        Value::Map(map) => map.field(crate::names::escape(name)?.as_ref()),
        _ => None,
    }
}

impl<'a> Map<'a> {
    fn equals(&self, other: &Map<'a>, meter: &mut Meter) -> Result<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for key in self.keys() {
            meter.step(1)?;
            let (a, b) = (self.get(&key).transpose()?, other.get(&key).transpose()?);
            let same = match (a, b) {
                (Some(a), Some(b)) => a.equals(&b, meter)?,
                (None, None) => true,
                _ => false,
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
