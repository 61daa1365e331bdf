//! What every logical cluster has from the start, and none stores that has not written it: by what upstream tells requests apart, and what
//! roles and bindings ([`crate::authorization::defaults`]) have in common with that. It is made once, for all tenants.

use std::{collections::BTreeMap, sync::LazyLock};

use bytes::Bytes;
use hypernetes_kinds::flowcontrol;
use hypernetes_store::Revision;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stored_form;

/// The version at which it is shown: older than whatever is written.
pub const REVISION: Revision = Revision(1);
/// When it is said to have been made: it is older than any cluster.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// An object as it is made anew when what was written over it is deleted: another one of the same name.
pub fn anew(value: &Bytes) -> Bytes {
    let Ok(mut object) = serde_json::from_slice::<Value>(stored_form::json(value)) else { return value.clone() };
    object["metadata"]["uid"] = Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = hypernetes_api::time::now().to_string().into();
    stored_form::encode(&object).unwrap_or_else(|_| value.clone())
}

/// What all of them say of themselves; `name`: with the namespace before a slash, if it is in one.
pub fn metadata(kind: &str, name: &str) -> Value {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{kind}/{name}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    let mut metadata = json!({
        "name": name,
        "uid": uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string(),
        "creationTimestamp": CREATED,
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

/// The stored form of a schema or a level.
pub fn flow(plural: &str, name: &str) -> Option<&'static Bytes> {
    FLOWS.get(plural)?.get(name)
}

/// The names of all schemas, or of all levels.
pub fn flows(plural: &str) -> impl Iterator<Item = &'static str> {
    FLOWS.get(plural).into_iter().flat_map(BTreeMap::keys).copied()
}

type Named = BTreeMap<&'static str, Bytes>;

/// By plural and name.
static FLOWS: LazyLock<BTreeMap<&'static str, Named>> = LazyLock::new(|| {
    let mut all = BTreeMap::<_, Named>::new();
    for one in flowcontrol::bootstrap() {
        let (Some(kind), Some(name)) = (one["kind"].as_str(), one["name"].as_str()) else { continue };
        let is_schema = kind == "FlowSchema";
        let mut metadata = metadata(kind, name);
        metadata["generation"] = 1.into();
        metadata["annotations"] = json!({"apf.kubernetes.io/autoupdate-spec": "true"});
        let object = json!({
            "apiVersion": format!("{}/v1", flowcontrol::GROUP),
            "kind": kind,
            "metadata": metadata,
            "spec": one["spec"],
            "status": if is_schema { found(&one["spec"]) } else { json!({}) },
        });
        if let Ok(value) = stored_form::encode(&object) {
            let plural = if is_schema { "flowschemas" } else { "prioritylevelconfigurations" };
            all.entry(plural).or_default().insert(name, value);
        }
    }
    all
});

/// The level that a schema names is there.
fn found(spec: &Value) -> Value {
    let level = spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let (status, reason, message) = flowcontrol::dangling(level, true);
    json!({"conditions": [{
        "type": "Dangling",
        "status": status,
        "lastTransitionTime": CREATED,
        "reason": reason,
        "message": message,
    }]})
}
