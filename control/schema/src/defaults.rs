//! Defaulting.
use crate::ObjectType;
use serde_json::Value;

pub(crate) fn set_defaults(ty: &ObjectType, object: &mut Value) {
    let _ = (ty, object);
}
