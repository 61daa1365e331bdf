//! Tokens that end before their time.

use hypernetes_api::types::identity::{TokenRevocation, TokenRevocationSpec};
use hypernetes_client::Api;
use jiff::{SignedDuration, Timestamp};
use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
};

use crate::{
    Identity,
    directory::key,
    error::Error,
    ids::new_id,
    token::{Claims, Scope},
};

/// Revocations of single tokens and certificates that a project may have, until they expire.
pub(crate) const MAX_REVOCATIONS: usize = 1000;

impl Identity {
    /// Whether the token, or one that it was made from, or all of its user's or project's have been revoked since.
    pub(crate) fn is_revoked(&self, claims: &Claims) -> bool {
        let revocations = &self.directory.revocations;
        if claims.audit_ids.iter().any(|id| !revocations.find(&key("audit", id)).is_empty()) {
            return true;
        }
        let mut subjects = vec![key("user", &claims.user)];
        if let Scope::Project(id) = &claims.scope {
            subjects.push(key("project", id));
        }
        subjects.iter().flat_map(|subject| revocations.find(subject)).any(|revocation| {
            // One that cannot be read revokes: better too much than too little.
            revocation.spec.issued_before.parse::<Timestamp>().is_ok_and(|moment| claims.issued() <= moment)
                || revocation.spec.issued_before.parse::<Timestamp>().is_err()
        })
    }

    /// Revokes one token.
    ///
    /// # Errors
    /// [`Error::TooManyRevocations`] when the project has so many already, or the user, if the token is of none.
    pub(crate) async fn revoke_token(&self, claims: &Claims) -> Result<(), Error> {
        let charged_to = match &claims.scope {
            Scope::Project(id) => id,
            Scope::Unscoped | Scope::System | Scope::Domain(_) => &claims.user,
        };
        if self.directory.revocations.find(&key("charged", charged_to)).len() >= MAX_REVOCATIONS {
            return Err(Error::TooManyRevocations);
        }
        let spec = TokenRevocationSpec {
            audit_id: claims.audit_ids.first().cloned(),
            charged_to: Some(charged_to.clone()),
            expires_at: claims.expires().to_string(),
            ..TokenRevocationSpec::default()
        };
        self.revoke(spec).await
    }

    /// Revokes all tokens of a user that have been issued until now.
    pub(crate) async fn revoke_user(&self, id: &str) -> Result<(), Error> {
        let spec = TokenRevocationSpec { user: Some(id.to_owned()), ..self.until_now() };
        self.revoke_all(&format!("user-{id}"), spec).await
    }

    /// Revokes all tokens for a project that have been issued until now.
    pub(crate) async fn revoke_project(&self, id: &str) -> Result<(), Error> {
        let spec = TokenRevocationSpec { project: Some(id.to_owned()), ..self.until_now() };
        self.revoke_all(&format!("project-{id}"), spec).await
    }

    /// There is one of a user's and one of a project's: a later one has in it what an earlier one had.
    async fn revoke_all(&self, name: &str, spec: TokenRevocationSpec) -> Result<(), Error> {
        let revocation = TokenRevocation::new(name, spec);
        match self.directory.create(&revocation).await {
            Err(Error::Conflict { .. }) => {}
            other => return other.map(drop),
        }
        let later = |present: &mut TokenRevocation| present.spec = revocation.spec.clone();
        match self.directory.update(name, later).await {
            // It was forgotten at this moment, or has not been heard of here.
            Err(Error::NotFound { .. }) => self.revoke(revocation.spec.clone()).await,
            other => other.map(drop),
        }
    }

    fn until_now(&self) -> TokenRevocationSpec {
        let now = Timestamp::now();
        let lifetime = SignedDuration::try_from(self.config.token_lifetime).unwrap_or(SignedDuration::MAX);
        TokenRevocationSpec {
            issued_before: now.to_string(),
            expires_at: now.checked_add(lifetime).unwrap_or(Timestamp::MAX).to_string(),
            ..TokenRevocationSpec::default()
        }
    }

    async fn revoke(&self, spec: TokenRevocationSpec) -> Result<(), Error> {
        self.directory.create(&TokenRevocation::new(&new_id(), spec)).await.map(|_| ())
    }

    /// Forgets revocations of tokens that have expired anyway.
    /// Through that client. One that says more since it was looked at stays.
    pub(crate) async fn forget_revocations(&self, system: &kube::Client) -> Result<(), Error> {
        let (now, api) = (Timestamp::now(), Api::<TokenRevocation>::all(system.clone()));
        for revocation in self.directory.revocations.all() {
            if revocation.spec.expires_at.parse::<Timestamp>().is_ok_and(|expiry| expiry < now) {
                let seen = Preconditions { uid: revocation.uid(), resource_version: revocation.resource_version() };
                let deletion = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
                match api.delete(&revocation.name_any(), &deletion).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}
