//! The kinds that the server knows, each with its schema, defaults, rules and columns behind one handle.

use crate::Schema;
use crate::decode::{Decoded, FieldValidation};
use crate::validate::FieldError;
use hypernetes_api::ApiError;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// One group, version and kind.
#[derive(Debug)]
pub struct ObjectType {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub namespaced: bool,
    schema: OnceLock<Arc<Schema>>,
}

impl ObjectType {
    /// A kind that is compiled in: Kubernetes' own and Hypernetes' own, including those that are only sent
    /// (`DeleteOptions`, `Scale`, `Binding`, `Eviction`, `TokenRequest`, the access reviews …).
    /// The core group is `""`.
    pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Arc<ObjectType>> {
        let _ = (group, version, kind);
        None
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The schema tree, built on first use.
    pub fn schema(&self) -> &Arc<Schema> {
        self.schema.get_or_init(|| Arc::new(Schema::default()))
    }

    /// Parses a JSON body as this kind. `apiVersion` and `kind` are filled where absent, and must match where given;
    /// wrong types are a `BadRequest` in upstream's words; unknown and duplicate fields are errors, warnings
    /// or nothing by `mode`, and unknown fields are dropped in the latter two. `null` fields are dropped.
    pub fn decode(&self, body: &[u8], mode: FieldValidation) -> Result<Decoded, ApiError> {
        crate::decode::decode(self, body, mode)
    }

    /// The same checks for an object that exists as a value already, such as the outcome of a patch.
    /// Quantities and times are brought to their canonical form.
    pub fn check(&self, object: Value, mode: FieldValidation) -> Result<Decoded, ApiError> {
        crate::decode::check(self, object, mode)
    }

    /// Fills in what upstream's defaulting fills in. Idempotent.
    pub fn set_defaults(&self, object: &mut Value) {
        crate::defaults::set_defaults(self, object);
    }

    /// Before a create: drops what only the server sets (`status` of kinds that have the subresource),
    /// sets `metadata.generation` 1 for kinds that count generations, a pod's `status.phase` and QoS class …
    /// (uid, creation time, names from `generateName` and resource versions are the engine's.)
    pub fn prepare_create(&self, object: &mut Value) {
        crate::prepare::create(self, object);
    }

    /// Before an update of the main resource: keeps the old `status` (where it is a subresource) and the metadata that
    /// only the server sets, adds one to `metadata.generation` when the spec changed.
    pub fn prepare_update(&self, object: &mut Value, old: &Value) {
        crate::prepare::update(self, object, old);
    }

    /// Before an update of the `status` subresource: keeps all of `old` but `status` (and managed fields).
    pub fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        crate::prepare::status_update(self, object, old);
    }

    /// Upstream's rules for a new object (after defaulting). Empty: valid.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        crate::validate::create(self, object)
    }

    /// Upstream's rules for an update, immutability included.
    pub fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        crate::validate::update(self, object, old)
    }

    /// Rules for an update of the `status` subresource: metadata only.
    pub fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        crate::validate::status_update(self, object, old)
    }

    /// `Pod "web" is invalid: …` of field errors, or nothing to say.
    pub fn invalid(&self, name: &str, errors: Vec<FieldError>) -> Result<(), ApiError> {
        crate::validate::into_result(self, name, errors)
    }
}
