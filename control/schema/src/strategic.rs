//! Strategic merge patches: merge patches that know which lists are keyed.
//! Semantics: "Strategic Merge Patch" in Kubernetes' API conventions, with its directives
//! `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and `$setElementOrder`.
//!
//! Recursion is bounded by the nesting of the patch, which its parser bounds.

use crate::{facts::ListPatch, tree::Schema};
use serde_json::{Map, Value};
use std::sync::Arc;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum StrategicError {
    #[error("unknown patch type found: {0}")]
    Directive(String),
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey { item: String, key: String },
    #[error("{0} must be a list")]
    NotList(String),
}

/// The schema of a field, of a map's value, or nothing known.
fn field_schema(schema: &Arc<Schema>, name: &str) -> Arc<Schema> {
    match schema.resolve().as_ref() {
        Schema::Object(fields) => fields.field(name).map(|field| field.schema.resolve()).unwrap_or_default(),
        Schema::Map { values, .. } => values.resolve(),
        _ => Arc::default(),
    }
}

pub(crate) fn merge(schema: &Arc<Schema>, mut object: Object, mut patch: Object) -> Result<Object, StrategicError> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(directive)) => match directive.as_str() {
            "merge" => {}
            "replace" => return strip_object(patch),
            // As the value of a field this is removed by the caller.
            "delete" => return Ok(Object::new()),
            _ => return Err(StrategicError::Directive(directive)),
        },
        Some(other) => return Err(StrategicError::Directive(other.to_string())),
    }
    if let Some(retain) = patch.remove(RETAIN_KEYS) {
        let Value::Array(retain) = retain else { return Err(StrategicError::NotList(RETAIN_KEYS.into())) };
        object.retain(|name, _| retain.iter().any(|keep| keep == name));
    }
    let mut orders = Object::new();
    let directives: Vec<String> = patch.keys().filter(|name| name.starts_with('$')).cloned().collect();
    for directive in directives {
        let Some(value) = patch.remove(&directive) else { continue };
        if let Some(field) = directive.strip_prefix(ELEMENT_ORDER) {
            orders.insert(field.to_owned(), value);
        } else if let Some(field) = directive.strip_prefix(DELETE_PRIMITIVES) {
            let Value::Array(gone) = value else { return Err(StrategicError::NotList(directive)) };
            if let Some(Value::Array(list)) = object.get_mut(field) {
                list.retain(|item| !gone.contains(item));
            }
        } else {
            // Not a directive: a map's key that happens to begin so.
            patch.insert(directive, value);
        }
    }
    for (name, change) in patch {
        let below = field_schema(schema, &name);
        let order = orders.remove(&name);
        let merged = match (object.remove(&name), change) {
            (_, Value::Null) => None,
            (Some(Value::Object(old)), Value::Object(change)) => {
                let deleted = change.get(PATCH).is_some_and(|directive| directive == "delete");
                let merged = merge(&below, old, change)?;
                (!deleted).then_some(Value::Object(merged))
            }
            (Some(Value::Array(old)), Value::Array(change)) => {
                Some(Value::Array(merge_lists(&below, old, change, order)?))
            }
            (_, Value::Object(change)) if change.get(PATCH).is_some_and(|directive| directive == "delete") => None,
            (_, change) => Some(strip(change)?),
        };
        if let Some(merged) = merged {
            object.insert(name, merged);
        }
    }
    // An order alone reorders what is there.
    for (name, order) in orders {
        let below = field_schema(schema, &name);
        if let Some(Value::Array(old)) = object.remove(&name) {
            let merged = merge_lists(&below, old, Vec::new(), Some(order))?;
            object.insert(name, Value::Array(merged));
        }
    }
    Ok(object)
}

fn merge_lists(
    schema: &Arc<Schema>,
    old: Vec<Value>,
    change: Vec<Value>,
    order: Option<Value>,
) -> Result<Vec<Value>, StrategicError> {
    let Schema::List { items, patch, .. } = schema.as_ref() else { return strip_list(change) };
    let order = match order {
        Some(Value::Array(order)) => Some(order),
        Some(_) => return Err(StrategicError::NotList(ELEMENT_ORDER.into())),
        None => None,
    };
    match patch {
        ListPatch::Replace => strip_list(change),
        ListPatch::Merge => {
            let before = old.clone();
            let mut merged = old;
            for item in change {
                if !merged.contains(&item) {
                    merged.push(item);
                }
            }
            Ok(reorder(merged, &before, order.as_deref(), |a, b| a == b))
        }
        ListPatch::MergeBy(key) => {
            let before = old.clone();
            let merged = merge_keyed(items, key, old, change)?;
            Ok(reorder(merged, &before, order.as_deref(), |a, b| {
                a.get(&**key).is_some() && a.get(&**key) == b.get(&**key)
            }))
        }
    }
}

fn merge_keyed(
    items: &Arc<Schema>,
    key: &str,
    mut merged: Vec<Value>,
    change: Vec<Value>,
) -> Result<Vec<Value>, StrategicError> {
    // One item `{$patch: replace}` makes the others the whole list.
    if change.iter().any(|item| item.get(PATCH).is_some_and(|directive| directive == "replace")) {
        let rest = change.into_iter().filter(|item| item.get(PATCH).is_none()).collect();
        return strip_list(rest);
    }
    for item in change {
        let Value::Object(item) = item else {
            return Err(StrategicError::NoMergeKey { item: item.to_string(), key: key.to_owned() });
        };
        let Some(wanted) = item.get(key).cloned() else {
            return Err(StrategicError::NoMergeKey { item: Value::Object(item).to_string(), key: key.to_owned() });
        };
        let found = merged.iter().position(|old| old.get(key) == Some(&wanted));
        if item.get(PATCH).is_some_and(|directive| directive == "delete") {
            merged.retain(|old| old.get(key) != Some(&wanted));
            continue;
        }
        match found {
            Some(at) => {
                if let Value::Object(old) = merged[at].take() {
                    merged[at] = Value::Object(merge(&items.resolve(), old, item)?);
                }
            }
            None => merged.push(Value::Object(strip_object(item)?)),
        }
    }
    Ok(merged)
}

/// Puts items into the order that the patch gives; items that it does not name (others' items) stay
/// after those that they came after.
pub(crate) fn reorder(
    list: Vec<Value>,
    before: &[Value],
    order: Option<&[Value]>,
    same: impl Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let Some(order) = order else { return list };
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|item| order.iter().any(|wanted| same(item, wanted)));
    named.sort_by_key(|item| order.iter().position(|wanted| same(item, wanted)));
    let old_place = |item: &Value| before.iter().position(|old| same(old, item));
    let mut merged = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        while let Some(other) = others.peek() {
            match (old_place(other), old_place(&item)) {
                (Some(other), Some(item)) if other < item => merged.extend(others.next()),
                _ => break,
            }
        }
        merged.push(item);
    }
    merged.extend(others);
    merged
}

/// A value that nothing was there for: without nulls and directives.
fn strip(value: Value) -> Result<Value, StrategicError> {
    Ok(match value {
        Value::Object(object) => Value::Object(strip_object(object)?),
        Value::Array(list) => Value::Array(strip_list(list)?),
        other => other,
    })
}

fn strip_object(object: Object) -> Result<Object, StrategicError> {
    object
        .into_iter()
        .filter(|(name, value)| {
            let directive = name == PATCH
                || name == RETAIN_KEYS
                || name.starts_with(ELEMENT_ORDER)
                || name.starts_with(DELETE_PRIMITIVES);
            !directive && !value.is_null()
        })
        .map(|(name, value)| Ok((name, strip(value)?)))
        .collect()
}

fn strip_list(list: Vec<Value>) -> Result<Vec<Value>, StrategicError> {
    list.into_iter().filter(|item| item.get(PATCH).is_none_or(|d| d != "delete")).map(strip).collect()
}
