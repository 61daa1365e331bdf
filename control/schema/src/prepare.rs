//! What the server itself sets or keeps before a write: status, generations.
use crate::ObjectType;
use serde_json::Value;

pub(crate) fn create(ty: &ObjectType, object: &mut Value) {
    let _ = (ty, object);
}
pub(crate) fn update(ty: &ObjectType, object: &mut Value, old: &Value) {
    let _ = (ty, object, old);
}
pub(crate) fn status_update(ty: &ObjectType, object: &mut Value, old: &Value) {
    let _ = (ty, object, old);
}
