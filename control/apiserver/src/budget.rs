//! What a tenant may take of the server: one table, and the places that are taken while a request is answered.
//!
//! Charged is the tenant of whoever asks; the operator's own, with the system's components and the nodes, is not. What is
//! stored is counted by the store in its commit, for the tenant that has it, whoever wrote it. The operator sets a
//! tenant's budgets in its Project's `spec.limits`, by the names of the table; the tenant reads them at `/budgets`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use hypernetes_api::{
    ApiError, Reason, TenantId,
    auth::UserInfo,
    error::Details,
    names,
    types::identity::{IMAGE_BYTES, LOG_BYTES},
};
use hypernetes_schema::limits::MAX_BODY;
use hypernetes_store::{Exceeded, Prefix, Quota, RangeOptions, ResourceId, Revision, Store, TxnError};
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::{Call, codec, held::Held, meter::COUNTED};

/// Something that there is only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Budget {
    /// Objects in the store.
    Objects,
    /// Bytes of keys and values in the store.
    StoredBytes,
    /// Pods that are not over.
    Pods,
    /// Thousandths of a core that they ask for.
    MilliCpus,
    /// Memory that they ask for.
    MemoryBytes,
    /// Of volumes, by their size.
    VolumeBytes,
    /// Connections over which the tenant has asked for something.
    Connections,
    /// Requests that are being answered, or whose answers are being read; without watches.
    Requests,
    /// Bytes of their bodies.
    RequestBytes,
    /// Bytes of answers that are not read to their end.
    ResponseBytes,
    /// Watches.
    Watches,
    /// Connections to pods: `exec`, `attach`, `portforward`.
    Sessions,
    /// Of images that the tenant has pulled, on each node.
    ImageBytes,
    /// Of its containers' logs, on each node.
    LogBytes,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub budget: Budget,
    pub name: &'static str,
    /// Where it is checked.
    pub checked: &'static str,
    /// For a tenant whose Project says nothing.
    pub default: u64,
    /// What a refusal says.
    pub reason: Reason,
}

/// All budgets of a tenant.
pub const TABLE: [Row; 14] = [
    row(Budget::Objects, "objects", "the store's commit", 50_000, Reason::Forbidden),
    // In memory it is about twice that: once as it is stored, once as the controllers see it.
    row(Budget::StoredBytes, "storedBytes", "the store's commit", 64 << 20, Reason::Forbidden),
    row(Budget::Pods, "pods", "the store's commit", 500, Reason::Forbidden),
    row(Budget::MilliCpus, "milliCpus", "the store's commit", 100_000, Reason::Forbidden),
    row(Budget::MemoryBytes, "memoryBytes", "the store's commit", 256 << 30, Reason::Forbidden),
    row(Budget::VolumeBytes, "volumeBytes", "the store's commit", 1 << 40, Reason::Forbidden),
    row(Budget::Connections, "connections", "the first request of each", 1000, Reason::TooManyRequests),
    row(Budget::Requests, "requests", "after authentication", 200, Reason::TooManyRequests),
    row(Budget::RequestBytes, "requestBytes", "as the body comes", 32 << 20, Reason::TooManyRequests),
    row(Budget::ResponseBytes, "responseBytes", "before the answer is sent", 128 << 20, Reason::TooManyRequests),
    row(Budget::Watches, "watches", "before the watch begins", 1000, Reason::TooManyRequests),
    row(Budget::Sessions, "sessions", "before the node is asked", 100, Reason::TooManyRequests),
    // The node is told by its kubelet, which reads the Project. What is refused is the pod's image, not a request.
    row(
        Budget::ImageBytes,
        IMAGE_BYTES.name,
        "each node, before and after a pull",
        IMAGE_BYTES.default,
        Reason::Forbidden,
    ),
    row(Budget::LogBytes, LOG_BYTES.name, "each node, before a line is written", LOG_BYTES.default, Reason::Forbidden),
];

const fn row(budget: Budget, name: &'static str, checked: &'static str, default: u64, reason: Reason) -> Row {
    Row { budget, name, checked, default, reason }
}

fn row_of(budget: Budget) -> &'static Row {
    // The table is in the enum's order, which a test holds it to.
    &TABLE[budget as usize]
}

/// When to look again for what the operator has set, after the store had no answer.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// What the tenants have taken, and what they may.
#[derive(Default)]
pub(crate) struct Budgets {
    tenants: RwLock<HashMap<TenantId, Arc<Account>>>,
}

/// One tenant's.
struct Account {
    taken: [AtomicU64; TABLE.len()],
    limits: [AtomicU64; TABLE.len()],
}

impl Default for Account {
    fn default() -> Self {
        Self { taken: Default::default(), limits: TABLE.map(|row| AtomicU64::new(row.default)) }
    }
}

impl Account {
    fn limit(&self, budget: Budget) -> u64 {
        self.limits[budget as usize].load(Ordering::Relaxed)
    }

    /// For the store.
    fn quota(&self) -> Quota {
        Quota {
            objects: self.limit(Budget::Objects),
            bytes: self.limit(Budget::StoredBytes),
            metered: COUNTED.map(|budget| self.limit(budget)),
        }
    }

    fn taken(&self, budget: Budget) -> &AtomicU64 {
        &self.taken[budget as usize]
    }
}

/// So much of a budget, until it is dropped.
pub(crate) struct Taken {
    account: Arc<Account>,
    budget: Budget,
    amount: u64,
}

impl Taken {
    fn take(account: &Arc<Account>, budget: Budget, amount: u64) -> Result<Self, ApiError> {
        let limit = account.limit(budget);
        let fits = |taken: u64| taken.checked_add(amount).filter(|after| *after <= limit);
        match account.taken(budget).fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Self { account: account.clone(), budget, amount }),
            Err(used) => {
                let row = row_of(budget);
                let message =
                    format!("too many requests, please try again later: {}={used}, limited: {limit}", row.name);
                let details = Details { retry_after_seconds: Some(1), ..Details::default() };
                Err(ApiError::new(row.reason, message).with_details(details))
            }
        }
    }

    fn more(&mut self, amount: u64) -> Result<(), ApiError> {
        let mut more = Self::take(&self.account, self.budget, amount)?;
        self.amount += std::mem::take(&mut more.amount);
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.taken(self.budget).fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// The place of a connection, in the extensions of its requests: taken for the tenant that first asks over it.
#[derive(Clone, Default)]
pub(crate) struct ConnectionPlace(Arc<std::sync::OnceLock<Taken>>);

impl Budgets {
    fn account(&self, tenant: &TenantId) -> Arc<Account> {
        if let Some(account) = self.tenants.read().get(tenant) {
            return account.clone();
        }
        self.tenants.write().entry(tenant.clone()).or_default().clone()
    }

    /// The place of one request of the user.
    pub fn admit(
        &self,
        user: &UserInfo,
        connection: Option<&ConnectionPlace>,
        watch: bool,
    ) -> Result<Ticket, ApiError> {
        // Who has not said who it is comes as one tenant, with all others who have not.
        let known = user.groups.iter().any(|group| group == names::GROUP_AUTHENTICATED);
        if user.tenant.is_system() && known {
            return Ok(Ticket { account: None, taken: Vec::new() });
        }
        let account = self.account(&user.tenant);
        if let Some(ConnectionPlace(place)) = connection
            && place.get().is_none()
        {
            // Two at once take two, and one is given back.
            let _ = place.set(Taken::take(&account, Budget::Connections, 1)?);
        }
        let budget = if watch { Budget::Watches } else { Budget::Requests };
        let taken = vec![Taken::take(&account, budget, 1)?];
        Ok(Ticket { account: Some(account), taken })
    }

    fn set(&self, store: &dyn Store, tenant: &TenantId, limits: &BTreeMap<String, u64>) {
        let account = self.account(tenant);
        for row in &TABLE {
            let limit = limits.get(row.name).copied().unwrap_or(row.default);
            account.limits[row.budget as usize].store(limit, Ordering::Relaxed);
        }
        store.quotas().set(tenant, Some(account.quota()));
    }

    /// Does what the Projects say, for ever.
    pub async fn follow(&self, store: &dyn Store) {
        store.quotas().set_default(Account::default().quota());
        let resource = ResourceId::new("identity.hypernetes.io", "projects");
        let Ok(projects) = Prefix::tenant(&resource, &TenantId::system(), None) else { return };
        loop {
            if let Err(error) = self.follow_once(store, &projects).await {
                tracing::debug!(%error, "following the tenants' budgets");
                tokio::time::sleep(FOLLOW_AGAIN).await;
            }
        }
    }

    async fn follow_once(&self, store: &dyn Store, projects: &Prefix) -> Result<(), hypernetes_store::ReadError> {
        let apply = |name: &str, value: &Bytes, revision: Revision| {
            let Ok(tenant) = name.parse::<TenantId>() else { return };
            let project = codec::decode_bytes(value, revision).unwrap_or_default();
            let limits = project["spec"]["limits"].as_object().into_iter().flatten();
            let limits = limits.filter_map(|(name, limit)| Some((name.clone(), limit.as_u64()?))).collect();
            self.set(store, &tenant, &limits);
        };
        let listing = store.range(projects, RangeOptions::default()).await?;
        for entry in &listing.entries {
            apply(entry.key.name(), &entry.value, entry.mod_revision);
        }
        let mut changes = store.watch(projects, listing.revision).await?;
        while let Some(Ok(change)) = changes.recv().await {
            match &change.now {
                Some(entry) => apply(entry.key.name(), &entry.value, change.revision),
                None => {
                    if let Ok(tenant) = change.key.name().parse() {
                        self.tenants.write().remove(&tenant);
                        store.quotas().set(&tenant, None);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the tenant may take and has taken, by the table.
    pub fn show(&self, store: &dyn Store, tenant: &TenantId) -> Value {
        let account = self.account(tenant);
        let stored = store.usage(tenant);
        let rows = TABLE.iter().map(|row| {
            let used = match row.budget {
                Budget::Objects => Some(stored.objects),
                Budget::StoredBytes => Some(stored.bytes),
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

/// How many bytes an answer keeps in memory for as long as it is not read, where that is not what is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holds(pub u64);

/// What a request has taken, until its answer has been read or given up.
pub(crate) struct Ticket {
    /// None: it is not charged.
    account: Option<Arc<Account>>,
    taken: Vec<Taken>,
}

impl Ticket {
    /// The whole body of the request.
    ///
    /// # Errors
    /// When it is too large or does not come, or there is too much of the tenant's already.
    pub async fn read(&mut self, mut body: Body) -> Result<Bytes, ApiError> {
        let mut taken = match &self.account {
            Some(account) => Some(Taken::take(account, Budget::RequestBytes, 0)?),
            None => None,
        };
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::bad_request(format!("reading the request: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(ApiError::new(Reason::RequestEntityTooLarge, format!("limit is {MAX_BODY}")));
            }
            if let Some(taken) = &mut taken {
                taken.more(data.len() as u64)?;
            }
            bytes.extend_from_slice(&data);
        }
        self.taken.extend(taken);
        Ok(bytes.freeze())
    }

    /// The place of a connection to a pod, until it is dropped.
    ///
    /// # Errors
    /// When the tenant has as many as it may.
    pub fn session(&self) -> Result<Option<Taken>, ApiError> {
        self.account.as_ref().map(|account| Taken::take(account, Budget::Sessions, 1)).transpose()
    }

    /// The answer, which holds what was taken for as long as it is not read.
    ///
    /// # Errors
    /// When too much that the tenant asked for is not read yet.
    pub fn hold(mut self, mut response: Response<Body>) -> Result<Response<Body>, ApiError> {
        let Some(account) = &self.account else { return Ok(response) };
        let held = response.extensions_mut().remove::<Holds>().map(|Holds(bytes)| bytes);
        let bytes = held.or_else(|| http_body::Body::size_hint(response.body()).exact()).unwrap_or_default();
        if bytes > 0 {
            self.taken.push(Taken::take(account, Budget::ResponseBytes, bytes)?);
        }
        Ok(response.map(|body| Body::new(Held::new(body, self))))
    }
}

/// The tenant keeps as much as it may: said as upstream's quota does.
pub(crate) fn over_quota(call: &Call, name: &str, error: &TxnError) -> ApiError {
    let (row, why) = match error {
        TxnError::Quota { what, used, limit } => {
            let row = row_of(match what {
                Exceeded::Objects => Budget::Objects,
                Exceeded::Bytes => Budget::StoredBytes,
                Exceeded::Metered(place) => COUNTED[*place],
            });
            let what = row.name;
            (row, format!("exceeded quota: tenant, used: {what}={used}, limited: {what}={limit}"))
        }
        other => (row_of(Budget::Objects), other.to_string()),
    };
    let (group, plural) = (&call.resource.ty.group, call.resource.plural);
    let resource = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    ApiError::new(row.reason, format!("{resource} {name:?} is forbidden: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threat_model_has_every_budget_with_its_default() {
        let text = include_str!("../../../docs/threat-model.md");
        for row in &TABLE {
            let line = text.lines().find(|line| line.starts_with(&format!("| `{}` |", row.name)));
            let shown = line.and_then(|line| line.split('|').nth(2)).map(str::trim).unwrap_or_default();
            let (number, unit) = shown.split_once(' ').unwrap_or((shown, ""));
            let unit = 1
                << match unit {
                    "MiB" => 20,
                    "GiB" => 30,
                    "TiB" => 40,
                    _ => 0,
                };
            assert_eq!(number.replace(',', "").parse::<u64>().map(|n| n * unit), Ok(row.default), "{}", row.name);
        }
    }

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_names_each_once() {
        let names: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.budget as usize, index, "{}", row.name);
        }
    }
}
