//! Apply configurations of admission policies: merged as server-side apply merges, and nobody's (KEP-3962).

use serde_json::Value;

use crate::{
    ObjectType, Schema,
    fieldset::{self, View},
    managed,
};

/// The object with what a configuration sets.
///
/// # Errors
/// What is wrong with the configuration, as upstream says it: fields that there are not, items without their keys, and anything that is
/// owned as a whole, of which all that is not named would be lost.
pub fn overlay(ty: &ObjectType, object: &Value, configuration: &Value) -> Result<Value, String> {
    let schema = ty.schema().resolve();
    if let Some(fault) = misshapen(&schema, configuration, "") {
        return Err(format!("failed to convert patch object to typed object: {fault}"));
    }
    managed::check_keys(&schema, configuration, "")
        .map_err(|error| format!("failed to convert patch object to typed object: {}", error.message))?;
    let mut wholes = Vec::new();
    find_wholes(&schema, false, configuration, "", &mut wholes);
    if !wholes.is_empty() {
        let wholes = wholes.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {wholes}"));
    }
    Ok(managed::merge(&schema, false, object, configuration))
}

/// The first field that the schema does not have, or that is of another type. What a definition says no more of may be anything.
fn misshapen(schema: &Schema, value: &Value, path: &str) -> Option<String> {
    match (schema, value) {
        (Schema::Object(fields), Value::Object(object)) => object.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match fields.field(name) {
                Some(field) => misshapen(&field.schema.resolve(), value, &path),
                None => Some(format!("{path}: field not declared in schema")),
            }
        }),
        (Schema::Map { values, .. }, Value::Object(object)) => {
            let values = values.resolve();
            object.iter().find_map(|(name, value)| misshapen(&values, value, &format!("{path}.{name}")))
        }
        (Schema::List { items, .. }, Value::Array(list)) => {
            let items = items.resolve();
            list.iter().enumerate().find_map(|(at, item)| misshapen(&items, item, &format!("{path}[{at}]")))
        }
        (Schema::String | Schema::Bytes | Schema::Time | Schema::MicroTime, Value::Number(_) | Value::Bool(_)) => {
            Some(format!("{path}: expected string, got &value.valueUnstructured{{Value:{value}}}"))
        }
        (Schema::Boolean, Value::Number(_) | Value::String(_)) => {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(format!("{path}: expected boolean, got &{{{shown}}}"))
        }
        (Schema::Integer(_) | Schema::Number, Value::String(_)) => {
            Some(format!("{path}: expected numeric (int or float), got string"))
        }
        (Schema::Object(_) | Schema::Map { .. }, Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(format!("{path}: expected map, got &{{{shown}}}"))
        }
        _ => None,
    }
}

/// Where lists, maps and structs are that are owned as a whole.
fn find_wholes(schema: &Schema, atomic: bool, value: &Value, path: &str, found: &mut Vec<String>) {
    match fieldset::view(schema, atomic, value) {
        View::Fields(object) => {
            for (name, value) in object {
                let (schema, atomic) = fieldset::below(schema, name);
                find_wholes(&schema, atomic, value, &format!("{path}.{name}"), found);
            }
        }
        View::Items(items, _, list) => {
            let items = items.resolve();
            for (at, item) in list.iter().enumerate() {
                find_wholes(&items, false, item, &format!("{path}[{at}]"), found);
            }
        }
        View::Leaf if value.is_object() || value.is_array() => found.push(path.to_owned()),
        View::Leaf => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_is_merged_by_keys() {
        let ty = ObjectType::kubernetes::<Pod>();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "1"}},
            "spec": {"containers": [{"name": "main", "image": "x"}]}});
        let configuration = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"b": "2"}},
            "spec": {"containers": [{"name": "main", "workingDir": "/w"}, {"name": "more", "image": "y"}]}});
        let merged = overlay(&ty, &pod, &configuration).unwrap();
        assert_eq!(merged["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        let containers = json!([{"name": "main", "image": "x", "workingDir": "/w"}, {"name": "more", "image": "y"}]);
        assert_eq!(merged["spec"]["containers"], containers);
    }

    #[test]
    fn what_is_owned_as_a_whole_is_not_changed_in_part() {
        let ty = ObjectType::kubernetes::<Deployment>();
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1}});
        let refused = |spec: Value| overlay(&ty, &object, &json!({"spec": spec})).unwrap_err();
        assert_eq!(
            refused(json!({"selector": {"matchLabels": {"a": "b"}}})),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"
        );
        assert_eq!(
            refused(json!({"template": {"spec": {"containers": [{"name": "a", "command": ["x"]}]}}})),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
             .spec.template.spec.containers[0].command"
        );
        assert_eq!(
            refused(json!({"nothing": 1})),
            "failed to convert patch object to typed object: .spec.nothing: field not declared in schema"
        );
        assert!(refused(json!({"template": {"spec": {"containers": [{"image": "x"}]}}})).contains("omits its key"));
    }
}
