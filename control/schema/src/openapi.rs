//! OpenAPI v3 documents, made when asked for.

use crate::ObjectType;
use serde_json::Value;
use std::sync::Arc;

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

/// `GET /openapi/v3`. `versions` are `("", "v1")`, `("apps", "v1")` …; `revision` is anything that changes with the
/// set of resources: it becomes the `hash` of the documents' addresses, by which clients cache them.
pub fn index(versions: &[(&str, &str)], revision: &str) -> Value {
    let _ = (versions, revision);
    Value::Null
}

/// `GET /openapi/v3/api/v1`, `GET /openapi/v3/apis/<group>/<version>`: JSON text.
pub fn document(group: &str, version: &str, resources: &[Resource]) -> Vec<u8> {
    let _ = (group, version, resources);
    Vec::new()
}
