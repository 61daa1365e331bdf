//! Writes of subresources that have bodies of their own.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod scale;

use std::sync::Arc;

use hypernetes_api::ApiError;
use hypernetes_kinds::registry;
use hypernetes_schema::{Decoded, FieldValidation, ObjectType};
use serde_json::{Value, json};

use super::text;
use crate::{Call, request};

/// The kind of the subresource's bodies, which is not the resource's.
fn kind_of(call: &Call) -> Result<Arc<ObjectType>, ApiError> {
    let subresource = call.subresource.as_ref().ok_or_else(request::not_found)?;
    let (group, version, kind) = call.served.kind_of(subresource);
    registry::kind(group, version, kind).ok_or_else(|| ApiError::internal(format!("{kind} is not known")))
}

/// The body, which is about the object that the URL names.
fn decode(call: &Call, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let ty = kind_of(call)?;
    let decoded = ty.decode(&call.body, validation)?;
    let given = text(&decoded.object, &["metadata", "name"]);
    if !given.is_empty() && Some(given) != call.target.name.as_deref() {
        let message = format!("name in URL does not match name in {} object", ty.kind);
        return Err(ApiError::bad_request(message));
    }
    Ok(decoded)
}

fn success() -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": 201})
}
