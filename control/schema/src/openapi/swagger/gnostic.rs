//! gnostic's messages of OpenAPI v2 (`openapi.v2.Document`): what of them is used.

use serde_json::{Map, Value};

use crate::protobuf::encode::{put_bytes, put_tag, put_varint};

/// Fields of the document.
pub const PATHS: u32 = 8;
pub const DEFINITIONS: u32 = 9;
const BYTES: u32 = 2;
const VARINT: u32 = 0;

/// The operations of a path, by number.
const METHODS: [(&str, u32); 7] =
    [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];

/// What stands before a field of so many bytes.
pub fn field_head(number: u32, length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put_tag(&mut out, number, BYTES);
    put_varint(&mut out, length as u64);
    out
}

/// All of the document before its paths.
pub fn head(swagger: &str, title: &str, version: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, swagger.as_bytes());
    put_message(&mut out, 2, |info| {
        put_bytes(info, 1, title.as_bytes());
        put_bytes(info, 2, version.as_bytes());
    });
    out
}

fn put_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    put_bytes(out, number, &inner);
}

fn put_text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        put_bytes(out, number, text.as_bytes());
    }
}

fn put_texts(out: &mut Vec<u8>, number: u32, value: &Value) {
    value.as_array().into_iter().flatten().for_each(|text| put_text(out, number, text));
}

fn put_flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value == &Value::Bool(true) {
        put_tag(out, number, VARINT);
        put_varint(out, 1);
    }
}

/// Name and value.
fn put_named(out: &mut Vec<u8>, number: u32, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    put_message(out, number, |named| {
        put_bytes(named, 1, name.as_bytes());
        put_message(named, 2, write);
    });
}

/// Any value, as text: JSON is YAML.
fn put_any(out: &mut Vec<u8>, value: &Value) {
    put_bytes(out, 2, format!("{value}\n").as_bytes());
}

fn put_extensions(out: &mut Vec<u8>, number: u32, fields: &Value) {
    for (name, value) in fields.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        put_named(out, number, name, |any| put_any(any, value));
    }
}

/// The entries of `Paths`.
pub fn paths(paths: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, item) in paths {
        put_named(&mut out, 2, name, |path| {
            for (method, number) in METHODS {
                if let Some(one) = item.get(method) {
                    put_message(path, number, |out| operation(out, one));
                }
            }
            put_parameters(path, 9, &item["parameters"]);
        });
    }
    out
}

fn operation(out: &mut Vec<u8>, operation: &Value) {
    put_text(out, 3, &operation["description"]);
    put_texts(out, 6, &operation["produces"]);
    put_texts(out, 7, &operation["consumes"]);
    put_parameters(out, 8, &operation["parameters"]);
    put_message(out, 9, |responses| {
        for (code, answer) in operation["responses"].as_object().into_iter().flatten() {
            put_named(responses, 1, code, |value| {
                put_message(value, 1, |response| {
                    put_text(response, 1, &answer["description"]);
                    if let Some(of) = answer.get("schema") {
                        put_message(response, 2, |item| put_message(item, 1, |out| schema(out, of)));
                    }
                });
            });
        }
    });
    put_texts(out, 10, &operation["schemes"]);
    put_extensions(out, 13, operation);
}

fn put_parameters(out: &mut Vec<u8>, number: u32, parameters: &Value) {
    for parameter in parameters.as_array().into_iter().flatten() {
        put_message(out, number, |item| put_message(item, 1, |out| put_parameter(out, parameter)));
    }
}

fn put_parameter(out: &mut Vec<u8>, parameter: &Value) {
    match parameter["in"].as_str() {
        Some("body") => put_message(out, 1, |body| {
            put_text(body, 2, &parameter["name"]);
            put_text(body, 3, &parameter["in"]);
            put_flag(body, 4, &parameter["required"]);
            put_message(body, 5, |out| schema(out, &parameter["schema"]));
        }),
        place => {
            // In a path there is none that may be empty: its other fields are one nearer.
            let (which, shift) = if place == Some("path") { (4, 0) } else { (3, 1) };
            put_message(out, 2, |one| {
                put_message(one, which, |out| {
                    put_flag(out, 1, &parameter["required"]);
                    put_text(out, 2, &parameter["in"]);
                    put_text(out, 3, &parameter["description"]);
                    put_text(out, 4, &parameter["name"]);
                    put_text(out, 5 + shift, &parameter["type"]);
                    put_flag(out, 19 + shift, &parameter["uniqueItems"]);
                });
            });
        }
    }
}

/// The entries of `Definitions`.
pub fn definitions(definitions: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, of) in definitions {
        put_named(&mut out, 1, name, |out| schema(out, of));
    }
    out
}

fn schema(out: &mut Vec<u8>, of: &Value) {
    put_text(out, 1, &of["$ref"]);
    put_text(out, 2, &of["format"]);
    put_text(out, 4, &of["description"]);
    if let Some(default) = of.get("default") {
        put_message(out, 5, |any| put_any(any, default));
    }
    put_texts(out, 19, &of["required"]);
    for one in of["enum"].as_array().into_iter().flatten() {
        put_message(out, 20, |any| put_any(any, one));
    }
    if let Some(values) = of.get("additionalProperties") {
        put_message(out, 21, |item| put_message(item, 1, |out| schema(out, values)));
    }
    if of["type"].is_string() {
        put_message(out, 22, |item| put_text(item, 1, &of["type"]));
    }
    if let Some(items) = of.get("items") {
        put_message(out, 23, |item| put_message(item, 1, |out| schema(out, items)));
    }
    if let Some(properties) = of["properties"].as_object() {
        put_message(out, 25, |all| {
            for (name, one) in properties {
                put_named(all, 1, name, |out| schema(out, one));
            }
        });
    }
    put_extensions(out, 31, of);
}
