//! Whether somebody may: what a check is of, and who answers it.

use std::fmt;
use std::sync::Arc;

use super::{OpaqueValue, Value};
use crate::types::Opaque;

/// Who answers checks.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, request: &AuthorizationRequest<'_>) -> Decision;
}

/// Whether a verb is allowed, of the user that a request is of or of a service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorizationRequest<'r> {
    /// Namespace and name; `None` for the user of the request.
    pub service_account: Option<(&'r str, &'r str)>,
    pub verb: &'r str,
    pub of: Attributes<'r>,
}

/// What a check is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes<'r> {
    Path(&'r str),
    /// Selectors are as they were written: what cannot be read of them is the authorizer's to tell.
    Resource {
        group: &'r str,
        resource: &'r str,
        subresource: &'r str,
        namespace: &'r str,
        name: &'r str,
        field_selector: &'r str,
        label_selector: &'r str,
    },
}

/// What an authorizer said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// A check in the making, or its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub(crate) service_account: Option<(String, String)>,
    pub(crate) of: Of,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Of {
    Authorizer,
    Path(String),
    Group(String),
    Resource(Box<Resource>),
    Decision(Decision),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) field_selector: String,
    pub(crate) label_selector: String,
}

impl fmt::Debug for dyn Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

impl Check {
    pub(crate) fn ty(&self) -> Opaque {
        match &self.of {
            Of::Authorizer => Opaque::Authorizer,
            Of::Path(_) => Opaque::PathCheck,
            Of::Group(_) => Opaque::GroupCheck,
            Of::Resource(_) => Opaque::ResourceCheck,
            Of::Decision(_) => Opaque::Decision,
        }
    }
}

impl<'a> Value<'a> {
    /// The value of a variable that is an authorizer.
    pub fn authorizer() -> Self {
        checked(Check { service_account: None, of: Of::Authorizer })
    }

    /// The value of `authorizer.requestResource`: the check of what a request is of.
    pub fn resource_check(group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Self {
        let of = Resource {
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Resource::default()
        };
        checked(Check { service_account: None, of: Of::Resource(Box::new(of)) })
    }
}

pub(crate) fn checked<'a>(check: Check) -> Value<'a> {
    Value::Opaque(OpaqueValue::Check(Arc::new(check)))
}
