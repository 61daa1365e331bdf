//! Who asks, and what it may do with what is everybody's.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use hypernetes_api::auth::Asking;
use hypernetes_facade::token;

use crate::{
    Error, Identity,
    authentication::{Valid, ValidScope},
    ids::admin_project_id,
};

/// Who asks: has a valid `X-Auth-Token`.
pub(super) struct Caller(pub Valid);

impl FromRequestParts<Arc<Identity>> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, identity: &Arc<Identity>) -> Result<Self, Error> {
        let valid = identity.examine(token(&parts.headers)?).await?.ok_or(Error::Unauthorized)?;
        if let Ok(token) = valid.info() {
            Asking::tell(&parts.extensions, &token);
        }
        Ok(Self(valid))
    }
}

impl Caller {
    /// Whether the caller has the role where it is about the whole installation.
    fn has_everywhere(&self, role: &str) -> bool {
        let everywhere = match &self.0.scope {
            ValidScope::System => true,
            ValidScope::Project(..) => self.0.project_id() == Some(&admin_project_id()),
            ValidScope::Unscoped | ValidScope::Domain(_) => false,
        };
        everywhere && self.0.has_role(role)
    }

    pub fn is_admin(&self) -> bool {
        self.has_everywhere("admin")
    }

    /// For what changes something.
    pub fn admin(&self, action: &str) -> Result<(), Error> {
        self.allow(self.is_admin(), action)
    }

    /// For what shows something of others.
    pub fn reader(&self, action: &str) -> Result<(), Error> {
        self.reader_or(false, action)
    }

    /// For what shows something that the caller may see for another reason, too.
    pub fn reader_or(&self, allowed: bool, action: &str) -> Result<(), Error> {
        self.allow(allowed || self.has_everywhere("reader"), action)
    }

    pub fn allow(&self, allowed: bool, action: &str) -> Result<(), Error> {
        if allowed { Ok(()) } else { Err(Error::forbidden(action)) }
    }

    pub fn is_user(&self, id: &str) -> bool {
        self.0.user_id() == id
    }
}
