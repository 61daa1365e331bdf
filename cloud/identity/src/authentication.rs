//! From credentials to a token, and from a token to who has it.

use std::{sync::Arc, time::Duration};

use hypernetes_api::{
    auth::{Source, TokenInfo, TokenScope},
    types::identity::{Domain, Project, Role, User},
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::{
    Identity,
    directory::Directory,
    error::Error,
    roles::Target,
    token::{Claims, Method, Scope, new_audit_id},
};

/// Longest chain of tokens each of which was made from the one before.
const MAX_CHAIN: usize = 16;

/// A token that is valid now, with what it refers to.
#[derive(Debug, Clone)]
pub(crate) struct Valid {
    pub claims: Claims,
    pub user: Arc<User>,
    pub user_domain: Arc<Domain>,
    pub scope: ValidScope,
    /// By id, implied ones included.
    pub roles: Vec<Arc<Role>>,
}

#[derive(Debug, Clone)]
pub(crate) enum ValidScope {
    Unscoped,
    System,
    Domain(Arc<Domain>),
    Project(Arc<Project>, Arc<Domain>),
}

impl Valid {
    pub fn has_role(&self, name: &str) -> bool {
        self.roles.iter().any(|role| role.spec.domain.is_none() && role.spec.display_name == name)
    }

    pub fn user_id(&self) -> &str {
        &self.claims.user
    }

    pub fn project_id(&self) -> Option<&str> {
        match &self.claims.scope {
            Scope::Project(id) => Some(id),
            _ => None,
        }
    }

    /// # Errors
    /// [`Error::Unavailable`] when the project's id is not a tenant's, which only a hand-made object can have.
    pub fn info(&self) -> Result<TokenInfo, Error> {
        let scope = match &self.scope {
            ValidScope::Unscoped => TokenScope::Unscoped,
            ValidScope::System => TokenScope::System,
            ValidScope::Domain(domain) => {
                TokenScope::Domain { id: domain.name_any(), name: domain.spec.display_name.clone() }
            }
            ValidScope::Project(project, domain) => TokenScope::Project {
                id: project.name_any().parse().map_err(|e| Error::Unavailable(format!("project: {e}")))?,
                name: project.spec.display_name.clone(),
                domain_id: domain.name_any(),
                domain_name: domain.spec.display_name.clone(),
            },
        };
        Ok(TokenInfo {
            user_id: self.user.name_any(),
            user_name: self.user.spec.display_name.clone(),
            user_domain_id: self.user_domain.name_any(),
            user_domain_name: self.user_domain.spec.display_name.clone(),
            scope,
            // A domain's own role of the name `admin` is not the role `admin`.
            roles: self
                .roles
                .iter()
                .filter(|role| role.spec.domain.is_none())
                .map(|role| role.spec.display_name.clone())
                .collect(),
            expires_at: self.claims.expires(),
        })
    }
}

/// A user named in a request.
#[derive(Debug)]
pub(crate) enum UserRef {
    Id(String),
    Name(String, DomainRef),
}

#[derive(Debug)]
pub(crate) enum DomainRef {
    Id(String),
    Name(String),
}

/// The scope that a request wants.
#[derive(Debug)]
pub(crate) enum WantedScope {
    /// The user's default project if it can be used, else none.
    Default,
    Unscoped,
    System,
    Domain(DomainRef),
    ProjectId(String),
    ProjectName(String, DomainRef),
}

impl Directory {
    pub fn domain_of(&self, reference: &DomainRef) -> Option<Arc<Domain>> {
        match reference {
            DomainRef::Id(id) => self.domains.get(id),
            DomainRef::Name(name) => self.named::<Domain>("", name),
        }
    }

    fn enabled_domain(&self, id: &str) -> Option<Arc<Domain>> {
        self.domains.get(id).filter(|domain| domain.spec.enabled)
    }

    fn enabled_user(&self, id: &str) -> Option<(Arc<User>, Arc<Domain>)> {
        let user = self.users.get(id).filter(|user| user.spec.enabled)?;
        let domain = self.enabled_domain(&user.spec.domain)?;
        Some((user, domain))
    }

    fn enabled_project(&self, id: &str) -> Option<(Arc<Project>, Arc<Domain>)> {
        let project = self.projects.get(id).filter(|project| project.spec.enabled)?;
        let domain = self.enabled_domain(&project.spec.domain)?;
        Some((project, domain))
    }
}

impl Identity {
    /// Checks a password that came from `source`; none: from inside. The user's id, and the processor time that it took.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], also for an unknown or disabled user; [`Error::TooManyAttempts`] when
    /// that has happened too often.
    pub(crate) async fn check_password(
        &self,
        source: Option<Source>,
        user: &UserRef,
        password: String,
    ) -> Result<(String, Duration), Error> {
        let id = match user {
            UserRef::Id(id) => Some(id.clone()),
            UserRef::Name(name, domain) => self
                .directory
                .domain_of(domain)
                .and_then(|domain| self.directory.named::<User>(&domain.name_any(), name))
                .map(|user| user.name_any()),
        };
        // A user that there is not is counted by what it was called, and waits as one that there is.
        let called = match (&id, user) {
            (Some(id), _) | (None, UserRef::Id(id)) => id.clone(),
            (None, UserRef::Name(name, domain)) => format!("{domain:?}/{name}"),
        };
        let turn = self.attempts.begin(source, &called);
        let _turn = turn.map_err(|wait| Error::TooManyAttempts(wait.as_secs() + 1))?;
        let id = id.filter(|id| self.directory.enabled_user(id).is_some());
        let (matches, spent) = self.passwords.verify(source, &called, id.as_deref(), password).await?;
        match id.filter(|_| matches) {
            Some(id) => {
                self.attempts.succeeded(source, &called);
                Ok((id, spent))
            }
            None => {
                self.attempts.failed(source, &called);
                Err(Error::WrongPassword { spent })
            }
        }
    }

    /// Makes a token for a user whose credentials have been checked. `parent`: the token that was the credential.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when the user has no role in the wanted scope, or there is no such scope.
    pub(crate) async fn issue(
        &self,
        user: &str,
        method: Method,
        wanted: &WantedScope,
        parent: Option<&Claims>,
    ) -> Result<(String, Valid), Error> {
        let now = Timestamp::now();
        let lifetime = SignedDuration::try_from(self.config.token_lifetime).unwrap_or(SignedDuration::from_hours(1));
        let expires = now.checked_add(lifetime).map_err(|error| Error::Unavailable(error.to_string()))?;
        let mut methods = vec![method];
        let mut audit_ids = vec![new_audit_id()?];
        let mut expires_at = expires.as_microsecond();
        if let Some(parent) = parent {
            methods.extend(parent.methods.iter().filter(|m| **m != method));
            // It ends with each of those: one that could not name them all would outlive one.
            if parent.audit_ids.len() >= MAX_CHAIN {
                return Err(Error::Unauthorized);
            }
            audit_ids.extend(parent.audit_ids.iter().cloned());
            // A token from a token does not live longer: else one stolen token would be for ever.
            expires_at = parent.expires_at;
        }
        let claims = Claims {
            user: user.to_owned(),
            scope: self.scope(user, wanted)?,
            methods,
            issued_at: now.as_microsecond(),
            expires_at,
            audit_ids,
        };
        let valid = self.refresh(claims).ok_or(Error::Unauthorized)?;
        Ok((self.keyring.seal(&valid.claims).await?, valid))
    }

    fn scope(&self, user: &str, wanted: &WantedScope) -> Result<Scope, Error> {
        let directory = &self.directory;
        let project = |id: String| Scope::Project(id);
        Ok(match wanted {
            WantedScope::Unscoped => Scope::Unscoped,
            WantedScope::System => Scope::System,
            WantedScope::Domain(domain) => {
                Scope::Domain(directory.domain_of(domain).ok_or(Error::Unauthorized)?.name_any())
            }
            WantedScope::ProjectId(id) => project(id.clone()),
            WantedScope::ProjectName(name, domain) => {
                let domain = directory.domain_of(domain).ok_or(Error::Unauthorized)?;
                project(directory.named::<Project>(&domain.name_any(), name).ok_or(Error::Unauthorized)?.name_any())
            }
            WantedScope::Default => {
                let default = directory.users.get(user).and_then(|user| user.spec.default_project.clone());
                let usable = default.filter(|id| {
                    directory.enabled_project(id).is_some()
                        && !directory.roles_in(user, &Target::Project(id.clone())).is_empty()
                });
                usable.map_or(Scope::Unscoped, project)
            }
        })
    }

    /// Who has the token and what they may, if it is valid.
    ///
    /// # Errors
    /// [`Error::Unavailable`] alone.
    pub(crate) async fn examine(&self, token: &str) -> Result<Option<Valid>, Error> {
        self.ready().await?;
        Ok(self.keyring.open(token).await?.and_then(|claims| self.refresh(claims)))
    }

    /// What claims mean now: `None` when they have expired or been revoked, or what they refer to is gone or disabled.
    fn refresh(&self, claims: Claims) -> Option<Valid> {
        let directory = &self.directory;
        if claims.expires_at <= Timestamp::now().as_microsecond() || self.is_revoked(&claims) {
            return None;
        }
        let (user, user_domain) = directory.enabled_user(&claims.user)?;
        let scope = match &claims.scope {
            Scope::Unscoped => ValidScope::Unscoped,
            Scope::System => ValidScope::System,
            Scope::Domain(id) => ValidScope::Domain(directory.enabled_domain(id)?),
            Scope::Project(id) => {
                let (project, domain) = directory.enabled_project(id)?;
                ValidScope::Project(project, domain)
            }
        };
        let roles = match claims.scope.target() {
            None => Vec::new(),
            Some(target) => directory.roles_in(&claims.user, &target),
        };
        if roles.is_empty() && claims.scope != Scope::Unscoped {
            return None;
        }
        Some(Valid { claims, user, user_domain, scope, roles })
    }
}
