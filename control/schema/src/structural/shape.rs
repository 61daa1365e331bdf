//! The tree by which patches and managed fields go through objects of a structural schema.

use std::sync::Arc;

use super::{Additional, Structural, Type};
use crate::{
    Field, ListPatch, Schema, Struct,
    tree::{self, IntegerRange},
};

impl Structural {
    /// The tree of an object of the API: its metadata is as every object's.
    pub fn shape(&self) -> Arc<Schema> {
        let mut root = self.fields();
        for field in envelope() {
            root.retain(|one| one.name != field.name);
            root.push(field);
        }
        Arc::new(object(root, self.preserves_unknown, self.atomic))
    }

    /// The tree that bodies are read by: what is in an object is looked at once it is read.
    pub fn body() -> Arc<Schema> {
        Arc::new(object(envelope(), true, false))
    }

    fn fields(&self) -> Vec<Field> {
        let required = |name: &str| self.checks.required.iter().any(|required| **required == *name);
        self.properties.iter().map(|(name, property)| field(name, property.part(), required(name))).collect()
    }

    fn part(&self) -> Arc<Schema> {
        Arc::new(match self.ty {
            _ if self.int_or_string => Schema::IntOrString,
            Some(Type::String) => Schema::String,
            Some(Type::Boolean) => Schema::Boolean,
            Some(Type::Integer) => {
                Schema::Integer(IntegerRange { min: i64::MIN, max: i64::MAX as u64, type_name: "int64" })
            }
            Some(Type::Number) => Schema::Number,
            Some(Type::Array) => Schema::List {
                items: self.items.as_ref().map(|items| items.part()).unwrap_or_default(),
                kind: self.list.clone(),
                patch: ListPatch::default(),
            },
            Some(Type::Object) if self.embedded => return self.shape(),
            Some(Type::Object) => match &self.additional {
                Some(Additional::Values(values)) => Schema::Map { values: values.part(), atomic: self.atomic },
                _ if self.properties.is_empty() => Schema::Map { values: Arc::default(), atomic: self.atomic },
                _ => object(self.fields(), self.preserves_unknown, self.atomic),
            },
            None => Schema::Any,
        })
    }
}

fn field(name: &str, schema: Arc<Schema>, required: bool) -> Field {
    Field { name: name.into(), schema, required, atomic: false, retain_keys: false, key_default: None }
}

fn envelope() -> Vec<Field> {
    let text = || Arc::new(Schema::String);
    vec![field("apiVersion", text(), false), field("kind", text(), false), field("metadata", tree::metadata(), false)]
}

fn object(mut fields: Vec<Field>, open: bool, atomic: bool) -> Schema {
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Schema::Object(Struct { name: Box::default(), fields, atomic, open })
}
