//! Passwords: argon2id hashes in Secrets, checked in turns and at bounded cost.

use std::{collections::BTreeMap, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use hypernetes_api::{auth::Source, types::identity::IDENTITY_NAMESPACE};
use hypernetes_background::processor_time;
use hypernetes_client::Api;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{error::Error, hashing::Hashing};

/// Keystone's default limit.
const MAX_CHARS: usize = 4096;
const ENTRY: &str = "password-hash";

/// What one check costs (RFC 9106; the defaults are OWASP's).
#[derive(Debug, Clone, Copy)]
pub struct PasswordCost {
    pub memory_kib: u32,
    pub passes: u32,
    /// Checks at the same time.
    pub parallel: usize,
}

impl Default for PasswordCost {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2, parallel: 1 }
    }
}

pub(crate) struct Passwords {
    secrets: Api<Secret>,
    argon2: Argon2<'static>,
    hashing: Hashing,
    /// Checked in place of the hash of a user that there is not, so that the answer takes as long.
    decoy: tokio::sync::OnceCell<String>,
}

impl Passwords {
    pub fn new(system: Client, cost: PasswordCost) -> Self {
        let parameters = Params::new(cost.memory_kib, cost.passes, 1, None).unwrap_or_default();
        Self {
            secrets: Api::namespaced(system, IDENTITY_NAMESPACE),
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters),
            hashing: Hashing::start(cost.parallel),
            decoy: tokio::sync::OnceCell::new(),
        }
    }

    /// # Errors
    /// [`Error::BadRequest`] for an empty or overlong password.
    pub fn check_form(password: &str) -> Result<(), Error> {
        match password.len() {
            0 => Err(Error::BadRequest("Invalid input for field 'password': it is empty.".into())),
            length if length > MAX_CHARS => {
                Err(Error::BadRequest(format!("Invalid input for field 'password': longer than {MAX_CHARS} bytes.")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the password is the user's, and the processor time that it took to find out: as much for no user, for one without a
    /// password and for a wrong one.
    ///
    /// # Errors
    /// When there are too many logins, most of them from that source.
    pub async fn verify(
        &self,
        source: Option<Source>,
        called: &str,
        user: Option<&str>,
        password: String,
    ) -> Result<(bool, Duration), Error> {
        if password.len() > MAX_CHARS {
            return Ok((false, Duration::ZERO));
        }
        let known = match user {
            Some(user) => self.secrets.get_opt(&secret_name(user)).await?.and_then(hash_in),
            None => None,
        };
        let real = known.is_some();
        let hash = match known {
            Some(hash) => hash,
            None => self.decoy.get_or_try_init(|| self.hash("no password at all".into())).await?.clone(),
        };
        let argon2 = self.argon2.clone();
        let check = move || {
            let began = processor_time();
            let parsed = PasswordHash::new(&hash);
            let matches = parsed.is_ok_and(|hash| argon2.verify_password(password.as_bytes(), &hash).is_ok());
            (matches, processor_time().saturating_sub(began))
        };
        let (matches, spent) = self.hashing.run(source, called, check).await.ok_or_else(busy)?;
        Ok((matches && real, spent))
    }

    pub async fn set(&self, user: &str, password: String) -> Result<(), Error> {
        Self::check_form(&password)?;
        let hash = self.hash(password).await?;
        let name = secret_name(user);
        let data = BTreeMap::from([(ENTRY.to_owned(), ByteString(hash.into_bytes()))]);
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.clone());
        secret.data = Some(data.clone());
        match self.secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.secrets.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await?;
                Ok(())
            }
            other => other.map(|_| ()).map_err(Error::from),
        }
    }

    pub async fn remove(&self, user: &str) -> Result<(), Error> {
        match self.secrets.delete(&secret_name(user), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()).map_err(Error::from),
        }
    }

    async fn hash(&self, password: String) -> Result<String, Error> {
        let argon2 = self.argon2.clone();
        let hash = move || argon2.hash_password(password.as_bytes()).map(|hash| hash.to_string());
        // Of nobody in particular: who sets passwords may.
        let hash = self.hashing.run(None, "", hash).await.ok_or_else(busy)?;
        hash.map_err(|error| Error::Unavailable(error.to_string()))
    }
}

fn busy() -> Error {
    Error::Unavailable("too many logins at once; try again".into())
}

fn secret_name(user: &str) -> String {
    format!("user-{user}")
}

fn hash_in(secret: Secret) -> Option<String> {
    String::from_utf8(secret.data?.remove(ENTRY)?.0).ok()
}
