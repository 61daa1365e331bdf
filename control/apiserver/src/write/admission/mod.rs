//! What is the server's to decide about a write that is valid: an ordered chain, run on every operation and subresource.
//! Each part looks at what it is about, may change the object (which is validated again then), refuse it, or add guards
//! that the commit has to meet.

mod certificates;
mod claims;
mod infrastructure;
mod namespaces;
mod pods;
mod rights;

use hypernetes_api::ApiError;
use hypernetes_kinds::Subresource;
use hypernetes_store::Guard;
use serde_json::Value;

use super::{Operation, fields, text};
use crate::{Call, Inner};

/// A write that asks to be let in.
pub(super) struct Request<'a> {
    pub server: &'a Inner,
    pub call: &'a Call,
    pub operation: Operation,
    pub subresource: Option<Subresource>,
    /// The object as it is; none when it is new.
    pub old: Option<&'a Value>,
}

impl Request<'_> {
    /// Whether it is about a kind of a group.
    fn is(&self, group: &str, kind: &str) -> bool {
        self.call.resource.ty.group == group && self.call.resource.ty.kind == kind
    }

    fn forbidden(&self, name: &str, why: &str) -> ApiError {
        self.call.forbidden(name, why)
    }
}

/// # Errors
/// The first refusal.
pub(super) async fn admit(request: &Request<'_>, object: &mut Value) -> Result<Vec<Guard>, ApiError> {
    let mut guards = Vec::new();
    rights::admit(request, object).await?;
    infrastructure::admit(request, object)?;
    namespaces::admit(request, object, &mut guards).await?;
    pods::admit(request, object).await?;
    claims::admit(request, object).await?;
    certificates::admit(request, object).await?;
    Ok(guards)
}
