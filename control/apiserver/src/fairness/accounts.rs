//! Every tenant's account.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use hypernetes_api::{ApiError, TenantId, auth::UserInfo, names};
use hypernetes_store::Store;
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::{
    authentication::bootstrap,
    fairness::{
        account::{Account, Taken, UserPlace},
        budget::{Budget, COUNTED, TABLE},
        payer::Payer,
        ticket::Ticket,
    },
    metrics::rejected::Why,
};

/// What the tenants have taken, and what they may.
pub(crate) struct Accounts {
    tenants: RwLock<HashMap<TenantId, Arc<Account>>>,
    /// That of those who are gone, which is closed: what had been asked for before may still be begun.
    gone: Arc<Account>,
}

impl Default for Accounts {
    fn default() -> Self {
        let gone = Arc::new(Account::default());
        gone.closed.cancel();
        Self { tenants: RwLock::default(), gone }
    }
}

impl Accounts {
    pub fn of(&self, tenant: &TenantId) -> Arc<Account> {
        if let Some(account) = self.tenants.read().get(tenant) {
            return account.clone();
        }
        self.tenants.write().entry(tenant.clone()).or_default().clone()
    }

    /// The place of one request of the user.
    pub fn admit(&self, user: &UserInfo, connection: Option<&Payer>, watch: bool) -> Result<Ticket, ApiError> {
        // Who has not said who it is comes as one tenant, with all others who have not; so does who has a bootstrap token, which
        // may be in many hands.
        let known =
            user.groups.iter().any(|group| group == names::GROUP_AUTHENTICATED) && !bootstrap::is_bootstrapper(user);
        if user.tenant.is_system() && known {
            if let Some(payer) = connection {
                payer.is_system();
            }
            return Ok(Ticket { payer: None, account: None, taken: Vec::new(), place: None, waited: true });
        }
        let account = self.of(&user.tenant);
        Self::charged(&account, user, connection, watch).inspect_err(|_| account.rejected.count(Why::Limit))
    }

    fn charged(
        account: &Arc<Account>,
        user: &UserInfo,
        connection: Option<&Payer>,
        watch: bool,
    ) -> Result<Ticket, ApiError> {
        let waited = connection.is_some_and(|payer| payer.is(account));
        if let Some(Payer(paying)) = connection
            && paying.known.get().is_none()
        {
            // Two at once take two, and one is given back.
            let _ = paying.known.set(Some(Taken::take(account, Budget::Connections, 1)?));
        }
        let budget = if watch { Budget::Watches } else { Budget::Requests };
        let taken = vec![Taken::take(account, budget, 1)?];
        let place = Some(UserPlace::take(account, budget, &user.name)?);
        Ok(Ticket { payer: connection.cloned(), account: Some(account.clone()), taken, place, waited })
    }

    /// What the operator has set; what they have not is the default.
    pub fn set(&self, store: &Store, tenant: &TenantId, limits: &BTreeMap<String, u64>) {
        let account = self.of(tenant);
        for row in &TABLE {
            let limit = limits.get(row.name).copied().unwrap_or(row.default);
            account.limits[row.budget as usize].store(limit, Ordering::Relaxed);
        }
        account.pace.set(account.limit(Budget::ServerMilliCpus));
        store.quotas().set(tenant, Some(account.quota()));
    }

    /// For those of whom nothing is known.
    pub fn set_default(store: &Store) {
        store.quotas().set_default(Account::default().quota());
    }

    /// Whether anything that was given out for the tenant opens something. If not, what was begun for it ends, and what is
    /// begun: it may have been asked for before.
    pub fn settle(&self, tenant: &TenantId, open: bool) {
        let mut account = self.of(tenant);
        if Arc::ptr_eq(&account, &self.gone) {
            account = Arc::default();
            account.closed.cancel();
            self.tenants.write().insert(tenant.clone(), account.clone());
        }
        if !open {
            account.closed.cancel();
        } else if account.closed.is_cancelled() {
            let again = Account::default();
            for row in &TABLE {
                again.limits[row.budget as usize].store(account.limit(row.budget), Ordering::Relaxed);
            }
            again.pace.set(again.limit(Budget::ServerMilliCpus));
            self.tenants.write().insert(tenant.clone(), Arc::new(again));
        }
    }

    /// Ends what was begun for a tenant that is gone, and forgets what it has had and asked for.
    pub fn forget(&self, tenant: &TenantId) {
        let before = self.tenants.write().insert(tenant.clone(), self.gone.clone());
        if let Some(account) = before {
            account.closed.cancel();
        }
    }

    /// Those of whom anything is known here.
    pub fn tenants(&self) -> Vec<TenantId> {
        let tenants = self.tenants.read();
        let there = tenants.iter().filter(|(_, account)| !Arc::ptr_eq(account, &self.gone));
        there.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// What the tenant may take and has taken, by the table.
    pub fn show(&self, store: &Store, tenant: &TenantId) -> Value {
        let account = self.of(tenant);
        let stored = store.usage(tenant);
        let rows = TABLE.iter().map(|row| {
            let used = match row.budget {
                Budget::Objects => Some(stored.objects),
                Budget::StoredBytes => Some(stored.bytes),
                Budget::ServerMilliCpus => Some(account.pace.used()),
                // Each node's own.
                Budget::ImageBytes | Budget::LogBytes => None,
                other => Some(match COUNTED.iter().position(|counted| *counted == other) {
                    Some(place) => stored.metered[place],
                    None => account.taken(other).load(Ordering::Relaxed),
                }),
            };
            json!({"name": row.name, "limit": account.limit(row.budget), "used": used, "checked": row.checked})
        });
        json!({"kind": "Budgets", "apiVersion": "hypernetes.io/v1alpha1", "items": rows.collect::<Vec<_>>()})
    }
}
