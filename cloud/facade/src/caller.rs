//! Who asks: from the token in a request's header to what its owner may do, and with whose things.

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use hypernetes_api::{
    TenantId,
    auth::{Asking, TokenAuthority, TokenError, TokenInfo},
};

use crate::{Facade, Fault};

/// A header's value. None: it is not there, is empty or is not ASCII.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

/// The token that a request is made with.
///
/// # Errors
/// [`Fault::Unauthorized`]
pub fn token(headers: &HeaderMap) -> Result<&str, Fault> {
    header(headers, "x-auth-token").ok_or(Fault::Unauthorized)
}

/// A façade that another service vouches to for its callers.
pub trait Guarded: Facade {
    /// Whose things a request may be about.
    type Scope: Send;

    /// Who tells whether a token is valid.
    fn authority(&self) -> &dyn TokenAuthority;

    /// What a valid token reaches at the request's path.
    ///
    /// # Errors
    /// When that is nothing that this service serves.
    fn scope(
        &self,
        token: &TokenInfo,
        parts: &mut Parts,
    ) -> impl Future<Output = Result<Self::Scope, Self::Error>> + Send;
}

/// Who asks: has a valid `X-Auth-Token`, whose scope the service serves. Which roles it needs depends on the action.
#[derive(Debug)]
pub struct Caller<S> {
    /// Whose things the request is about.
    pub scope: S,
    token: TokenInfo,
}

impl<F: Guarded> FromRequestParts<F> for Caller<F::Scope> {
    type Rejection = F::Error;

    async fn from_request_parts(parts: &mut Parts, service: &F) -> Result<Self, F::Error> {
        let token = service.authority().validate(token(&parts.headers)?).await.map_err(|error| match error {
            TokenError::Invalid => Fault::Unauthorized,
            TokenError::Unavailable(why) => Fault::Unavailable(why),
        })?;
        Asking::tell(&parts.extensions, &token);
        Ok(Self { scope: service.scope(&token, parts).await?, token })
    }
}

/// Policies of actions, each by its name in the service's policy.
///
/// # Errors
/// [`Fault::Forbidden`]
impl<S> Caller<S> {
    /// For what shows something.
    pub fn reader(&self, action: &str) -> Result<(), Fault> {
        self.allow(&["reader", "member", "admin"], action)
    }

    /// For what changes something.
    pub fn member(&self, action: &str) -> Result<(), Fault> {
        self.allow(&["member", "admin"], action)
    }

    /// For what shows or changes how the service itself is run.
    pub fn admin(&self, action: &str) -> Result<(), Fault> {
        self.allow(&["admin"], action)
    }

    fn allow(&self, roles: &[&str], action: &str) -> Result<(), Fault> {
        let allowed = roles.iter().any(|role| self.token.has_role(role));
        if allowed { Ok(()) } else { Err(Fault::Forbidden(action.to_owned())) }
    }
}

impl Caller<TenantId> {
    /// The tenant whose things the request is about.
    pub fn tenant(&self) -> &TenantId {
        &self.scope
    }
}
