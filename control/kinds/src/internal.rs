//! Upstream's own types as its messages print them: by their names in Go, in their order, with all that is not set.

use serde_json::Value;

use crate::field::{ErrorKind, Errors, Field, shown};

/// How a value is printed.
pub(crate) enum Internal {
    /// As in JSON; this where there is none.
    Plain(&'static str),
    List(&'static Internal),
    /// A struct that is always there: by the names in JSON and in Go.
    Struct(&'static [(&'static str, &'static str, Internal)]),
    /// One that need not be.
    Pointer(&'static Internal),
}

pub(crate) const TEXT: Internal = Internal::Plain("\"\"");
pub(crate) const NULL: Internal = Internal::Plain("null");

impl Internal {
    /// An error unless a field's value, which is printed so, is the old one's.
    pub fn kept(&self, field: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
        if !field.is_as(old) {
            field.changed(errors, ErrorKind::Invalid, self.shown(field.value), "field is immutable");
        }
    }

    pub fn shown(&self, value: &Value) -> String {
        match (self, value) {
            (Self::Plain(absent), Value::Null) => (*absent).to_owned(),
            (Self::Plain(_), value) => shown(value),
            (Self::List(_) | Self::Pointer(_), Value::Null) => "null".to_owned(),
            (Self::List(items), value) => {
                let items: Vec<String> = value.as_array().into_iter().flatten().map(|item| items.shown(item)).collect();
                format!("[{}]", items.join(","))
            }
            (Self::Pointer(to), value) => to.shown(value),
            (Self::Struct(fields), value) => {
                let field = |(json, go, shape): &(&str, &str, Self)| {
                    format!("\"{go}\":{}", shape.shown(value.get(*json).unwrap_or(&Value::Null)))
                };
                format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(","))
            }
        }
    }
}
