//! OpenAPI v2, which older clients read: made of the documents of version 3, in JSON and in gnostic's protobuf.
//!
//! It is one document for all groups. What it says of some of them is a part: the parts of those that all have are made once, and a
//! tenant's own stand behind them.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::COMPONENTS;

mod gnostic;

const KIND: &str = "x-kubernetes-group-version-kind";
const DEFINITIONS: &str = "#/definitions/";
const LANGUAGES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// What the document says of some groups.
pub struct Part {
    /// The entries of `paths` and of `definitions`, without what is around them.
    json: [Bytes; 2],
    protobuf: [Bytes; 2],
    /// The paths and the definitions that are in it.
    paths: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Part {
    /// Of documents of version 3. What is told before is not told again.
    pub fn of<'a>(documents: impl IntoIterator<Item = &'a [u8]>, before: Option<&Self>) -> Self {
        let (mut paths, mut definitions) = (Map::new(), Map::new());
        for document in documents {
            let Ok(Value::Object(mut document)) = serde_json::from_slice(document) else { continue };
            if let Some(Value::Object(all)) = document.remove("paths") {
                let new = all.into_iter().filter(|(name, _)| before.is_none_or(|before| !before.paths.contains(name)));
                paths.extend(new.map(|(name, item)| (name, path(item))));
            }
            let schemas = document.get_mut("components").and_then(|all| all.get_mut("schemas")).map(Value::take);
            for (name, one) in schemas.as_ref().and_then(Value::as_object).into_iter().flatten() {
                if before.is_some_and(|before| before.names.contains(name)) {
                    continue;
                }
                // The document of its own group says what kind it is.
                let has = definitions.get(name).is_some_and(|known: &Value| known.get(KIND).is_some());
                if !has {
                    definitions.insert(name.clone(), schema(one));
                }
            }
        }
        Self {
            json: [entries(&paths), entries(&definitions)],
            protobuf: [gnostic::paths(&paths).into(), gnostic::definitions(&definitions).into()],
            paths: paths.into_iter().map(|(name, _)| name).collect(),
            names: definitions.into_iter().map(|(name, _)| name).collect(),
        }
    }
}

/// A document of parts in JSON, in pieces.
pub fn json(parts: &[&Part]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for (place, name) in
        [r#"{"swagger":"2.0","info":{"title":"Kubernetes","version":"v1.36.0"},"paths":{"#, r#"},"definitions":{"#]
            .into_iter()
            .enumerate()
    {
        pieces.push(Bytes::from_static(name.as_bytes()));
        let said = parts.iter().map(|part| &part.json[place]).filter(|text| !text.is_empty());
        for (number, text) in said.enumerate() {
            pieces.extend((number > 0).then_some(Bytes::from_static(b",")));
            pieces.push(text.clone());
        }
    }
    pieces.push(Bytes::from_static(b"}}"));
    pieces
}

/// The same in protobuf.
pub fn protobuf(parts: &[&Part]) -> Vec<Bytes> {
    let mut pieces = vec![Bytes::from(gnostic::head("2.0", "Kubernetes", "v1.36.0"))];
    for (place, number) in [(0, gnostic::PATHS), (1, gnostic::DEFINITIONS)] {
        let said = parts.iter().map(|part| part.protobuf[place].clone());
        let length = said.clone().map(|part| part.len()).sum();
        pieces.push(gnostic::field_head(number, length).into());
        pieces.extend(said);
    }
    pieces
}

/// The fields of an object, without its braces.
fn entries(map: &Map<String, Value>) -> Bytes {
    let text = serde_json::to_vec(map).unwrap_or_default();
    let inner = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}")).unwrap_or_default();
    Bytes::copy_from_slice(inner)
}

/// A schema as version 2 has it.
fn schema(value: &Value) -> Value {
    let Some(fields) = value.as_object() else { return value.clone() };
    let mut out = Map::new();
    for (name, value) in fields {
        match name.as_str() {
            "$ref" => drop(out.insert(name.clone(), reference(value))),
            // A description stands beside a reference.
            "allOf" => {
                if let Some(inner) = value.get(0).and_then(|one| one.get("$ref")) {
                    out.insert("$ref".into(), reference(inner));
                }
            }
            // What is a text or a number.
            "oneOf" => drop(out.insert("type".into(), "string".into())),
            "properties" => {
                let each = value.as_object().into_iter().flatten();
                let each = each.map(|(name, one)| (name.clone(), schema(one)));
                out.insert(name.clone(), each.collect::<Map<_, _>>().into());
            }
            "items" | "additionalProperties" => drop(out.insert(name.clone(), schema(value))),
            _ => drop(out.insert(name.clone(), value.clone())),
        }
    }
    out.into()
}

fn reference(value: &Value) -> Value {
    let name = value.as_str().and_then(|text| text.strip_prefix(COMPONENTS)).unwrap_or_default();
    format!("{DEFINITIONS}{name}").into()
}

fn path(mut item: Value) -> Value {
    let Some(fields) = item.as_object_mut() else { return item };
    for (name, value) in fields {
        match name.as_str() {
            "parameters" => *value = value.as_array().into_iter().flatten().map(parameter).collect(),
            _ => *value = operation(value),
        }
    }
    item
}

/// A parameter in a path or a query: its schema's fields stand beside its own.
fn parameter(value: &Value) -> Value {
    let mut out = value.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(schema)) = out.remove("schema") {
        out.extend(schema);
    }
    out.into()
}

fn operation(value: &Value) -> Value {
    let mut out = value.as_object().cloned().unwrap_or_default();
    let mut parameters: Vec<Value> = value["parameters"].as_array().into_iter().flatten().map(parameter).collect();
    let body = out.remove("requestBody").and_then(|body| body.get("content").cloned());
    let content = body.as_ref().and_then(Value::as_object);
    if let Some(of_body) = content.and_then(|content| content.values().next()) {
        let schema = schema(&of_body["schema"]);
        parameters.insert(0, json!({"name": "body", "in": "body", "required": true, "schema": schema}));
    }
    let patches = value["x-kubernetes-action"] == "patch";
    let consumes: Vec<Value> = match content {
        Some(content) if patches => content.keys().map(|name| name.as_str().into()).collect(),
        _ => vec!["*/*".into()],
    };
    let answers = value["responses"].as_object().into_iter().flatten().map(|(code, answer)| {
        let mut told = json!({"description": answer["description"]});
        if let Some(content) = answer["content"].as_object().and_then(|content| content.values().next()) {
            told["schema"] = schema(&content["schema"]);
        }
        (code.clone(), told)
    });
    out.insert("responses".into(), answers.collect::<Map<_, _>>().into());
    out.insert("parameters".into(), parameters.into());
    out.insert("consumes".into(), consumes.into());
    out.insert("produces".into(), json!(LANGUAGES));
    out.insert("schemes".into(), json!(["https"]));
    out.into()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};

    use super::{super::*, *};

    fn document_of(ty: ObjectType, plural: &str) -> Vec<u8> {
        let verbs = ["get", "list", "create", "update", "patch", "delete"].map(str::to_owned).to_vec();
        let (group, version) = (ty.group.clone(), ty.version.clone());
        let resource = Resource { ty: Arc::new(ty), plural: plural.into(), verbs, subresources: Vec::new() };
        document(&group, &version, &[resource])
    }

    fn whole(pieces: Vec<Bytes>) -> Vec<u8> {
        pieces.concat()
    }

    #[test]
    fn one_document_tells_of_all_parts_once() {
        let shared = Part::of([document_of(ObjectType::kubernetes::<Pod>(), "pods").as_slice()], None);
        let mut own = ObjectType::kubernetes::<ConfigMap>();
        own.group = "example.org".into();
        let own = Part::of([document_of(own, "maps").as_slice()], Some(&shared));
        assert!(!own.names.contains("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"), "it is defined already");
        let document: Value = serde_json::from_slice(&whole(json(&[&shared, &own]))).unwrap();
        let definitions = &document["definitions"];
        let spec = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(spec["containers"]["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
        assert_eq!(spec["affinity"]["$ref"], "#/definitions/io.k8s.api.core.v1.Affinity");
        assert!(spec["affinity"]["description"].is_string() && spec["affinity"]["allOf"].is_null());
        assert_eq!(definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["type"], "string");
        assert!(definitions["io.k8s.api.core.v1.ConfigMap"].is_object());
        let patch = &document["paths"]["/apis/example.org/v1/namespaces/{namespace}/maps/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "ConfigMap");
        assert!(patch["consumes"].as_array().unwrap().contains(&json!("application/merge-patch+json")));
        assert_eq!(patch["parameters"][0]["in"], "body");
        assert!(!document.to_string().contains(COMPONENTS));
        assert_eq!(whole(protobuf(&[&shared, &own])), whole(protobuf(&[&shared, &own])));
    }
}
