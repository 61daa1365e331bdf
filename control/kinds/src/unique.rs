//! Values that no two objects have: addresses, numbers of networks. The store holds it true, by an entry for each that is
//! written with its object: whoever allocates, and however many do it at the same time, one gets it.

use serde_json::Value;

use crate::field::{ErrorKind, FieldError, quote};

/// Among which objects a value is one alone's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Those of the same tenant.
    Tenant,
    /// Those of all tenants.
    Everywhere,
}

/// A value that an object has, and no other one of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// What kind of value it is: a part of a key.
    pub index: &'static str,
    pub within: Within,
    /// The value, by all that it is unique in: a key's name.
    pub name: String,
    /// What is wrong where another object has it.
    pub error: FieldError,
}

/// What of an object is unique.
pub(crate) type Uniques = fn(&Value) -> Vec<Unique>;

impl Unique {
    /// `path` and `value`: where the object says it, for the error.
    pub(crate) fn new(index: &'static str, within: Within, name: String, path: String, value: &str) -> Self {
        let (kind, value) = (ErrorKind::Duplicate, quote(value));
        Self { index, within, name, error: FieldError { kind, path, value, detail: String::new(), of_change: false } }
    }
}
