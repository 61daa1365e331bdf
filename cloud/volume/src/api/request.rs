//! What a request brings: who asks, a JSON body, a query.

use std::collections::HashMap;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use http::{HeaderMap, request::Parts};
use hypernetes_api::{
    TenantId,
    auth::{TokenError, TokenInfo, TokenScope},
};
use serde::de::DeserializeOwned;

use super::{Error, Server};

/// Cinder's default limit.
const MAX_BODY_BYTES: usize = 114_688;

/// Who asks: has a valid `X-Auth-Token` for the project in the path.
pub(super) struct Caller {
    pub tenant: TenantId,
    pub token: TokenInfo,
}

impl FromRequestParts<Server> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, server: &Server) -> Result<Self, Error> {
        let token = header(&parts.headers, "x-auth-token").ok_or(Error::Unauthorized)?;
        let token = server.authority.validate(token).await.map_err(|error| match error {
            TokenError::Invalid => Error::Unauthorized,
            TokenError::Unavailable(why) => Error::Unavailable(why),
        })?;
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, server).await;
        let named = path.ok().and_then(|Path(mut segments)| segments.remove("project")).unwrap_or_default();
        match &token.scope {
            TokenScope::Project { id, .. } if id.as_str() == named => Ok(Self { tenant: id.clone(), token }),
            // As Cinder has it, whether there is such a project or not.
            _ => Err(Error::BadRequest("Malformed request url".into())),
        }
    }
}

impl Caller {
    pub fn reader(&self, action: &'static str) -> Result<(), Error> {
        self.allow(&["reader", "member", "admin"], action)
    }

    pub fn member(&self, action: &'static str) -> Result<(), Error> {
        self.allow(&["member", "admin"], action)
    }

    pub fn admin(&self, action: &'static str) -> Result<(), Error> {
        self.allow(&["admin"], action)
    }

    fn allow(&self, roles: &[&str], action: &'static str) -> Result<(), Error> {
        if roles.iter().any(|role| self.token.has_role(role)) { Ok(()) } else { Err(Error::Forbidden(action)) }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
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
        // A body of unknown length that is too long is cut off here as well.
        let bytes = to_bytes(request.into_body(), MAX_BODY_BYTES).await.map_err(|_| Error::TooLarge)?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Error::BadRequest(format!("Malformed request body: {error}.")))
    }
}

/// The query's parameters.
pub(super) struct Parameters(HashMap<String, String>);

impl<S: Sync + Send> FromRequestParts<S> for Parameters {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = Query::<HashMap<String, String>>::from_request_parts(parts, state).await;
        query.map(|Query(map)| Self(map)).map_err(|error| Error::BadRequest(error.body_text()))
    }
}

impl Parameters {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// # Errors
    /// [`Error::BadRequest`] for what is not a number.
    pub fn number(&self, name: &str) -> Result<Option<usize>, Error> {
        let parse =
            |text: &str| text.parse().map_err(|_| Error::BadRequest(format!("{name} must be a non-negative integer")));
        self.get(name).map(parse).transpose()
    }
}
