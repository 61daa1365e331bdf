//! Passwords: argon2id hashes in Secrets, checked off the async threads and at bounded cost.

use std::{collections::BTreeMap, sync::Arc};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use hypernetes_api::types::identity::IDENTITY_NAMESPACE;
use hypernetes_client::Api;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::error::Error;

/// Keystone's default limit.
const MAX_CHARS: usize = 4096;
/// Requests that may wait for their turn; more are told to come again.
const MAX_WAITING: usize = 64;
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
    waiting: Semaphore,
    running: Arc<Semaphore>,
    /// Checked in place of the hash of a user that there is not, so that the answer takes as long.
    decoy: tokio::sync::OnceCell<String>,
}

impl Passwords {
    pub fn new(system: Client, cost: PasswordCost) -> Self {
        let parameters = Params::new(cost.memory_kib, cost.passes, 1, None).unwrap_or_default();
        Self {
            secrets: Api::namespaced(system, IDENTITY_NAMESPACE),
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters),
            waiting: Semaphore::new(MAX_WAITING + cost.parallel.max(1)),
            running: Arc::new(Semaphore::new(cost.parallel.max(1))),
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

    /// Whether the password is the user's. Takes as long for no user, for one without a password and for a wrong one.
    pub async fn verify(&self, user: Option<&str>, password: String) -> Result<bool, Error> {
        if password.len() > MAX_CHARS {
            return Ok(false);
        }
        let _turn = self.waiting.try_acquire().map_err(|_| busy())?;
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
        let matches = self
            .run(move || {
                let Ok(parsed) = PasswordHash::new(&hash) else { return false };
                argon2.verify_password(password.as_bytes(), &parsed).is_ok()
            })
            .await?;
        Ok(matches && real)
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
        let hash = self.run(move || argon2.hash_password(password.as_bytes()).map(|hash| hash.to_string())).await?;
        hash.map_err(|error| Error::Unavailable(error.to_string()))
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        // The permit goes with the work, which nothing stops when the request is given up.
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|error| Error::Unavailable(error.to_string()))
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
