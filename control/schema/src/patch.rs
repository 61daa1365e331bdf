//! The three patches that clients write out; each is applied to a value and gives a new one.

use crate::{Schema, limits, strategic};
use hypernetes_api::{ApiError, Reason};
use json_patch::{AddOperation, PatchErrorKind, PatchOperation, ReplaceOperation};
use serde_json::Value;
use std::sync::Arc;

/// `application/json-patch+json`, RFC 6902. A `test` that fails, or a path that is not there, is `Invalid`, as upstream has it.
pub fn json_patch(object: Value, patch: &[u8]) -> Result<Value, ApiError> {
    let rejected = |why: &dyn std::fmt::Display| {
        let why = format!("the server rejected our request due to an error in our request: {why}");
        ApiError::new(Reason::Invalid, why)
    };
    operate(object, parse(patch)?).map_err(|refused| match refused {
        Refused::Operation(kind, _) => rejected(&kind),
        Refused::Said(why) => rejected(&why),
        Refused::Bounds(error) => error,
    })
}

/// The same operations as an admission policy has made them; none: a `test` among them has failed, and nothing is changed.
///
/// # Errors
/// An operation that is none, or cannot be carried out.
pub fn policy_patch(object: Value, operations: Value) -> Result<Option<Value>, String> {
    match checked(object, operations) {
        Ok(patched) => Ok(Some(patched)),
        Err(Refused::Operation(PatchErrorKind::TestFailed, _)) => Ok(None),
        Err(refused) => Err(refused.in_upstreams_words()),
    }
}

/// The same operations as an admission webhook has answered them.
///
/// # Errors
/// As [`policy_patch`], and a `test` that has failed.
pub fn webhook_patch(object: Value, operations: Value) -> Result<Value, String> {
    checked(object, operations).map_err(|refused| refused.in_upstreams_words())
}

fn checked(object: Value, operations: Value) -> Result<Value, Refused> {
    for operation in operations.as_array().into_iter().flatten() {
        let (op, path) = (text(operation, "op"), text(operation, "path"));
        if !matches!(op, "add" | "copy" | "move" | "remove" | "replace" | "test") {
            return Err(Refused::Said(format!("Unexpected kind: {op}")));
        }
        if !path.is_empty() && !path.starts_with('/') {
            let why = format!("{op} operation does not apply: doc is missing path: {path:?}: missing value");
            return Err(Refused::Said(why));
        }
    }
    let operations = serde_json::from_value(operations).map_err(|error| Refused::Said(error.to_string()))?;
    operate(object, operations)
}

fn text<'v>(operation: &'v Value, field: &str) -> &'v str {
    operation[field].as_str().unwrap_or_default()
}

enum Refused {
    Operation(PatchErrorKind, Refusal),
    Bounds(ApiError),
    /// It is none.
    Said(String),
}

impl Refused {
    fn in_upstreams_words(self) -> String {
        let (kind, Refusal { op, path, parent }) = match self {
            Self::Operation(kind, refusal) => (kind, refusal),
            Self::Bounds(error) => return error.message,
            Self::Said(why) => return why,
        };
        match op {
            "test" => format!("testing value {path} failed: test failed"),
            // Its text has no quotes there.
            "replace" => format!("replace operation does not apply: doc is missing path: {path}: missing value"),
            "remove" if parent => {
                let key = path.rsplit('/').next().unwrap_or_default();
                format!("error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value")
            }
            "add" | "remove" => format!("{op} operation does not apply: doc is missing path: {path:?}: missing value"),
            _ => kind.to_string(),
        }
    }
}

/// The operation that could not be carried out.
struct Refusal {
    op: &'static str,
    path: String,
    /// What it is a change of is there.
    parent: bool,
}

impl Refusal {
    fn of(operation: &PatchOperation, object: &Value) -> Self {
        let (op, path) = match operation {
            PatchOperation::Add(add) => ("add", &add.path),
            PatchOperation::Remove(remove) => ("remove", &remove.path),
            PatchOperation::Replace(replace) => ("replace", &replace.path),
            PatchOperation::Move(moved) => ("move", &moved.path),
            PatchOperation::Copy(copy) => ("copy", &copy.path),
            PatchOperation::Test(test) => ("test", &test.path),
        };
        let path = path.as_str().to_owned();
        let parent = path.rsplit_once('/').is_some_and(|(parent, _)| object.pointer(parent).is_some());
        Self { op, path, parent }
    }
}

/// What replaces a field that is not there adds it, as upstream's library has it.
fn lenient(operation: PatchOperation, object: &Value) -> PatchOperation {
    match operation {
        PatchOperation::Replace(ReplaceOperation { path, value })
            if object.pointer(path.as_str()).is_none()
                && path
                    .as_str()
                    .rsplit_once('/')
                    .and_then(|(parent, _)| object.pointer(parent))
                    .is_some_and(Value::is_object) =>
        {
            PatchOperation::Add(AddOperation { path, value })
        }
        other => other,
    }
}

fn operate(mut object: Value, operations: Vec<PatchOperation>) -> Result<Value, Refused> {
    if operations.len() > limits::MAX_JSON_PATCH_OPERATIONS {
        return Err(Refused::Bounds(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {}, got {}",
                limits::MAX_JSON_PATCH_OPERATIONS,
                operations.len()
            ),
        )));
    }
    let mut size = size_of(&object);
    for operation in operations {
        let operation = lenient(operation, &object);
        size += bound(&operation, &object).map_err(Refused::Bounds)?;
        if size > limits::MAX_PATCHED {
            return Err(Refused::Bounds(too_large()));
        }
        json_patch::patch(&mut object, std::slice::from_ref(&operation))
            .map_err(|error| Refused::Operation(error.kind, Refusal::of(&operation, &object)))?;
    }
    Ok(object)
}

/// How many bytes an operation may add at most; refuses one that would nest too deep.
fn bound(operation: &PatchOperation, object: &Value) -> Result<usize, ApiError> {
    let (path, added) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Copy(copy) => (&copy.path, object.pointer(copy.from.as_str())),
        PatchOperation::Move(moved) => (&moved.path, object.pointer(moved.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(0),
    };
    let Some(added) = added else { return Ok(0) };
    if path.tokens().count() + depth_of(added) > limits::MAX_DEPTH {
        return Err(ApiError::bad_request("the patch nests too deep"));
    }
    Ok(size_of(added) + path.as_str().len())
}

/// Nesting of objects and lists. The value itself is bounded already, so recursion is.
fn depth_of(value: &Value) -> usize {
    match value {
        Value::Object(object) => 1 + object.values().map(depth_of).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// About the length of the JSON text, in bytes.
fn size_of(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.iter().map(|(name, value)| name.len() + 4 + size_of(value)).sum::<usize>() + 2,
        Value::Array(list) => list.iter().map(|value| size_of(value) + 1).sum::<usize>() + 2,
        Value::String(text) => text.len() + 2,
        _ => 8,
    }
}

fn too_large() -> ApiError {
    ApiError::new(
        Reason::RequestEntityTooLarge,
        format!("the patched object would be larger than {} bytes", limits::MAX_PATCHED),
    )
}

/// `application/merge-patch+json`, RFC 7386.
pub fn merge_patch(mut object: Value, patch: &[u8]) -> Result<Value, ApiError> {
    let patch: Value = parse(patch)?;
    if !patch.is_object() {
        return Err(ApiError::bad_request("a merge patch of an object must be an object"));
    }
    json_patch::merge(&mut object, &patch);
    Ok(object)
}

/// `application/strategic-merge-patch+json`. (Custom resources do not have it: `UnsupportedMediaType` is the caller's.)
pub fn strategic_merge_patch(schema: &Arc<Schema>, object: Value, patch: &[u8]) -> Result<Value, ApiError> {
    let patch: Value = parse(patch)?;
    let (Value::Object(patch), Value::Object(object)) = (patch, object) else {
        return Err(ApiError::bad_request("a strategic merge patch must be an object"));
    };
    strategic::merge(schema, object, patch).map(Value::Object).map_err(|error| ApiError::bad_request(error.to_string()))
}

fn parse<T: serde::de::DeserializeOwned>(patch: &[u8]) -> Result<T, ApiError> {
    if patch.len() > limits::MAX_BODY {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {}", limits::MAX_BODY),
        ));
    }
    serde_json::from_slice(patch).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectType;
    use k8s_openapi::api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    };
    use proptest::prelude::*;
    use serde_json::json;

    fn bytes(value: &Value) -> Vec<u8> {
        value.to_string().into_bytes()
    }

    fn strategic(kind: &str, object: Value, patch: Value) -> Value {
        let ty = match kind {
            "Pod" => ObjectType::kubernetes::<Pod>(),
            "ConfigMap" => ObjectType::kubernetes::<ConfigMap>(),
            "Deployment" => ObjectType::kubernetes::<Deployment>(),
            other => panic!("{other}"),
        };
        strategic_merge_patch(ty.schema(), object.clone(), &bytes(&patch)).unwrap()
    }

    #[test]
    fn json_patch_works_and_fails_as_upstream() {
        let object = json!({"a": {"b": 1}});
        let patched =
            json_patch(object.clone(), br#"[{"op":"add","path":"/a/c","value":[1]},{"op":"remove","path":"/a/b"}]"#);
        assert_eq!(patched.unwrap(), json!({"a": {"c": [1]}}));
        let failed = json_patch(object.clone(), br#"[{"op":"test","path":"/a/b","value":2}]"#).unwrap_err();
        assert_eq!(failed.reason, Reason::Invalid);
        assert_eq!(json_patch(object.clone(), b"{").unwrap_err().reason, Reason::BadRequest);
    }

    #[test]
    fn json_patch_cannot_grow_without_bound() {
        let doubling: Vec<Value> = (0..60)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/x"}))
            .flat_map(|copy| [copy, json!({"op": "copy", "from": "/a/x", "path": "/a/y"})])
            .collect();
        assert!(json_patch(json!({"a": {"b": "0123456789"}}), &bytes(&Value::Array(doubling))).is_err());
        let nesting: Vec<Value> = (0..5_000)
            .map(|_| json!({"op": "move", "from": "/a", "path": "/b"}))
            .flat_map(|_| {
                [
                    json!({"op": "copy", "from": "/a", "path": "/t"}),
                    json!({"op": "add", "path": "/a", "value": {}}),
                    json!({"op": "move", "from": "/t", "path": "/a/a"}),
                ]
            })
            .collect();
        assert!(json_patch(json!({"a": {}}), &bytes(&Value::Array(nesting))).is_err());
    }

    #[test]
    fn merge_patch_is_rfc_7386() {
        let patched = merge_patch(json!({"a": {"b": 1, "c": [1, 2]}}), br#"{"a":{"b":null,"c":[3]},"d":{"e":null}}"#);
        assert_eq!(patched.unwrap(), json!({"a": {"c": [3]}, "d": {}}));
        assert!(merge_patch(json!({}), b"[]").is_err());
    }

    #[test]
    fn strategic_merge_goes_by_merge_keys() {
        let pod =
            json!({"spec": {"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}});
        let patched = strategic(
            "Pod",
            pod,
            json!({"spec": {"containers": [{"name": "a", "image": "2", "args": ["y"]}, {"name": "c", "image": "3"}, {"name": "b", "$patch": "delete"}]}}),
        );
        assert_eq!(
            patched,
            json!({"spec": {"containers": [{"name": "a", "image": "2", "args": ["y"]}, {"name": "c", "image": "3"}]}})
        );
    }

    #[test]
    fn strategic_merge_directives() {
        let pod = json!({"metadata": {"finalizers": ["a/a", "b/b"]}, "spec": {"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}});
        let patched = strategic(
            "Pod",
            pod,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"], "finalizers": ["c/c"]},
                "spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}]}}),
        );
        assert_eq!(patched["metadata"]["finalizers"], json!(["b/b", "c/c"]));
        let names: Vec<&str> =
            patched["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names.iter().filter(|n| **n != "s").collect::<Vec<_>>(), [&"b", &"a"]);
        assert_eq!(names.len(), 3);

        let deployment = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patched = strategic(
            "Deployment",
            deployment,
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        );
        assert_eq!(patched, json!({"spec": {"strategy": {"type": "Recreate"}}}));

        let replaced = strategic(
            "ConfigMap",
            json!({"data": {"a": "1", "b": "2"}}),
            json!({"data": {"$patch": "replace", "c": "3"}}),
        );
        assert_eq!(replaced, json!({"data": {"c": "3"}}));
        let deleted = strategic(
            "ConfigMap",
            json!({"data": {"a": "1"}, "immutable": true}),
            json!({"data": {"$patch": "delete"}}),
        );
        assert_eq!(deleted, json!({"immutable": true}));
    }

    #[test]
    fn strategic_merge_refuses_items_without_key() {
        let ty = ObjectType::kubernetes::<Pod>();
        let object = json!({"spec": {"containers": [{"name": "a"}]}});
        let error = strategic_merge_patch(ty.schema(), object.clone(), br#"{"spec":{"containers":[{"image":"x"}]}}"#)
            .unwrap_err();
        assert!(error.message.contains("does not contain declared merge key: name"), "{}", error.message);
        let error =
            strategic_merge_patch(ty.schema(), object.clone(), br#"{"spec":{"$patch":"nonsense"}}"#).unwrap_err();
        assert_eq!(error.reason, Reason::BadRequest);
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,4}".prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]|\\$patch|metadata|labels|spec|containers|name", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merge_patch_twice_is_once(object in json_value(), patch in json_value()) {
            if let Ok(once) = merge_patch(object.clone(), &bytes(&patch)) {
                prop_assert_eq!(&merge_patch(once.clone(), &bytes(&patch)).unwrap(), &once);
            }
        }

        #[test]
        fn no_patch_panics(object in json_value(), patch in json_value()) {
            let ty = ObjectType::kubernetes::<Pod>();
            let _ = strategic_merge_patch(ty.schema(), object.clone(), &bytes(&patch));
            let _ = json_patch(object.clone(), &bytes(&patch));
        }

        #[test]
        fn a_strategic_patch_of_labels_sets_them(
            old in prop::collection::btree_map("[a-e]", "[x-z]", 0..5),
            new in prop::collection::btree_map("[a-e]", prop::option::of("[x-z]"), 0..5),
        ) {
            let ty = ObjectType::kubernetes::<Pod>();
            let object = json!({"metadata": {"labels": old}});
            let patched = strategic_merge_patch(ty.schema(), object.clone(), &bytes(&json!({"metadata": {"labels": new}}))).unwrap();
            let mut expected = old.clone();
            for (name, value) in new {
                match value {
                    Some(value) => { expected.insert(name, value); }
                    None => { expected.remove(&name); }
                }
            }
            prop_assert_eq!(&patched["metadata"]["labels"], &json!(expected));
        }
    }
}
