//! Keystone v3: a façade over the API objects of `identity.hypernetes.io` in the system cluster.
//!
//! [`Identity::start`] follows those objects, [`Identity::bootstrap`] makes those that every installation has,
//! [`Identity::router`] serves the HTTP API, and as [`TokenAuthority`] it tells the other services who has a token.
#![forbid(unsafe_code)]

pub mod admin;
mod api;
mod attempts;
mod authentication;
mod bootstrap;
mod cache;
mod catalog;
mod directory;
mod error;
mod hashing;
mod ids;
pub mod login;
mod passwords;
mod revocation;
mod roles;
mod token;

#[cfg(test)]
#[allow(clippy::disallowed_types)] // as a stock client
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hypernetes_api::{
    TenantId,
    auth::{TokenAuthority, TokenError, TokenInfo},
};
use hypernetes_client::Clients;
use tokio_util::sync::CancellationToken;

pub use error::Error;
pub use passwords::PasswordCost;

/// How long a request waits for the first list of the identity objects after a start.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often expired revocations are forgotten and the age of the token key is looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// What an operator may choose.
#[derive(Debug, Clone)]
pub struct IdentityConfig {
    /// Where clients reach the server, e.g. `https://cloud.example:6443`: what the catalogue and links begin with.
    pub public_url: String,
    pub region: String,
    pub token_lifetime: Duration,
    /// Age at which the key of new tokens is replaced.
    pub key_lifetime: Duration,
    pub password_cost: PasswordCost,
}

impl IdentityConfig {
    pub fn new(public_url: impl Into<String>) -> Self {
        Self {
            public_url: public_url.into().trim_end_matches('/').to_owned(),
            region: "RegionOne".into(),
            token_lifetime: Duration::from_secs(60 * 60),
            key_lifetime: Duration::from_secs(30 * 24 * 60 * 60),
            password_cost: PasswordCost::default(),
        }
    }
}

/// The identity service. Stops following its objects when the last reference is dropped.
pub struct Identity {
    directory: Arc<directory::Directory>,
    keyring: token::Keyring,
    passwords: passwords::Passwords,
    attempts: attempts::Attempts,
    config: IdentityConfig,
    system: kube::Client,
    follower: tokio::task::JoinHandle<()>,
}

impl Identity {
    /// [`Identity::follow`] of the only server: it keeps the house, too.
    pub fn start(clients: &Clients, config: IdentityConfig) -> Arc<Self> {
        let identity = Self::follow(clients, config);
        tokio::spawn(identity.keep_house(clients, CancellationToken::new()));
        identity
    }

    /// Begins to follow the identity objects, in the background: the API server need not answer yet. Must be called
    /// within a tokio runtime.
    pub fn follow(clients: &Clients, config: IdentityConfig) -> Arc<Self> {
        let system = clients.tenant(&TenantId::system());
        let directory = Arc::new(directory::Directory::new(system.clone()));
        let followed = Arc::clone(&directory);
        Arc::new(Self {
            directory,
            keyring: token::Keyring::new(system.clone()),
            passwords: passwords::Passwords::new(system.clone(), config.password_cost),
            attempts: attempts::Attempts::default(),
            config,
            system,
            follower: tokio::spawn(async move { followed.follow().await }),
        })
    }

    /// Forgets what has expired and replaces the key of tokens, through these clients, until `stop`, or until it is dropped. One
    /// server does it; when two do, each thing is still done once.
    pub fn keep_house(
        self: &Arc<Self>,
        clients: &Clients,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (identity, system) = (Arc::downgrade(self), clients.tenant(&TenantId::system()));
        async move {
            let _ = stop.run_until_cancelled(housekeeping(identity, system)).await;
        }
    }

    /// Serves the identity API; to be nested at `/identity`.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        api::router(Arc::clone(self))
    }

    /// Waits until the identity objects have been read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when that takes longer than five seconds.
    pub async fn ready(&self) -> Result<(), Error> {
        tokio::time::timeout(PATIENCE, self.directory.synced())
            .await
            .map_err(|_| Error::Unavailable("the identity objects have not been read yet".into()))
    }

    /// Makes a new key for tokens; older ones stay good for the tokens that they made.
    ///
    /// # Errors
    /// When the API server does not answer, or another server does the same at the same time.
    pub async fn rotate_token_key(&self) -> Result<(), Error> {
        self.keyring.rotate(&self.system, self.config.token_lifetime).await
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[async_trait]
impl TokenAuthority for Identity {
    async fn validate(&self, token: &str) -> Result<TokenInfo, TokenError> {
        match self.examine(token).await {
            Ok(Some(valid)) => valid.info().map_err(|error| TokenError::Unavailable(error.to_string())),
            Ok(None) => Err(TokenError::Invalid),
            Err(error) => Err(TokenError::Unavailable(error.to_string())),
        }
    }
}

async fn housekeeping(identity: std::sync::Weak<Identity>, system: kube::Client) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let Some(identity) = identity.upgrade() else { return };
        if let Err(error) = identity.forget_revocations(&system).await {
            tracing::warn!(%error, "forgetting expired token revocations");
        }
        let age = identity.keyring.newest().map(|made| jiff::Timestamp::now().duration_since(made).unsigned_abs());
        if age.is_some_and(|age| age > identity.config.key_lifetime)
            && let Err(error) = identity.keyring.rotate(&system, identity.config.token_lifetime).await
        {
            tracing::warn!(%error, "replacing the key of tokens");
        }
    }
}
