//! Who signs for whom: each tenant has an authority of its own, which signs its client certificates and its service
//! accounts' tokens, and nothing for anybody else. The system has another.
//!
//! A tenant's is made when it is first needed, in one transaction that asks for the project to be there and for no authority
//! to be, so that there is never a second; what signs its certificates is renewed likewise, when less is left of it than a
//! certificate may last: by a timer, or by whoever needs it before. All that there are lie in memory, and follow the store: what has changed is taken in when somebody asks.

pub mod claims;
pub mod client;
pub mod material;
pub mod openid;
mod signing;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use hypernetes_api::{ApiError, Reason, TenantId, time, types::identity::IDENTITY_NAMESPACE};
use hypernetes_certificates::issue::Issuer;
use hypernetes_store::{Entry, Guard, Key, Op, Prefix, ResourceId, Store, Txn, TxnError};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use self::{
    claims::ServiceAccountClaims,
    client::{Certificate, Issuer as Signed},
    material::{Authority, Earlier, MaterialError},
};
use crate::{
    follow::{self, Following},
    stored_form,
};

/// How often one is tried to be made while its project changes.
const ATTEMPTS: usize = 8;
/// How long a tenant's certificate of the system's authority is good after tenants got their own. By default they were
/// issued for as long.
const EARLIER_CERTIFICATES: SignedDuration = SignedDuration::from_hours(30 * 24);

/// All authorities. Cheap to clone.
#[derive(Clone)]
pub struct Authorities(Arc<Inner>);

struct Inner {
    store: Arc<Store>,
    known: Following<Known>,
    /// Held while one is made: keys are made one at a time.
    making: tokio::sync::Mutex<()>,
    /// Public key of what has signed all tokens until this version, to be recorded with the system's own.
    earlier: OnceLock<String>,
    /// The installation's certificate authority.
    system: OnceLock<Issuer>,
}

/// Whose key a token is signed with.
#[derive(Clone)]
pub enum Signer {
    Tenant(Arc<Authority>),
    Earlier(Arc<Earlier>),
}

impl Signer {
    /// What a token says that this one has signed. Whom it is for, and whether what it names is there, is not looked at.
    pub fn claims(&self, token: &str) -> Option<ServiceAccountClaims> {
        match self {
            Self::Tenant(authority) => authority.claims(token),
            Self::Earlier(earlier) => earlier.claims(token),
        }
    }
}

#[derive(Default)]
struct Known {
    authorities: HashMap<TenantId, Arc<Authority>>,
    /// By the name of the key of tokens.
    by_kid: HashMap<String, Arc<Authority>>,
    earlier: Option<Arc<Earlier>>,
}

fn secrets() -> ResourceId {
    ResourceId::new("", "secrets")
}

fn secret_key(tenant: &TenantId) -> Result<Key, ApiError> {
    Ok(Key::new(&secrets(), &TenantId::system(), IDENTITY_NAMESPACE, &material::secret_name(tenant))?)
}

fn failed(tenant: &TenantId, error: &MaterialError) -> ApiError {
    ApiError::internal(format!("the authority of {tenant}: {error}"))
}

impl Authorities {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let prefix = Prefix::tenant(&secrets(), &TenantId::system(), Some(IDENTITY_NAMESPACE));
        let known = Following::new(store.clone(), prefix.into_iter().collect());
        Self(Arc::new(Inner {
            store,
            known,
            making: tokio::sync::Mutex::default(),
            earlier: OnceLock::new(),
            system: OnceLock::new(),
        }))
    }

    /// Makes the system's own, unless it is there. `earlier`: public key, SPKI PEM, of what has signed all tokens until now; it
    /// is recorded with this moment, once.
    ///
    /// # Errors
    /// When the store does not answer, or has no room: then it is tried again when the system's is needed.
    pub async fn begin(&self, earlier: Option<&str>) -> Result<(), ApiError> {
        if let Some(earlier) = earlier {
            let _ = self.0.earlier.set(earlier.to_owned());
        }
        self.of(&TenantId::system()).await.map(drop)
    }

    /// The tenant's, which is made if it has none yet, and renewed if it is time for that.
    ///
    /// # Errors
    /// `NotFound` for a tenant that there is not; when the store does not answer, or has no room.
    pub async fn of(&self, tenant: &TenantId) -> Result<Arc<Authority>, ApiError> {
        self.catch_up().await?;
        let now = Timestamp::now();
        if let Some(known) = self.known(tenant).filter(|known| !known.is_due(now)) {
            return Ok(known);
        }
        let _making = self.0.making.lock().await;
        for _ in 0..ATTEMPTS {
            self.catch_up().await?;
            let Some(known) = self.known(tenant) else {
                self.make(tenant).await?;
                continue;
            };
            if !known.is_due(now) {
                return Ok(known);
            }
            // It signs on until it can be.
            if let Err(error) = self.renew(tenant, now).await {
                tracing::warn!(%tenant, %error, "renewing an authority");
                return Ok(known);
            }
        }
        let message = format!("the authority of {tenant} is not there and cannot be made now; please try again");
        Err(ApiError::new(Reason::ServerTimeout, message))
    }

    /// Renews all of which it is time, whether anybody needs them or not. What cannot be renewed now signs on, and is tried again the
    /// next time.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn renew_due(&self, now: Timestamp) -> Result<(), ApiError> {
        self.catch_up().await?;
        let due = |known: &Known| {
            let due = known.authorities.values().filter(|one| one.is_due(now));
            due.map(|one| one.tenant.clone()).collect::<Vec<_>>()
        };
        for tenant in self.look(due).unwrap_or_default() {
            let _making = self.0.making.lock().await;
            if let Err(error) = self.renew(&tenant, now).await {
                tracing::warn!(%tenant, %error, "renewing an authority");
            }
        }
        Ok(())
    }

    /// The tenant's, if it is known now: it may be that it is not read yet ([`Self::catch_up`]).
    pub fn known(&self, tenant: &TenantId) -> Option<Arc<Authority>> {
        self.look(|known| known.authorities.get(tenant).cloned())?
    }

    /// Sees to it that everything is known that has been written.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn catch_up(&self) -> Result<(), ApiError> {
        self.0.known.ask(|_| ()).await
    }

    fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> Option<T> {
        self.0.known.look(|known| look(known))
    }

    /// Who has signed a token, by the key that it names, if it is a token of this kind and the key is one now.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn signer(&self, token: &str) -> Result<Option<Signer>, ApiError> {
        let Some(kid) = claims::key_of(token) else { return Ok(None) };
        let signer = |known: &mut Known| match &kid {
            Some(kid) => known.by_kid.get(kid).cloned().map(Signer::Tenant),
            None => known.earlier.clone().map(Signer::Earlier),
        };
        self.0.known.ask(signer).await
    }

    /// Whether who has signed is still who signs.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn still_signs(&self, signer: &Signer) -> Result<bool, ApiError> {
        let still = |known: &mut Known| match signer {
            Signer::Tenant(one) => known.by_kid.get(&one.kid).is_some_and(|now| Arc::ptr_eq(now, one)),
            Signer::Earlier(one) => known.earlier.as_ref().is_some_and(|now| Arc::ptr_eq(now, one)),
        };
        self.0.known.ask(still).await
    }

    /// Whether a certificate has not ended since its connection began, and the authority that signed it still is one: the
    /// system's, or the tenant's present one or the one before. A tenant's of the system's, as there were before, is good for a
    /// time.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn stand_by(&self, certificate: &Certificate) -> Result<bool, ApiError> {
        let tenant = &certificate.user.tenant;
        match &certificate.issuer {
            _ if certificate.until <= Timestamp::now() => Ok(false),
            Signed::System if tenant.is_system() => Ok(true),
            Signed::System => {
                self.catch_up().await?;
                let earlier = self.look(|known| known.earlier.clone()).flatten();
                let end = earlier.and_then(|earlier| earlier.until.checked_add(EARLIER_CERTIFICATES).ok());
                Ok(end.is_some_and(|end| Timestamp::now() < end))
            }
            Signed::Tenant(key_id) => {
                self.catch_up().await?;
                let (of, now) = (self.known(tenant), Timestamp::now());
                let trusts = |of: &Authority| of.clients.as_ref().is_some_and(|of| of.trusted(key_id, now).is_some());
                Ok(of.is_some_and(|of| trusts(&of)))
            }
        }
    }

    /// Tries to store a new one. Another may have been quicker.
    async fn make(&self, tenant: &TenantId) -> Result<(), ApiError> {
        let key = secret_key(tenant)?;
        let mut guards = vec![Guard::Absent(key.clone())];
        let secret = if tenant.is_system() {
            material::systems(self.0.earlier.get().map(String::as_str), Timestamp::now())
        } else {
            let place = Key::new(&crate::directory::projects(), &TenantId::system(), "", tenant.as_str())?;
            let project = self.0.store.get(&place).await?;
            let not_found = || ApiError::not_found("identity.hypernetes.io", "projects", tenant.as_str());
            let project = project.ok_or_else(not_found)?;
            // Nothing is left behind by a deletion at the same moment.
            guards.push(Guard::Unchanged(place, project.mod_revision));
            let uid = stored_form::decode(&project)?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            material::tenants(tenant, &uid)
        };
        let mut secret = secret.map_err(|error| failed(tenant, &error))?;
        secret["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
        secret["metadata"]["creationTimestamp"] = time::now().to_string().into();
        self.put(tenant, guards, key, &secret).await
    }

    /// Tries to store it with another key of its certificates. Another server may have been quicker.
    async fn renew(&self, tenant: &TenantId, now: Timestamp) -> Result<(), ApiError> {
        let key = secret_key(tenant)?;
        let Some(entry) = self.0.store.get(&key).await? else { return Ok(()) };
        let mut secret = stored_form::decode(&entry)?;
        if !material::renew(tenant, &mut secret, now).map_err(|error| failed(tenant, &error))? {
            return Ok(());
        }
        tracing::info!(%tenant, "what signs its client certificates is renewed");
        self.put(tenant, vec![Guard::Unchanged(key.clone(), entry.mod_revision)], key, &secret).await
    }

    async fn put(&self, tenant: &TenantId, guards: Vec<Guard>, key: Key, secret: &Value) -> Result<(), ApiError> {
        let ops = vec![Op::Put(key, stored_form::encode(secret)?)];
        match self.0.store.commit(Txn { guards, ops }).await {
            Ok(_) | Err(TxnError::Conflict { .. }) => Ok(()),
            Err(TxnError::NoSpace(why)) => {
                Err(ApiError::new(Reason::InsufficientStorage, format!("the server has no room for this: {why}")))
            }
            Err(error) => Err(ApiError::internal(format!("storing the authority of {tenant}: {error}"))),
        }
    }
}

impl follow::Known for Known {
    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        let Some(tenant) = material::tenant_of(key.name()) else { return };
        if let Some(before) = self.authorities.remove(&tenant) {
            self.by_kid.remove(&before.kid);
        }
        if tenant.is_system() {
            self.earlier = None;
        }
        let Some(entry) = now else { return };
        if let Err(error) = self.put(&tenant, entry) {
            // Nothing of it is shown.
            tracing::warn!(%tenant, %error, "an authority is not usable: delete its Secret to have a new one");
        }
    }
}

impl Known {
    fn put(&mut self, tenant: &TenantId, entry: &Entry) -> Result<(), ApiError> {
        let secret: Value = stored_form::decode(entry)?;
        let failed = |error: MaterialError| failed(tenant, &error);
        if tenant.is_system() {
            self.earlier = Earlier::read(&secret).map_err(failed)?.map(Arc::new);
        }
        let authority = Arc::new(Authority::read(tenant.clone(), &secret).map_err(failed)?);
        self.by_kid.insert(authority.kid.clone(), authority.clone());
        self.authorities.insert(tenant.clone(), authority);
        Ok(())
    }
}
