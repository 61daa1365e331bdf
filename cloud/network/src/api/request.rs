//! What a request brings: who asks, a JSON body, a query.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
};
use http::{HeaderMap, request::Parts};
use hypernetes_api::{
    TenantId,
    auth::{TokenError, TokenInfo, TokenScope},
};
use serde_json::{Map, Value};

use super::Error;
use crate::NetworkService;

const MAX_BODY_BYTES: usize = 1 << 20;

/// Whose things a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    Project(TenantId),
    /// The operator, with a token of the system's scope.
    All,
}

/// Who asks: has a valid `X-Auth-Token` and a role.
pub(crate) struct Caller {
    pub reach: Reach,
    token: TokenInfo,
}

impl FromRequestParts<Arc<NetworkService>> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<NetworkService>) -> Result<Self, Error> {
        let token = header(&parts.headers, "x-auth-token").ok_or_else(Error::unauthorized)?;
        let token = service.tokens.validate(token).await.map_err(|error| match error {
            TokenError::Invalid => Error::unauthorized(),
            TokenError::Unavailable(why) => Error::unavailable(why),
        })?;
        let reach = match &token.scope {
            TokenScope::Project { id, .. } => Reach::Project(id.clone()),
            TokenScope::System => Reach::All,
            TokenScope::Unscoped | TokenScope::Domain { .. } => return Err(Error::forbidden("project_scope")),
        };
        if !service.state.wait(|state| state.synced()).await {
            return Err(Error::unavailable("the networks have not been read yet"));
        }
        Ok(Self { reach, token })
    }
}

impl Caller {
    pub fn reader(&self, action: &str) -> Result<(), Error> {
        self.allow(&["reader", "member", "admin"], action)
    }

    pub fn member(&self, action: &str) -> Result<(), Error> {
        self.allow(&["member", "admin"], action)
    }

    fn allow(&self, roles: &[&str], action: &str) -> Result<(), Error> {
        if roles.iter().any(|role| self.token.has_role(role)) { Ok(()) } else { Err(Error::forbidden(action)) }
    }

    pub fn is_operator(&self) -> bool {
        self.reach == Reach::All && self.token.has_role("admin")
    }

    pub fn reaches(&self, tenant: &TenantId) -> bool {
        match &self.reach {
            Reach::Project(own) => own == tenant,
            Reach::All => true,
        }
    }

    /// Whose a new object will be: the token's project; an operator names one.
    pub fn tenant_of_new(&self, body: &Map<String, Value>, action: &str) -> Result<TenantId, Error> {
        let named = ["project_id", "tenant_id"].iter().find_map(|name| body.get(*name)?.as_str());
        match (&self.reach, named) {
            (Reach::Project(own), None | Some("")) => Ok(own.clone()),
            (Reach::Project(own), Some(named)) if own.as_str() == named => Ok(own.clone()),
            (Reach::Project(_), Some(_)) => Err(Error::forbidden(action)),
            (Reach::All, Some(named)) => {
                named.parse().map_err(|_| Error::attribute("project_id", "it is not the id of a project"))
            }
            (Reach::All, None) => Err(Error::bad_request("Running without a project: project_id is required.")),
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

/// A JSON object as the body.
pub(crate) struct Body(pub Map<String, Value>);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let length = header(request.headers(), "content-length").and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(Error::too_large());
        }
        // A body of unknown length that is too long is cut off here as well.
        let bytes = to_bytes(request.into_body(), MAX_BODY_BYTES).await.map_err(|_| Error::too_large())?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Error::bad_request(format!("The server could not comply with the request: {error}.")))
    }
}

impl Body {
    /// What is under the resource's name, one or several (in bulk).
    pub fn items(mut self, one: &str, many: &str) -> Result<(Vec<Map<String, Value>>, bool), Error> {
        let object = |value: Value| match value {
            Value::Object(map) => Ok(map),
            _ => Err(Error::bad_request(format!("Unable to find '{one}' in request body"))),
        };
        if let Some(value) = self.0.remove(one) {
            return Ok((vec![object(value)?], false));
        }
        match self.0.remove(many) {
            Some(Value::Array(values)) if !values.is_empty() => {
                Ok((values.into_iter().map(object).collect::<Result<_, _>>()?, true))
            }
            _ => Err(Error::bad_request(format!("Unable to find '{one}' in request body"))),
        }
    }

    pub fn item(self, one: &str) -> Result<Map<String, Value>, Error> {
        match self.items(one, "")? {
            (mut items, false) if items.len() == 1 => Ok(items.remove(0)),
            _ => Err(Error::bad_request(format!("Unable to find '{one}' in request body"))),
        }
    }
}

/// The query's parameters, in order; a name may come several times.
pub(crate) struct Parameters(pub Vec<(String, String)>);

impl<S: Sync + Send> FromRequestParts<S> for Parameters {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        query.map(|Query(list)| Self(list)).map_err(|error| Error::bad_request(error.body_text()))
    }
}
