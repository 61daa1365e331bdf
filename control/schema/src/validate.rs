//! Validation.
use crate::ObjectType;
use hypernetes_api::ApiError;
use hypernetes_api::error::Cause;
use serde_json::Value;

/// One `field.Error` of upstream: a path, a reason and a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError(pub Cause);

pub(crate) fn create(ty: &ObjectType, object: &Value) -> Vec<FieldError> {
    let _ = (ty, object);
    Vec::new()
}
pub(crate) fn update(ty: &ObjectType, object: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (ty, object, old);
    Vec::new()
}
pub(crate) fn status_update(ty: &ObjectType, object: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (ty, object, old);
    Vec::new()
}
pub(crate) fn into_result(ty: &ObjectType, name: &str, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&ty.group, &ty.kind, name, errors.into_iter().map(|e| e.0).collect()))
}
