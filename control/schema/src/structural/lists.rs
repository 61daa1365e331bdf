//! Lists that are sets or maps: no two items, or no two with the same keys.

use std::collections::HashSet;

use serde_json::Value;

use super::{Structural, path::Path, validate::Found};
use crate::ListKind;

impl Structural {
    /// What comes twice in lists that are sets or maps, in upstream's words.
    pub(super) fn duplicates(&self, value: &Value, path: &Path<'_>, found: &mut Found) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    if let Some(schema) = self.of_field(name) {
                        schema.duplicates(value, &path.field(name), found);
                    }
                }
            }
            Value::Array(list) => {
                let mut seen = HashSet::new();
                let mut told = HashSet::new();
                for (index, item) in list.iter().enumerate() {
                    let Some(key) = self.key_of(item) else { continue };
                    let key = key.to_string();
                    // However often it comes, it is told of once.
                    if !seen.insert(key.clone()) && told.insert(key) {
                        found.duplicate(&path.index(index), self.shown(item));
                    }
                }
                if let Some(items) = &self.items {
                    for (index, item) in list.iter().enumerate() {
                        items.duplicates(item, &path.index(index), found);
                    }
                }
            }
            _ => {}
        }
    }

    /// By what an item is told from the others; none where it is not.
    fn key_of(&self, item: &Value) -> Option<Value> {
        match &self.list {
            ListKind::Atomic => None,
            ListKind::Set => Some(item.clone()),
            ListKind::Map(_) => Some(self.shown(item)),
        }
    }

    /// Of an item of a map its keys, as they are shown, too.
    fn shown(&self, item: &Value) -> Value {
        match &self.list {
            ListKind::Map(keys) => {
                keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone()))).collect()
            }
            ListKind::Atomic | ListKind::Set => item.clone(),
        }
    }
}
