//! Maps that expressions make.

use std::collections::BTreeMap;

use super::{Text, Value};

/// What a map can be asked for. Numbers of the same value are one key, whatever their type.
#[derive(Debug, Clone)]
pub enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
}

pub type OwnedMap<'a> = BTreeMapOf<'a>;

/// A map from keys to values, in the order of keys.
#[derive(Debug, Clone, Default)]
pub struct BTreeMapOf<'a>(BTreeMap<Ordered, (Key<'a>, Value<'a>)>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Ordered {
    Bool(bool),
    Number(i128),
    /// What is no whole number, by its bits.
    Double(u64),
    String(Box<str>),
}

impl<'a> Key<'a> {
    /// `None` for what cannot be a key.
    pub fn of(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Uint(value) => Self::Uint(*value),
            Value::Double(value) => Self::Double(*value),
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub fn value(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Uint(value) => Value::Uint(*value),
            Self::Double(value) => Value::Double(*value),
            Self::String(text) => Value::String(text.clone()),
        }
    }

    fn ordered(&self) -> Ordered {
        match self {
            Self::Bool(value) => Ordered::Bool(*value),
            Self::Int(value) => Ordered::Number(i128::from(*value)),
            Self::Uint(value) => Ordered::Number(i128::from(*value)),
            Self::Double(value) if value.fract() == 0.0 && value.abs() < 1.0e19 => Ordered::Number(*value as i128),
            Self::Double(value) => Ordered::Double(value.to_bits()),
            Self::String(text) => Ordered::String(text.as_str().into()),
        }
    }
}

impl<'a> BTreeMapOf<'a> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, key: &Key<'_>) -> Option<&Value<'a>> {
        self.0.get(&key.ordered()).map(|(_, value)| value)
    }

    pub fn field(&self, name: &str) -> Option<&Value<'a>> {
        self.0.get(&Ordered::String(name.into())).map(|(_, value)| value)
    }

    /// Whether the key is new.
    pub fn insert(&mut self, key: Key<'a>, value: Value<'a>) -> bool {
        self.0.insert(key.ordered(), (key, value)).is_none()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key<'a>> {
        self.0.values().map(|(key, _)| key)
    }
}
