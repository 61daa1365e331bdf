//! What a request brings: who asks, a JSON body, a query. All of it is checked here, with Keystone's errors.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
};
use http::{HeaderMap, request::Parts};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::{
    Error, Identity,
    authentication::{Valid, ValidScope},
    bootstrap::admin_project_id,
};

/// Keystone's default limit.
const MAX_BODY_BYTES: usize = 114_688;

/// Who asks: has a valid `X-Auth-Token`.
pub(super) struct Caller(pub Valid);

impl FromRequestParts<Arc<Identity>> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, identity: &Arc<Identity>) -> Result<Self, Error> {
        let token = header(&parts.headers, "x-auth-token").ok_or(Error::Unauthorized)?;
        identity.examine(token).await?.map(Self).ok_or(Error::Unauthorized)
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

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

/// A JSON body of the expected form.
pub(super) struct Body<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let length = header(request.headers(), "content-length").and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(Error::TooLarge);
        }
        let bytes = to_bytes(request.into_body(), MAX_BODY_BYTES).await.map_err(|error| {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                if error.is::<http_body_util::LengthLimitError>() {
                    return Error::TooLarge;
                }
                cause = error.source();
            }
            Error::BadRequest("The body could not be read.".into())
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Error::BadRequest(format!("Malformed request body: {error}.")))
    }
}

/// The query's parameters.
pub(super) struct Filters(HashMap<String, String>);

impl<S: Sync + Send> FromRequestParts<S> for Filters {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = Query::<HashMap<String, String>>::from_request_parts(parts, state).await;
        query.map(|Query(map)| Self(map)).map_err(|error| Error::BadRequest(error.body_text()))
    }
}

impl Filters {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a value passes: there is no such filter, or it says the same.
    pub fn passes(&self, name: &str, value: &str) -> bool {
        self.get(name).is_none_or(|wanted| wanted == value)
    }

    /// A filter without a value is true, as Keystone has it.
    pub fn flag(&self, name: &str) -> Option<bool> {
        let value = self.get(name)?.to_ascii_lowercase();
        Some(!matches!(value.as_str(), "0" | "false" | "no" | "off" | "f" | "n"))
    }

    pub fn passes_flag(&self, name: &str, value: bool) -> bool {
        self.flag(name).is_none_or(|wanted| wanted == value)
    }
}

/// A name that a client chooses.
pub(super) fn check_name(name: &str, limit: usize) -> Result<&str, Error> {
    if name.trim().is_empty() {
        return Err(Error::BadRequest("Invalid input for field 'name': it is empty.".into()));
    }
    if name.chars().count() > limit {
        return Err(Error::BadRequest(format!("Invalid input for field 'name': longer than {limit} characters.")));
    }
    Ok(name)
}

/// `None`: the field is not there; `Some(None)`: it is null.
pub(super) fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// # Errors
/// [`Error::BadRequest`] when a field that cannot be changed is given another value.
pub(super) fn check_unchanged(field: &str, given: Option<&str>, is: &str) -> Result<(), Error> {
    match given {
        Some(given) if given != is => Err(Error::BadRequest(format!("The field '{field}' cannot be changed."))),
        _ => Ok(()),
    }
}
