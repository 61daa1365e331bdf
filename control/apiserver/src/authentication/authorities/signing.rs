//! Signing of certificates, for the controller that does so: it names whom and what for, and never sees a key.

use std::time::Duration;

use async_trait::async_trait;
use hypernetes_api::TenantId;
use hypernetes_certificates::{
    issue::{CertificateAuthorities, IssueError, Issuer, SignError},
    signer::Grant,
};

use super::{
    Authorities,
    material::{self, LONGEST_CLIENT},
    secret_key,
};
use crate::stored_form;

impl Authorities {
    /// The installation's certificate authority, PEM, which signs for the system and its nodes. Once.
    ///
    /// # Errors
    /// When it is none.
    pub fn set_system(&self, certificate: &str, key: &str) -> Result<(), IssueError> {
        let issuer = Issuer::from_pem(certificate, key)?;
        let _ = self.0.system.set(issuer);
        Ok(())
    }

    async fn issuer(&self, tenant: &TenantId) -> Result<Issuer, String> {
        // It is made if there is none yet.
        self.of(tenant).await.map_err(|error| error.to_string())?;
        let key = secret_key(tenant).map_err(|error| error.to_string())?;
        let entry = self.0.store.get(&key).await.map_err(|error| error.to_string())?;
        let entry = entry.ok_or("it is being made anew")?;
        let secret = stored_form::decode(&entry).map_err(|error| error.to_string())?;
        material::issuer(&secret).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl CertificateAuthorities for Authorities {
    async fn sign(
        &self,
        tenant: &TenantId,
        grant: &Grant,
        public_key: &[u8],
        lifetime: Duration,
    ) -> Result<String, SignError> {
        let unable = |why: String| SignError::Authority { tenant: tenant.clone(), why };
        let made;
        let issuer = if tenant.is_system() {
            self.0.system.get().ok_or_else(|| unable("this server has not been given it".into()))?
        } else {
            made = self.issuer(tenant).await.map_err(unable)?;
            &made
        };
        let longest = Duration::from_secs(LONGEST_CLIENT.as_secs().unsigned_abs());
        let lifetime = if tenant.is_system() { lifetime } else { lifetime.min(longest) };
        issuer.issue(tenant, grant, public_key, lifetime).map_err(|error| match error {
            IssueError::Name(_) => SignError::Refused(error.to_string()),
            error => SignError::Authority { tenant: tenant.clone(), why: error.to_string() },
        })
    }
}
