//! Writes of subresources that have bodies of their own.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod scale;

use hypernetes_api::ApiError;
use hypernetes_kinds::{Subresource, registry};
use hypernetes_schema::{Decoded, FieldValidation, ObjectType};
use serde_json::{Value, json};

use super::text;
use crate::Call;

/// The kind of a subresource's bodies.
fn kind_of(call: &Call, subresource: Subresource) -> Result<std::sync::Arc<ObjectType>, ApiError> {
    let (group, version, kind) = call.served.kind_of(subresource);
    registry::kind(group, version, kind).ok_or_else(|| ApiError::internal(format!("{kind} is not known")))
}

/// The body, which is about the object that the URL names.
fn decode(call: &Call, subresource: Subresource, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let ty = kind_of(call, subresource)?;
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
