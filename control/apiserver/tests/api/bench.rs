//! What these tests write.

use serde_json::{Value, json};

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "t"}}, "data": {"k": value}})
}
