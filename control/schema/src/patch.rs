//! The three patches that clients write out; each is applied to a value and gives a new one.

use crate::Schema;
use hypernetes_api::ApiError;
use serde_json::Value;

/// `application/json-patch+json`, RFC 6902.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let _ = (object, patch);
    Err(ApiError::internal("not written yet"))
}

/// `application/merge-patch+json`, RFC 7386.
pub fn merge_patch(object: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let _ = (object, patch);
    Err(ApiError::internal("not written yet"))
}

/// `application/strategic-merge-patch+json`. (Custom resources do not have it: `UnsupportedMediaType` is the caller's.)
pub fn strategic_merge_patch(schema: &Schema, object: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let _ = (schema, object, patch);
    Err(ApiError::internal("not written yet"))
}
