//! Filling in what a schema has defaults for.

use serde_json::Value;

use super::Structural;

impl Structural {
    /// Fills in defaults, outermost first: what a default holds is given defaults, too. A `null` where none may be counts as
    /// absent, and is dropped where there is no default.
    pub fn set_defaults(&self, value: &mut Value) {
        if self.has_defaults {
            self.fill(value);
        }
        self.drop_nulls(value);
    }

    fn fill(&self, value: &mut Value) {
        if !self.has_defaults {
            return;
        }
        match value {
            Value::Object(object) => {
                for (name, property) in &self.properties {
                    let Some(default) = &property.default else { continue };
                    let absent = match object.get(&**name) {
                        None => true,
                        Some(value) => value.is_null() && !property.nullable,
                    };
                    if absent {
                        object.insert(name.to_string(), default.clone());
                    }
                }
                for (name, value) in object.iter_mut() {
                    let Some(schema) = self.of_field(name) else { continue };
                    if let (Value::Null, false, Some(default)) = (&*value, schema.nullable, &schema.default) {
                        *value = default.clone();
                    }
                    schema.fill(value);
                }
            }
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                for item in list {
                    if let (Value::Null, false, Some(default)) = (&*item, items.nullable, &items.default) {
                        *item = default.clone();
                    }
                    items.fill(item);
                }
            }
            _ => {}
        }
    }

    /// Drops fields that are `null` and must not be.
    fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|name, value| {
                    !value.is_null() || self.properties.get(name.as_str()).is_none_or(|property| property.nullable)
                });
                for (name, value) in object.iter_mut() {
                    if let Some(schema) = self.of_field(name) {
                        schema.drop_nulls(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.drop_nulls(item));
                }
            }
            _ => {}
        }
    }
}
