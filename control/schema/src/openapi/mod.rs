//! OpenAPI v3 documents, made when asked for: from `schemars`' output and the table of merge facts.
//!
//! Only what clients read is told: kubectl's `explain` and its choice of server-side validation, client-go's and helm's
//! look at merge keys, generators' look at shapes.

pub mod swagger;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::{
    ListKind, ListPatch, ObjectType,
    facts::{self, Facts},
    tree, types,
};

/// What the document tells of one resource.
#[derive(Debug, Clone)]
pub struct Resource {
    pub ty: Arc<ObjectType>,
    pub plural: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
}

/// e.g. `status` with get, patch, update of the parent's kind; `scale` with `autoscaling/v1` `Scale`.
#[derive(Debug, Clone)]
pub struct Subresource {
    pub name: String,
    pub ty: Arc<ObjectType>,
    pub verbs: Vec<String>,
}

const COMPONENTS: &str = "#/components/schemas/";
const KUBERNETES: &str = "io.k8s.";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

fn prefix(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// `GET /openapi/v3/api/v1`, `GET /openapi/v3/apis/<group>/<version>`: JSON text.
pub fn document(group: &str, version: &str, resources: &[Resource]) -> Vec<u8> {
    let mut components = Components::default();
    let mut paths = Map::new();
    for resource in resources {
        components.add(&resource.ty);
        add_paths(&mut paths, group, version, resource, &mut components);
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": components.schemas},
    });
    document.to_string().into_bytes()
}

/// A kind's schema without descriptions, with all that it is made of in its place. What contains itself is there once, and inside of
/// that an object of which nothing is said.
pub fn whole(ty: &ObjectType) -> Value {
    let mut components = Components::default();
    let root = components.add(ty);
    resolved(&root, &components.schemas, &mut Vec::new())
}

fn resolved<'s>(schema: &'s Value, all: &'s BTreeMap<String, Value>, within: &mut Vec<&'s str>) -> Value {
    let Some(fields) = schema.as_object() else { return schema.clone() };
    let refers = |value: &'s Value| value["$ref"].as_str().and_then(|text| text.strip_prefix(COMPONENTS));
    // A description stands beside a reference.
    if let Some(name) = refers(schema).or_else(|| refers(&schema["allOf"][0])) {
        let Some(of) = all.get(name).filter(|_| !within.contains(&name)) else { return json!({"type": "object"}) };
        within.push(name);
        let made = resolved(of, all, within);
        within.pop();
        return made;
    }
    let mut out = Map::new();
    for (key, value) in fields.iter().filter(|(key, _)| *key != "description") {
        let value = match key.as_str() {
            "properties" => {
                let each = value.as_object().into_iter().flatten();
                each.map(|(name, one)| (name.clone(), resolved(one, all, within))).collect::<Map<_, _>>().into()
            }
            "items" | "additionalProperties" => resolved(value, all, within),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    out.into()
}

#[derive(Default)]
struct Components {
    schemas: BTreeMap<String, Value>,
    added: BTreeSet<String>,
}

/// A definition's name in the document: Kubernetes' as they are, own ones behind their group.
fn component(name: &str, ty: &ObjectType) -> String {
    if name.starts_with(KUBERNETES) {
        return name.to_owned();
    }
    let group: Vec<&str> = ty.group.split('.').rev().collect();
    format!("{}.{}.{name}", group.join("."), ty.version)
}

impl Components {
    /// Adds a kind with all that it is made of; its reference is the answer.
    fn add(&mut self, ty: &ObjectType) -> Value {
        let (root, definitions) = ty.generated();
        let Some(root) = tree::reference(&root) else { return json!({"type": "object"}) };
        let top = component(root, ty);
        if self.added.insert(top.clone()) {
            for (name, body) in &definitions {
                let full = component(name, ty);
                self.schemas.entry(full).or_insert_with(|| definition(name, body, ty));
            }
            if let Some(schema) = self.schemas.get_mut(&top) {
                schema["x-kubernetes-group-version-kind"] =
                    json!([{"group": ty.group, "kind": ty.kind, "version": ty.version}]);
            }
        }
        json!({"$ref": format!("{COMPONENTS}{top}")})
    }

    /// Adds the lists of a kind that has been added; their reference is the answer.
    fn add_list(&mut self, ty: &ObjectType, item: &Value) -> Value {
        let of = item["$ref"].as_str().and_then(|text| text.strip_prefix(COMPONENTS)).unwrap_or_default();
        let name = format!("{of}List");
        if !self.schemas.contains_key(LIST_META) {
            let mut generator = SchemaGenerator::default();
            generator.subschema_for::<meta::ListMeta>();
            for (name, body) in generator.take_definitions(false) {
                self.schemas.entry(name.clone()).or_insert_with(|| definition(&name, &body, ty));
            }
        }
        let text = |description: &str| json!({"type": "string", "description": description});
        let list = json!({
            "description": format!("{}List is a list of objects of the kind {}.", ty.kind, ty.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": text(types::API_VERSION_TEXT),
                "kind": text(types::KIND_TEXT),
                "metadata": {"$ref": format!("{COMPONENTS}{LIST_META}")},
                "items": {"type": "array", "items": item},
            },
            "x-kubernetes-group-version-kind":
                [{"group": ty.group, "kind": format!("{}List", ty.kind), "version": ty.version}],
        });
        let reference = json!({"$ref": format!("{COMPONENTS}{name}")});
        self.schemas.entry(name).or_insert(list);
        reference
    }
}

fn definition(name: &str, body: &Value, ty: &ObjectType) -> Value {
    let table = if name.starts_with(KUBERNETES) {
        tree::table_name(name).to_owned()
    } else {
        format!("{}.{name}", ty.table_prefix())
    };
    match name {
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => {
            json!({"description": body["description"], "format": "int-or-string",
                "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => {
            json!({"description": body["description"], "oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        _ => {
            let mut whole = schema(body, &table, ty, None);
            of_definition(&mut whole, name, &table);
            whole
        }
    }
}

/// What is said of a definition as a whole.
fn of_definition(whole: &mut Value, name: &str, table: &str) {
    if let Some(facts) = facts::of_field(table, "-") {
        if facts.atomic {
            whole["x-kubernetes-map-type"] = json!("atomic");
        }
        if let Some((discriminator, fields)) = facts.union.and_then(|union| union.split_once(':')) {
            let capital =
                |field: &str| field.chars().next().map(|c| c.to_uppercase().chain(field.chars().skip(1)).collect());
            let fields: Map<String, Value> = fields
                .split(',')
                .map(|field| (field.to_owned(), capital(field).unwrap_or_else(String::new).into()))
                .collect();
            let mut union = json!({"fields-to-discriminateBy": fields});
            if !discriminator.is_empty() {
                union["discriminator"] = discriminator.into();
            }
            whole["x-kubernetes-unions"] = json!([union]);
        }
    }
    if !name.starts_with(KUBERNETES) {
        return;
    }
    if let Some(required) = whole.get_mut("required").and_then(Value::as_array_mut) {
        let optional =
            |field: &str| field == "metadata" || facts::of_field(table, field).is_some_and(|facts| facts.optional);
        required.retain(|field| !field.as_str().is_some_and(optional));
        if required.is_empty()
            && let Some(fields) = whole.as_object_mut()
        {
            fields.remove("required");
        }
    }
    // What nothing else is said of.
    for field in
        whole.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten().map(|(_, field)| field)
    {
        if field["type"] == "array" && field.get("x-kubernetes-list-type").is_none() {
            field["x-kubernetes-list-type"] = json!("atomic");
        }
    }
}

/// `schemars` speaks JSON schema 2020-12; OpenAPI 3.0 knows less.
fn schema(value: &Value, table: &str, ty: &ObjectType, facts: Option<&Facts>) -> Value {
    let mut out = Map::new();
    if let Some(description) = value.get("description") {
        out.insert("description".into(), description.clone());
    }
    if let Some(name) = tree::reference(value) {
        let reference = json!({"$ref": format!("{COMPONENTS}{}", component(name, ty))});
        if let Some(facts) = facts {
            extensions(&mut out, facts);
        }
        if out.is_empty() {
            return reference;
        }
        out.insert("allOf".into(), json!([reference]));
        return out.into();
    }
    let kind = match value.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().find(|kind| *kind != "null").cloned(),
        other => other.cloned(),
    };
    for (key, found) in [("type", kind), ("format", value.get("format").cloned()), ("enum", value.get("enum").cloned())]
    {
        if let Some(found) = found {
            out.insert(key.into(), found);
        }
    }
    for (key, found) in value.as_object().into_iter().flatten() {
        if key.starts_with("x-") || key == "required" {
            out.insert(key.clone(), found.clone());
        }
    }
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        let field = |(name, property): (&String, &Value)| {
            (name.clone(), schema(property, "", ty, facts::of_field(table, name)))
        };
        out.insert("properties".into(), properties.iter().map(field).collect());
    }
    if value.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        let properties = out.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = json!({"type": "string", "description": types::API_VERSION_TEXT});
        properties["kind"] = json!({"type": "string", "description": types::KIND_TEXT});
        properties["metadata"] = json!({"$ref": format!("{COMPONENTS}{OBJECT_META}")});
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner @ Value::Object(_)) = value.get(key) {
            out.insert(key.into(), schema(inner, "", ty, None));
        }
    }
    if let Some(facts) = facts {
        extensions(&mut out, facts);
    }
    out.into()
}

/// How lists and structs are merged.
fn extensions(out: &mut Map<String, Value>, facts: &Facts) {
    if out.get("type").is_some_and(|kind| kind == "array") {
        match &facts.list {
            ListKind::Atomic => drop(out.insert("x-kubernetes-list-type".into(), json!("atomic"))),
            ListKind::Set => drop(out.insert("x-kubernetes-list-type".into(), json!("set"))),
            ListKind::Map(keys) => {
                out.insert("x-kubernetes-list-type".into(), json!("map"));
                out.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            }
        }
    } else if facts.atomic {
        out.insert("x-kubernetes-map-type".into(), json!("atomic"));
    }
    match &facts.patch {
        ListPatch::Replace if facts.retain_keys => {
            out.insert("x-kubernetes-patch-strategy".into(), json!("retainKeys"));
        }
        ListPatch::Replace => {}
        ListPatch::Merge => drop(out.insert("x-kubernetes-patch-strategy".into(), json!("merge"))),
        ListPatch::MergeBy(key) => {
            let strategy = if facts.retain_keys { "merge,retainKeys" } else { "merge" };
            out.insert("x-kubernetes-patch-strategy".into(), json!(strategy));
            out.insert("x-kubernetes-patch-merge-key".into(), json!(key));
        }
    }
}

fn add_paths(
    paths: &mut Map<String, Value>,
    group: &str,
    version: &str,
    resource: &Resource,
    components: &mut Components,
) {
    let base = prefix(group, version);
    let place = if resource.ty.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
    let collection = format!("{place}/{}", resource.plural);
    let item = format!("{collection}/{{name}}");
    let reference = components.add(&resource.ty);
    let can_list = resource.verbs.iter().any(|verb| verb == "list");
    let list = if can_list { components.add_list(&resource.ty, &reference) } else { Value::Null };
    let can = |verb: &str| resource.verbs.iter().any(|v| v == verb);
    let operations = |wanted: &[(&str, &str, &str)], ty: &ObjectType, reference: &Value, can: &dyn Fn(&str) -> bool| {
        let made = wanted.iter().filter(|(verb, ..)| can(verb));
        made.map(|(verb, method, action)| {
            let answer = if *verb == "list" { &list } else { reference };
            ((*method).to_owned(), operation(verb, action, ty, reference, answer))
        })
        .collect()
    };
    let on_collection =
        [("list", "get", "list"), ("create", "post", "post"), ("deletecollection", "delete", "deletecollection")];
    let on_item =
        [("get", "get", "get"), ("update", "put", "put"), ("patch", "patch", "patch"), ("delete", "delete", "delete")];
    let mut add = |path: String, mut operations: Map<String, Value>| {
        if operations.is_empty() {
            return;
        }
        let parameters: Vec<Value> = ["namespace", "name"]
            .iter()
            .filter(|name| path.contains(&format!("{{{name}}}")))
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        operations.insert("parameters".into(), parameters.into());
        paths.insert(path, operations.into());
    };
    if resource.ty.namespaced && can("list") {
        let everywhere = operations(&on_collection[..1], &resource.ty, &reference, &can);
        add(format!("{base}/{}", resource.plural), everywhere);
    }
    add(collection, operations(&on_collection, &resource.ty, &reference, &can));
    add(item.clone(), operations(&on_item, &resource.ty, &reference, &can));
    for subresource in &resource.subresources {
        let reference = components.add(&subresource.ty);
        let can = |verb: &str| subresource.verbs.iter().any(|v| v == verb);
        let all = [&on_item[..], &on_collection[1..2]].concat();
        add(format!("{item}/{}", subresource.name), operations(&all, &subresource.ty, &reference, &can));
    }
}

/// `body` is what is sent, `answer` what comes back.
fn operation(verb: &str, action: &str, ty: &ObjectType, body: &Value, answer: &Value) -> Value {
    let query = |name: &str, kind: &str, text: &str| json!({"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": true}});
    let mut parameters = Vec::new();
    if matches!(verb, "create" | "update" | "patch") {
        parameters = vec![
            query("dryRun", "string", "All: everything is done but the writing."),
            query("fieldManager", "string", "The name by which the fields that are set are remembered."),
            query("fieldValidation", "string", "What unknown and duplicate fields are: Ignore, Warn or Strict."),
        ];
    }
    if verb == "patch" {
        parameters.push(query("force", "boolean", "Takes fields over from other managers (apply patches only)."));
    }
    let content = |types: &[&str], schema: &Value| -> Value {
        types.iter().map(|one| ((*one).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
    };
    let mut operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content(&["application/json"], answer)}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": ty.group, "kind": ty.kind, "version": ty.version},
    });
    let anything = json!({"type": "object"});
    let patches = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
    match verb {
        "create" | "update" => operation["requestBody"] = json!({"content": content(&["application/json"], body)}),
        "patch" if ty.is_own() => operation["requestBody"] = json!({"content": content(&patches, &anything)}),
        "patch" => {
            let all = [patches.as_slice(), &["application/strategic-merge-patch+json"]].concat();
            operation["requestBody"] = json!({"content": content(&all, &anything)});
        }
        _ => {}
    }
    operation
}

#[cfg(test)]
mod tests {
    use hypernetes_api::types::network::Network;
    use k8s_openapi::{
        api::core::v1::Pod, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    };

    use super::*;

    fn of(ty: ObjectType, plural: &str) -> Value {
        let verbs = ["get", "list", "create", "update", "patch", "delete"].map(str::to_owned).to_vec();
        let (group, version) = (ty.group.clone(), ty.version.clone());
        let resource = Resource { ty: Arc::new(ty), plural: plural.into(), verbs, subresources: Vec::new() };
        serde_json::from_slice(&document(&group, &version, &[resource])).unwrap()
    }

    #[test]
    fn what_kubectl_reads_is_there() {
        let core = of(ObjectType::kubernetes::<Pod>(), "pods");
        let patch = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        let schemas = &core["components"]["schemas"];
        let pod = &schemas["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
        assert!(containers["description"].as_str().unwrap().len() > 20);
    }

    #[test]
    fn a_whole_schema_refers_to_nothing() {
        let pod = whole(&ObjectType::kubernetes::<Pod>());
        let text = pod.to_string();
        assert!(!text.contains("$ref") && !text.contains("\"description\":\""));
        let ports = &pod["properties"]["spec"]["properties"]["containers"]["items"]["properties"]["ports"];
        assert_eq!(ports["items"]["properties"]["containerPort"]["type"], "integer");
        let definition = whole(&ObjectType::kubernetes::<CustomResourceDefinition>());
        let versions = &definition["properties"]["spec"]["properties"]["versions"]["items"]["properties"];
        let schema = &versions["schema"]["properties"]["openAPIV3Schema"]["properties"];
        assert_eq!(schema["type"]["type"], "string");
        assert_eq!(schema["properties"]["additionalProperties"], json!({"type": "object"}));
    }

    #[test]
    fn own_kinds_are_told_whole() {
        let own = of(
            ObjectType::without_metadata::<Network>("network.hypernetes.io", "v1alpha1", "Network", false),
            "networks",
        );
        let network = &own["components"]["schemas"]["io.hypernetes.network.v1alpha1.Network"];
        assert!(network["properties"]["metadata"].is_object() && network["properties"]["spec"].is_object());
        assert!(own["paths"]["/apis/network.hypernetes.io/v1alpha1/networks/{name}"]["get"].is_object());
    }
}
