//! Following a schema and a value at once, and short paths into values.

use crate::tree::{Schema, Struct};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Calls `visit` for every object whose definition has a name, outermost first.
pub fn structs_mut(schema: &Arc<Schema>, value: &mut Value, visit: &mut impl FnMut(&Struct, &mut Map<String, Value>)) {
    match (schema.resolve().as_ref(), value) {
        (Schema::Object(fields), Value::Object(object)) => {
            visit(fields, object);
            for (name, value) in object.iter_mut() {
                if let Some(field) = fields.field(name) {
                    structs_mut(&field.schema, value, visit);
                }
            }
        }
        (Schema::Map { values, .. }, Value::Object(object)) => {
            object.values_mut().for_each(|value| structs_mut(values, value, visit));
        }
        (Schema::List { items, .. }, Value::Array(list)) => {
            list.iter_mut().for_each(|value| structs_mut(items, value, visit));
        }
        _ => {}
    }
}

/// The value at `a.b.c`.
pub fn get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, field| value.as_object()?.get(field))
}

/// The text at `a.b.c`, empty when there is none.
pub fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    get(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `a.b.c`, empty when there is none.
pub fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    get(value, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Sets, or with `None` removes, a field of an object.
pub fn put(object: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            object.insert(field.to_owned(), value);
        }
        None => {
            object.remove(field);
        }
    }
}

/// The object in `field`, made when it is not there. Something else in its place is replaced.
pub fn child<'v>(object: &'v mut Map<String, Value>, field: &str) -> &'v mut Map<String, Value> {
    if !object.get(field).is_some_and(Value::is_object) {
        object.insert(field.to_owned(), Value::Object(Map::new()));
    }
    match object.get_mut(field) {
        Some(Value::Object(child)) => child,
        _ => unreachable!("the field has just been made an object"),
    }
}

/// The object at a path, made where there is none. What is in its way and is no object is replaced: indexing would panic.
pub fn fields<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let made = |value: &'a mut Value| -> &'a mut Map<String, Value> {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(map) => map,
            _ => unreachable!("it has just been made an object"),
        }
    };
    path.iter().fold(made(object), |map, step| made(map.entry(*step).or_insert(Value::Null)))
}
