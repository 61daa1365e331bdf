//! Service account tokens whose signature has been checked, by their SHA-256: each costs one check, not one with each request.
//!
//! Here is what cannot change of a token, until something that it names is deleted: that was written down when it was checked,
//! and the store's changes take the token out. Whether the tenant is open, the key that signed still its key and the
//! time not over is looked at with each request.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use hypernetes_api::{AllTenants, ApiError};
use hypernetes_store::{Entry, Key, Prefix, ResourceId, Store};
use ring::digest;

use super::authorities::{Signer, claims::ServiceAccountClaims};
use crate::follow::{Following, Known};

/// Of one tenant. The oldest go: they are checked again.
const MOST: usize = 1000;

/// SHA-256 of a token: what is kept here opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }
}

/// What a token says, and who has signed it.
#[derive(Clone)]
pub struct Checked {
    pub claims: Arc<ServiceAccountClaims>,
    pub signer: Signer,
}

/// All that have been checked.
pub struct Credentials(Following<Cache>);

#[derive(Default)]
pub struct Cache {
    tokens: HashMap<Hash, (Checked, Vec<Key>)>,
    /// Tokens that name an object.
    naming: HashMap<Key, HashSet<Hash>>,
    tenants: HashMap<Box<str>, Tenant>,
}

#[derive(Default)]
struct Tenant {
    /// Oldest first.
    order: VecDeque<Hash>,
    /// How many objects that tokens could name have been deleted.
    deletions: u64,
}

/// How many deletions a tenant has had when somebody began to look whether objects are there.
pub struct Begun(u64);

impl Credentials {
    pub fn new(store: Arc<Store>, all: &AllTenants) -> Self {
        let prefix = |plural| Prefix::all_tenants(&ResourceId::new("", plural), all);
        Self(Following::new(store, ["serviceaccounts", "pods", "secrets"].map(prefix).to_vec()))
    }

    /// # Errors
    /// When the store does not answer, as of all here.
    pub async fn get(&self, hash: Hash) -> Result<Option<Checked>, ApiError> {
        self.0.ask(|cache| cache.tokens.get(&hash).map(|(checked, _)| checked.clone())).await
    }

    /// Before it is looked whether what a token names is there.
    pub async fn begin(&self, tenant: &str) -> Result<Begun, ApiError> {
        self.0.ask(|cache| Begun(cache.tenants.entry(tenant.into()).or_default().deletions)).await
    }

    /// Keeps a token whose objects, the keys, were there, unless something was deleted meanwhile.
    pub async fn put(&self, hash: Hash, checked: Checked, keys: Vec<Key>, begun: Begun) -> Result<(), ApiError> {
        self.0.ask(|cache| cache.put(hash, checked, keys, &begun)).await
    }

    /// Takes in what has changed: for those who come without a token, so that it does not pile up.
    pub fn catch_up(&self) {
        let _ = self.0.look(|_| ());
    }
}

impl Cache {
    fn put(&mut self, hash: Hash, checked: Checked, keys: Vec<Key>, begun: &Begun) {
        let tenant = self.tenants.entry(checked.claims.tenant.as_str().into()).or_default();
        if tenant.deletions != begun.0 || self.tokens.contains_key(&hash) {
            return;
        }
        tenant.order.push_back(hash);
        let oldest = (tenant.order.len() > MOST).then(|| tenant.order.pop_front()).flatten();
        for key in &keys {
            self.naming.entry(key.clone()).or_default().insert(hash);
        }
        self.tokens.insert(hash, (checked, keys));
        if let Some(oldest) = oldest {
            self.forget(oldest);
        }
    }

    /// Its place in the order is its tenant's to clear.
    fn forget(&mut self, hash: Hash) {
        let Some((_, keys)) = self.tokens.remove(&hash) else { return };
        for key in keys {
            if let Some(naming) = self.naming.get_mut(&key) {
                naming.remove(&hash);
                if naming.is_empty() {
                    self.naming.remove(&key);
                }
            }
        }
    }
}

impl Known for Cache {
    const LISTED: bool = false;

    /// An object of the same key that is there is the same object: its uid is for life.
    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        if now.is_some() {
            return;
        }
        if let Some(tenant) = self.tenants.get_mut(key.tenant()) {
            tenant.deletions += 1;
        }
        let Some(naming) = self.naming.remove(key) else { return };
        for hash in &naming {
            self.forget(*hash);
        }
        if let Some(tenant) = self.tenants.get_mut(key.tenant()) {
            tenant.order.retain(|hash| !naming.contains(hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::authorities::{claims::tests::claims_of, material};

    const ACME: &str = "0123456789abcdef0123456789abcdef";
    const GLOBEX: &str = "fedcba9876543210fedcba9876543210";

    fn put(cache: &mut Cache, tenant: &str, token: &str, pod: &str) {
        let claims = claims_of(tenant);
        let key = |plural, name| Key::new(&ResourceId::new("", plural), &claims.tenant, "default", name).unwrap();
        let keys = vec![key("serviceaccounts", "robot"), key("pods", pod)];
        let signer = Signer::Tenant(Arc::new(
            super::super::authorities::material::Authority::read(
                claims.tenant.clone(),
                &material::tenants(&claims.tenant, "1").unwrap(),
            )
            .unwrap(),
        ));
        let begun = Begun(cache.tenants.entry(tenant.into()).or_default().deletions);
        cache.put(Hash::of(token), Checked { claims: Arc::new(claims.clone()), signer }, keys, &begun);
    }

    fn delete(cache: &mut Cache, tenant: &str, plural: &str, name: &str) {
        let key = Key::new(&ResourceId::new("", plural), &tenant.parse().unwrap(), "default", name).unwrap();
        cache.changed(&key, None);
    }

    fn has(cache: &Cache, token: &str) -> bool {
        cache.tokens.contains_key(&Hash::of(token))
    }

    #[test]
    fn a_token_goes_with_what_it_names_and_leaves_nothing() {
        let mut cache = Cache::default();
        put(&mut cache, ACME, "a", "one");
        put(&mut cache, ACME, "b", "two");
        put(&mut cache, GLOBEX, "c", "one");
        delete(&mut cache, ACME, "pods", "one");
        assert!(!has(&cache, "a") && has(&cache, "b") && has(&cache, "c"));
        delete(&mut cache, ACME, "serviceaccounts", "robot");
        assert!(!has(&cache, "b") && has(&cache, "c"));
        assert!(cache.tenants[ACME].order.is_empty());
        assert_eq!(cache.naming.len(), 2);
    }

    #[test]
    fn what_was_deleted_while_it_was_checked_is_not_kept() {
        let mut cache = Cache::default();
        cache.tenants.insert(ACME.into(), Tenant::default());
        let begun = Begun(cache.tenants[ACME].deletions);
        delete(&mut cache, ACME, "pods", "one");
        put(&mut cache, ACME, "a", "two");
        assert!(has(&cache, "a"));
        let (checked, keys) = cache.tokens[&Hash::of("a")].clone();
        cache.put(Hash::of("late"), checked, keys, &begun);
        assert!(!has(&cache, "late"));
    }

    #[test]
    fn a_tenants_many_tokens_push_out_its_own() {
        let mut cache = Cache::default();
        put(&mut cache, GLOBEX, "c", "one");
        put(&mut cache, ACME, "first", "one");
        let (checked, keys) = cache.tokens[&Hash::of("first")].clone();
        for number in 0..MOST {
            cache.put(Hash::of(&number.to_string()), checked.clone(), keys.clone(), &Begun(0));
        }
        assert!(!has(&cache, "first") && has(&cache, "0") && has(&cache, "c"));
        assert_eq!(cache.tokens.len(), MOST + 1);
    }
}
