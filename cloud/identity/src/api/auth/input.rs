//! What a client says to get a token: who it is, and for which scope.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error,
    authentication::{DomainRef, UserRef, WantedScope},
};

#[derive(Deserialize)]
pub(super) struct Request {
    pub auth: Auth,
}

#[derive(Deserialize)]
pub(super) struct Auth {
    pub identity: IdentityInput,
    pub scope: Option<ScopeInput>,
}

#[derive(Deserialize)]
pub(super) struct IdentityInput {
    pub methods: Vec<String>,
    pub password: Option<PasswordInput>,
    pub token: Option<TokenInput>,
}

#[derive(Deserialize)]
pub(super) struct PasswordInput {
    pub user: UserInput,
}

#[derive(Deserialize)]
pub(super) struct UserInput {
    pub id: Option<String>,
    pub name: Option<String>,
    pub domain: Option<NamedInput>,
    pub password: String,
}

#[derive(Deserialize)]
pub(super) struct TokenInput {
    pub id: String,
}

#[derive(Deserialize)]
pub(super) struct NamedInput {
    pub id: Option<String>,
    pub name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum ScopeInput {
    /// `"scope": "unscoped"`
    Word(String),
    Object(ScopeObject),
}

#[derive(Deserialize)]
pub(super) struct ScopeObject {
    pub project: Option<ProjectInput>,
    pub domain: Option<NamedInput>,
    pub system: Option<SystemInput>,
    pub unscoped: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct ProjectInput {
    pub id: Option<String>,
    pub name: Option<String>,
    pub domain: Option<NamedInput>,
}

#[derive(Deserialize)]
pub(super) struct SystemInput {
    pub all: bool,
}

pub(super) fn malformed(what: &str) -> Error {
    Error::BadRequest(format!("Expecting to find {what} in the request."))
}

impl NamedInput {
    pub fn domain(self) -> Result<DomainRef, Error> {
        self.id
            .map(DomainRef::Id)
            .or(self.name.map(DomainRef::Name))
            .ok_or_else(|| malformed("the id or name of the domain"))
    }
}

impl UserInput {
    pub fn reference(self) -> Result<(UserRef, String), Error> {
        let user = match (self.id, self.name) {
            (Some(id), _) => UserRef::Id(id),
            (None, Some(name)) => {
                UserRef::Name(name, self.domain.ok_or_else(|| malformed("the user's domain"))?.domain()?)
            }
            (None, None) => return Err(malformed("the user's id or name")),
        };
        Ok((user, self.password))
    }
}

pub(super) fn wanted(scope: Option<ScopeInput>) -> Result<WantedScope, Error> {
    match scope {
        None => Ok(WantedScope::Default),
        Some(ScopeInput::Word(word)) if word == "unscoped" => Ok(WantedScope::Unscoped),
        Some(ScopeInput::Object(ScopeObject {
            project: Some(project),
            domain: None,
            system: None,
            unscoped: None,
        })) => match (project.id, project.name) {
            (Some(id), _) => Ok(WantedScope::ProjectId(id)),
            (None, Some(name)) => {
                let domain = project.domain.ok_or_else(|| malformed("the project's domain"))?;
                Ok(WantedScope::ProjectName(name, domain.domain()?))
            }
            (None, None) => Err(malformed("the project's id or name")),
        },
        Some(ScopeInput::Object(ScopeObject { project: None, domain: Some(domain), system: None, unscoped: None })) => {
            Ok(WantedScope::Domain(domain.domain()?))
        }
        Some(ScopeInput::Object(ScopeObject { project: None, domain: None, system: Some(system), unscoped: None }))
            if system.all =>
        {
            Ok(WantedScope::System)
        }
        Some(ScopeInput::Object(ScopeObject { project: None, domain: None, system: None, unscoped: Some(_) })) => {
            Ok(WantedScope::Unscoped)
        }
        Some(_) => Err(malformed("one scope: a project, a domain, the system or none")),
    }
}
