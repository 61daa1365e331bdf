//! Server-side apply and field management.

use crate::ObjectType;
use hypernetes_api::ApiError;
use serde_json::Value;

/// Who writes, as `metadata.managedFields` tells it.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The `fieldManager` query parameter, else the user agent up to its first `/`.
    pub manager: &'a str,
    /// `status`, `scale`, or empty.
    pub subresource: &'a str,
    /// RFC 3339, seconds.
    pub now: &'a str,
}

/// Merges an applied configuration into the live object, with `metadata.managedFields` of the outcome.
/// `live` is `None` when the object does not exist: the outcome is then the object to create.
/// Fields of other managers with another value are a `Conflict` in upstream's words unless `force`.
/// The outcome equals `live`, managed fields and their times included, when nothing changes.
pub fn apply(
    ty: &ObjectType,
    live: Option<&Value>,
    configuration: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    let _ = (ty, live, configuration, writer, force);
    Err(ApiError::internal("not written yet"))
}

/// After a create, update or patch: gives the fields that changed to the writer. What the writer sent as
/// `managedFields` decides only when it emptied the list (a reset, as upstream).
/// With `live` equal to `object` in all else, `managedFields` is kept as it was.
pub fn track_update(ty: &ObjectType, live: Option<&Value>, object: &mut Value, writer: Writer<'_>) {
    let _ = (ty, live, object, writer);
}
