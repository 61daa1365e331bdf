//! Dropping what a schema does not know.

use serde_json::{Map, Value};

use super::{Additional, Structural, path::Path};

/// What every object of the API has, be it in another or not.
pub(super) const OF_OBJECTS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Below this every whole number is a floating-point one.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Structural {
    /// Drops the fields of an object of the API that the schema does not know, and tells the path of each. What has another
    /// type than the schema says stays as it is: that is validation's.
    pub fn prune(&self, object: &mut Value, dropped: &mut dyn FnMut(String)) {
        if let Value::Object(object) = object {
            self.prune_object(object, true, &Path::Root, dropped);
        }
    }

    /// Writes numbers without a fraction as whole ones, which is how Go writes them.
    pub fn whole_numbers(value: &mut Value) {
        match value {
            Value::Number(number) => {
                let whole = number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0 && f.abs() < EXACT);
                if let Some(whole) = whole {
                    *value = (whole as i64).into();
                }
            }
            Value::Array(list) => list.iter_mut().for_each(Self::whole_numbers),
            Value::Object(object) => object.values_mut().for_each(Self::whole_numbers),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    /// As [`Self::prune`], of a part of an object.
    pub fn prune_part(&self, value: &mut Value) {
        self.prune_value(value, &Path::Root, &mut |_| {});
    }

    fn prune_value(&self, value: &mut Value, path: &Path<'_>, dropped: &mut dyn FnMut(String)) {
        match value {
            Value::Object(object) => self.prune_object(object, self.embedded, path, dropped),
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                for (index, item) in list.iter_mut().enumerate() {
                    items.prune_value(item, &path.index(index), dropped);
                }
            }
            _ => {}
        }
    }

    fn prune_object(
        &self,
        object: &mut Map<String, Value>,
        is_resource: bool,
        path: &Path<'_>,
        dropped: &mut dyn FnMut(String),
    ) {
        let free = self.preserves_unknown || matches!(self.additional, Some(Additional::Allowed(true)));
        // What metadata may hold is not the schema's.
        let of_resource = |name: &str| is_resource && OF_OBJECTS.contains(&name);
        object.retain(|name, value| match self.of_field(name) {
            _ if of_resource(name) => true,
            Some(schema) => {
                schema.prune_value(value, &path.field(name), dropped);
                true
            }
            None if free => true,
            None => {
                dropped(path.field(name).to_string());
                false
            }
        });
    }
}
