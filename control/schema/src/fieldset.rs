//! Sets of field paths, as `metadata.managedFields` has them (`fieldsV1`), and the sets that come from values.

use crate::{
    facts::ListKind,
    tree::{Field, Schema},
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// A set of paths as a tree. Steps are kept as `fieldsV1` writes them:
/// `f:<field>`, `k:<keys as JSON>`, `v:<value as JSON>`, `i:<index>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// The path that ends here is in the set.
    pub member: bool,
    pub children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    pub fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// From `fieldsV1`; what is not a step is left out. Bounded by the decoder's bound on nesting.
    pub fn from_fields_v1(value: &Value) -> Self {
        let mut set = Self::default();
        if let Value::Object(fields) = value {
            set.member = fields.contains_key(".") || fields.is_empty();
            for (step, below) in fields {
                if step.len() >= 2 && step.as_bytes()[1] == b':' {
                    set.children.insert(step.clone(), Self::from_fields_v1(below));
                }
            }
        }
        set
    }

    pub fn into_fields_v1(self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".into(), Value::Object(Map::new()));
        }
        fields.extend(self.children.into_iter().map(|(step, below)| (step, below.into_fields_v1())));
        Value::Object(fields)
    }

    /// Takes in what is in another.
    pub fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, theirs) in &other.children {
            match self.children.get_mut(step) {
                Some(ours) => ours.add(theirs),
                None => drop(self.children.insert(step.clone(), theirs.clone())),
            }
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(step, ours)| {
            let both = ours.intersection(other.children.get(step)?);
            (!both.is_empty()).then(|| (step.clone(), both))
        });
        Self { member: self.member && other.member, children: children.collect() }
    }

    /// Takes out what is in another.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (step, theirs) in &other.children {
            let Some(ours) = self.children.get_mut(step) else { continue };
            ours.subtract(theirs);
            if ours.is_empty() {
                self.children.remove(step);
            }
        }
    }

    /// Takes a path and all below it out.
    pub fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let Some(child) = self.children.get_mut(*first) else { return };
        if rest.is_empty() {
            self.children.remove(*first);
            return;
        }
        child.remove(rest);
        if child.is_empty() {
            self.children.remove(*first);
        }
    }

    /// The members, as messages write them: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(prefix.clone());
        }
        for (step, below) in &self.children {
            let length = prefix.len();
            write_step(prefix, step);
            below.collect(prefix, paths);
            prefix.truncate(length);
        }
    }
}

fn write_step(text: &mut String, step: &str) {
    let (kind, rest) = step.split_at(2.min(step.len()));
    // Writing to a String does not fail.
    let _ = match kind {
        "f:" => write!(text, ".{rest}"),
        "v:" => write!(text, "[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            write!(text, "[{}]", keys.join(","))
        }
        _ => write!(text, "[{rest}]"),
    };
}

/// What a value is to ownership.
pub(crate) enum View<'s, 'v> {
    /// Owned as a whole.
    Leaf,
    /// Fields or keys, each owned by itself.
    Fields(&'v Map<String, Value>),
    /// Items, each known by its step.
    Items(&'s Arc<Schema>, &'s ListKind, &'v [Value]),
}

/// How `value` is looked at under `schema`; `atomic` is what the field that it is in says.
pub(crate) fn view<'s, 'v>(schema: &'s Schema, atomic: bool, value: &'v Value) -> View<'s, 'v> {
    match (schema, value) {
        _ if atomic => View::Leaf,
        (Schema::Object(fields), Value::Object(object)) if !fields.atomic => View::Fields(object),
        (Schema::Map { atomic: false, .. } | Schema::Any, Value::Object(object)) => View::Fields(object),
        (Schema::List { items, kind, .. }, Value::Array(list)) if *kind != ListKind::Atomic => {
            View::Items(items, kind, list)
        }
        _ => View::Leaf,
    }
}

/// The schema below `schema` at a field or key, and whether the field is atomic.
pub(crate) fn below(schema: &Schema, name: &str) -> (Arc<Schema>, bool) {
    match schema {
        Schema::Object(fields) => match fields.field(name) {
            Some(Field { schema, atomic, .. }) => (schema.resolve(), *atomic),
            None => (Arc::default(), false),
        },
        Schema::Map { values, .. } => (values.resolve(), false),
        _ => (Arc::default(), false),
    }
}

/// The step of a list's item: its keys (with their defaults) or its value.
/// `None` when a key is missing that has no default.
pub(crate) fn item_step(items: &Schema, kind: &ListKind, item: &Value) -> Option<String> {
    let ListKind::Map(keys) = kind else {
        return Some(format!("v:{item}"));
    };
    let item = item.as_object()?;
    let mut names: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
    names.sort_unstable();
    let mut text = String::from("k:{");
    let mut given = false;
    for (at, name) in names.into_iter().enumerate() {
        let default = || {
            let json = items.as_struct()?.field(name)?.key_default?;
            serde_json::from_str::<Value>(json).ok()
        };
        let value = match item.get(name) {
            Some(value) => {
                given = true;
                value.clone()
            }
            // One of several keys may be absent: it is simply not part of the key.
            None => match default() {
                Some(value) => value,
                None if keys.len() > 1 => continue,
                None => return None,
            },
        };
        let comma = if at > 0 && text.len() > 3 { "," } else { "" };
        let _ = write!(text, "{comma}{}:{value}", Value::from(name));
    }
    text.push('}');
    given.then_some(text)
}

/// Every path that `value` sets, each leaf and each item of a list that has keys.
pub(crate) fn of_value(schema: &Schema, atomic: bool, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match view(schema, atomic, value) {
        View::Leaf => set.member = true,
        View::Fields(object) => {
            set.member = object.is_empty();
            for (name, value) in object {
                let (schema, atomic) = below(schema, name);
                set.children.insert(format!("f:{name}"), of_value(&schema, atomic, value));
            }
        }
        View::Items(items, kind, list) => {
            set.member = list.is_empty();
            let items = items.resolve();
            for item in list {
                let Some(step) = item_step(&items, kind, item) else { continue };
                let mut below = match kind {
                    ListKind::Map(_) => of_value(&items, false, item),
                    _ => FieldSet::default(),
                };
                below.member = true;
                set.children.insert(step, below);
            }
        }
    }
    set
}

/// What differs between two values.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Added or modified.
    pub set: FieldSet,
    pub removed: FieldSet,
}

impl Changes {
    fn put(&mut self, step: &str, inner: Self) {
        if !inner.set.is_empty() {
            self.set.children.insert(step.to_owned(), inner.set);
        }
        if !inner.removed.is_empty() {
            self.removed.children.insert(step.to_owned(), inner.removed);
        }
    }
}

/// Most fields of a write are as they were: nothing is made for them.
fn compare_fields(schema: &Schema, old: &Map<String, Value>, new: &Map<String, Value>, changes: &mut Changes) {
    let nothing = FieldSet::default;
    for (name, value) in new {
        let before = old.get(name);
        if before == Some(value) {
            continue;
        }
        let (schema, atomic) = below(schema, name);
        let inner = match before {
            Some(before) => compare(&schema, atomic, before, value),
            None => Changes { set: of_value(&schema, atomic, value), removed: nothing() },
        };
        changes.put(&format!("f:{name}"), inner);
    }
    for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        let (schema, atomic) = below(schema, name);
        let inner = Changes { set: nothing(), removed: of_value(&schema, atomic, value) };
        changes.put(&format!("f:{name}"), inner);
    }
}

/// Compares values; the order of lists with keys is no difference.
pub(crate) fn compare(schema: &Schema, atomic: bool, old: &Value, new: &Value) -> Changes {
    let mut changes = Changes::default();
    if old == new {
        return changes;
    }
    let (old_steps, new_steps) = match (view(schema, atomic, old), view(schema, atomic, new)) {
        (View::Fields(old), View::Fields(new)) => {
            compare_fields(schema, old, new, &mut changes);
            return changes;
        }
        (View::Items(..), View::Items(..)) => (steps(schema, old), steps(schema, new)),
        _ => {
            changes.set = of_value(schema, atomic, new);
            changes.removed = of_value(schema, atomic, old);
            changes.removed.subtract(&changes.set);
            return changes;
        }
    };
    for (step, (schema, old)) in &old_steps {
        let inner = match new_steps.get(step) {
            Some((_, new)) => compare(schema, false, old, new),
            None => Changes { set: FieldSet::default(), removed: owned(step, schema, old) },
        };
        changes.put(step, inner);
    }
    for (step, (schema, new)) in &new_steps {
        if !old_steps.contains_key(step) {
            changes.set.children.insert(step.clone(), owned(step, schema, new));
        }
    }
    changes
}

/// What an item of a list that has keys owns: itself, and what is in it.
fn owned(step: &str, schema: &Schema, value: &Value) -> FieldSet {
    let set = if step.starts_with("v:") { FieldSet::default() } else { of_value(schema, false, value) };
    FieldSet { member: true, ..set }
}

type Steps<'v> = BTreeMap<String, (Arc<Schema>, &'v Value)>;

/// The items of a list that has keys. Of items with the same keys the first counts.
fn steps<'v>(schema: &Schema, value: &'v Value) -> Steps<'v> {
    let mut steps = Steps::new();
    if let View::Items(items, kind, list) = view(schema, false, value) {
        let items = items.resolve();
        for item in list {
            if let Some(step) = item_step(&items, kind, item) {
                steps.entry(step).or_insert_with(|| (Arc::clone(&items), item));
            }
        }
    }
    steps
}
