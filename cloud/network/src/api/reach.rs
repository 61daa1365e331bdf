//! Whose networks a request is about.

use http::request::Parts;
use hypernetes_api::{
    TenantId,
    auth::{TokenAuthority, TokenInfo, TokenScope},
};
use hypernetes_facade::{Facade, Fault, Guarded};
use serde_json::{Map, Value};

use super::{Error, Server};

/// What a token reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    Project(TenantId),
    /// Everything, with a token of the system's scope.
    All {
        /// As its admin, who is shown segments and hosts.
        operator: bool,
    },
}

impl Facade for Server {
    type Error = Error;

    const MAX_BODY_BYTES: usize = 1 << 20;
}

impl Guarded for Server {
    type Scope = Reach;

    fn authority(&self) -> &dyn TokenAuthority {
        &*self.0.tokens
    }

    async fn scope(&self, token: &TokenInfo, _: &mut Parts) -> Result<Reach, Error> {
        let reach = match &token.scope {
            TokenScope::Project { id, .. } => Reach::Project(id.clone()),
            TokenScope::System => Reach::All { operator: token.has_role("admin") },
            TokenScope::Unscoped | TokenScope::Domain { .. } => return Err(Error::forbidden("project_scope")),
        };
        if !self.0.state.wait(|state| state.synced()).await {
            return Err(Fault::Unavailable("the networks have not been read yet".into()).into());
        }
        Ok(reach)
    }
}

impl Reach {
    pub fn is_operator(&self) -> bool {
        *self == Self::All { operator: true }
    }

    pub fn includes(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Project(own) => own == tenant,
            Self::All { .. } => true,
        }
    }

    /// Whose a new object will be: the token's project; an operator names one.
    pub fn tenant_of_new(&self, body: &Map<String, Value>, action: &str) -> Result<TenantId, Error> {
        let named = ["project_id", "tenant_id"].iter().find_map(|name| body.get(*name)?.as_str());
        match (self, named) {
            (Self::Project(own), None | Some("")) => Ok(own.clone()),
            (Self::Project(own), Some(named)) if own.as_str() == named => Ok(own.clone()),
            (Self::Project(_), Some(_)) => Err(Error::forbidden(action)),
            (Self::All { .. }, Some(named)) => {
                named.parse().map_err(|_| Error::attribute("project_id", "it is not the id of a project"))
            }
            (Self::All { .. }, None) => Err(Error::bad_request("Running without a project: project_id is required.")),
        }
    }
}
