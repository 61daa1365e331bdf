//! What a tenant may take of the server: one table, and the places that are taken while a request is answered.
//!
//! Charged is the tenant of whoever asks; the operator's own, with the system's components and the nodes, is not. What is
//! stored is counted by the store in its commit, for the tenant that has it, whoever wrote it. The operator sets a
//! tenant's budgets in its Project's `spec.limits`, by the names of the table; the tenant reads them at `/budgets`.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, OnceLock,
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
use hypernetes_store::{Exceeded, Quota, Store, TxnError};
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    Call, background,
    held::Held,
    meter::COUNTED,
    pace::{self, Pace, Turn},
};

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
    /// Thousandths of a core that the server works for it, in the long run.
    ServerMilliCpus,
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
pub const TABLE: [Row; 15] = [
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
    row(Budget::ServerMilliCpus, SERVER_MILLI_CPUS, "before a request is begun", 200, Reason::TooManyRequests),
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

const SERVER_MILLI_CPUS: &str = "serverMilliCpus";
/// What one source may have of it before it has said who it is.
const SOURCE_MILLI_CPUS: u64 = 150;

const fn row(budget: Budget, name: &'static str, checked: &'static str, default: u64, reason: Reason) -> Row {
    Row { budget, name, checked, default, reason }
}

fn row_of(budget: Budget) -> &'static Row {
    // The table is in the enum's order, which a test holds it to.
    &TABLE[budget as usize]
}

/// What the tenants have taken, and what they may.
#[derive(Default)]
pub(crate) struct Budgets {
    tenants: RwLock<HashMap<TenantId, Arc<Account>>>,
}

/// One tenant's.
pub(crate) struct Account {
    taken: [AtomicU64; TABLE.len()],
    limits: [AtomicU64; TABLE.len()],
    pub pace: Arc<Pace>,
    /// Nothing that was given out for the tenant opens anything any more.
    closed: CancellationToken,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            taken: Default::default(),
            limits: TABLE.map(|row| AtomicU64::new(row.default)),
            pace: Arc::new(Pace::new(row_of(Budget::ServerMilliCpus).default)),
            closed: CancellationToken::new(),
        }
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

    /// Does something that may go on for long, at the tenant's pace and until the tenant is closed: `None`, then.
    pub async fn run<T>(account: Option<Arc<Self>>, work: impl Future<Output = T>) -> Option<T> {
        match account {
            None => Some(work.await),
            Some(account) => {
                let closed = account.closed.clone();
                closed.run_until_cancelled_owned(pace::at_pace(&account.pace, work)).await
            }
        }
    }

    fn taken(&self, budget: Budget) -> &AtomicU64 {
        &self.taken[budget as usize]
    }
}

/// None: nobody pays, and it is not let wait.
impl background::Debtor for Option<Arc<Account>> {
    fn gives_way(&self, already: bool) -> bool {
        self.as_ref().is_some_and(|account| account.pace.is_in_arrears(already))
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

/// Whom a connection is charged to, in the extensions of its requests: its source, until it is known which tenant asks over
/// it first.
#[derive(Clone)]
pub(crate) struct Payer(Arc<Paying>);

struct Paying {
    source: Arc<Pace>,
    /// What the connection itself has had done, whoever pays for it.
    own: Pace,
    /// With the connection's place. None: it is not charged.
    known: OnceLock<Option<Taken>>,
}

impl Payer {
    pub fn source(pace: &Arc<Pace>) -> Self {
        Self(Arc::new(Paying { source: pace.clone(), own: Pace::of_connection(), known: OnceLock::new() }))
    }

    /// It is one of the system's own connections.
    pub fn is_system(&self) {
        let _ = self.0.known.set(None);
    }

    fn pace(&self) -> Option<&Arc<Pace>> {
        match self.0.known.get() {
            None => Some(&self.0.source),
            Some(known) => known.as_ref().map(|taken| &taken.account.pace),
        }
    }

    /// Does something of the connection's, each piece of it for whoever pays by then.
    pub async fn charged<T>(&self, work: impl Future<Output = T>) -> T {
        self.timed(work, |pace, cost| {
            pace.charge(cost);
            self.0.own.charge(cost);
        })
        .await
    }

    /// The same of what comes before anything can be asked for: no reason to let it wait.
    pub async fn admitted<T>(&self, work: impl Future<Output = T>) -> T {
        self.timed(work, |pace, cost| pace.charge(cost)).await
    }

    async fn timed<T>(&self, work: impl Future<Output = T>, charge: impl Fn(&Pace, Duration)) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| match self.pace() {
            Some(pace) => {
                let (result, cost) = pace::timed(|| work.as_mut().poll(cx));
                charge(pace, cost);
                result
            }
            None => work.as_mut().poll(cx),
        })
        .await
    }

    /// Takes long from here on: that can wait for what others have.
    pub async fn steps_back(&self) {
        self.0.own.exhaust();
        tokio::task::yield_now().await;
    }

    /// Charges what others have done for the connection.
    pub fn charge(&self, cost: Duration) {
        if let Some(pace) = self.pace() {
            pace.charge(cost);
        }
    }

    /// Waits until a request may begin.
    ///
    /// # Errors
    /// When it would wait for too long.
    pub async fn turn(&self) -> Result<Option<Turn>, ApiError> {
        match self.pace() {
            Some(pace) => pace.turn(SERVER_MILLI_CPUS).await.map(Some),
            None => Ok(None),
        }
    }

    /// Does something of the connection's for whoever pays for it by then, where that one's work is done.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let payer = self.clone();
        background::spawn(self.clone(), async move { payer.charged(work).await });
    }

    fn is(&self, account: &Arc<Account>) -> bool {
        matches!(self.0.known.get(), Some(Some(taken)) if Arc::ptr_eq(&taken.account, account))
    }
}

impl background::Debtor for Payer {
    fn gives_way(&self, already: bool) -> bool {
        self.pace().is_some_and(|pace| pace.is_in_arrears(already) || self.0.own.is_in_arrears(already))
    }
}

/// The pace of a source that has not said who it is.
pub(crate) fn source_pace() -> Arc<Pace> {
    Arc::new(Pace::new(SOURCE_MILLI_CPUS))
}

impl Budgets {
    fn account(&self, tenant: &TenantId) -> Arc<Account> {
        if let Some(account) = self.tenants.read().get(tenant) {
            return account.clone();
        }
        self.tenants.write().entry(tenant.clone()).or_default().clone()
    }

    /// The place of one request of the user.
    pub fn admit(&self, user: &UserInfo, connection: Option<&Payer>, watch: bool) -> Result<Ticket, ApiError> {
        // Who has not said who it is comes as one tenant, with all others who have not.
        let known = user.groups.iter().any(|group| group == names::GROUP_AUTHENTICATED);
        if user.tenant.is_system() && known {
            if let Some(payer) = connection {
                payer.is_system();
            }
            return Ok(Ticket { payer: None, account: None, taken: Vec::new(), waited: true });
        }
        let account = self.account(&user.tenant);
        let waited = connection.is_some_and(|payer| payer.is(&account));
        if let Some(Payer(paying)) = connection
            && paying.known.get().is_none()
        {
            // Two at once take two, and one is given back.
            let _ = paying.known.set(Some(Taken::take(&account, Budget::Connections, 1)?));
        }
        let budget = if watch { Budget::Watches } else { Budget::Requests };
        let taken = vec![Taken::take(&account, budget, 1)?];
        Ok(Ticket { payer: connection.cloned(), account: Some(account), taken, waited })
    }

    /// What the operator has set; what they have not is the default.
    pub fn set(&self, store: &dyn Store, tenant: &TenantId, limits: &BTreeMap<String, u64>) {
        let account = self.account(tenant);
        for row in &TABLE {
            let limit = limits.get(row.name).copied().unwrap_or(row.default);
            account.limits[row.budget as usize].store(limit, Ordering::Relaxed);
        }
        account.pace.set(account.limit(Budget::ServerMilliCpus));
        store.quotas().set(tenant, Some(account.quota()));
    }

    /// For those of whom nothing is known.
    pub fn set_default(store: &dyn Store) {
        store.quotas().set_default(Account::default().quota());
    }

    /// Whether anything that was given out for the tenant opens something. If not, what was begun for it ends, and what is
    /// begun: it may have been asked for before.
    pub fn settle(&self, tenant: &TenantId, open: bool) {
        let account = self.account(tenant);
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

    /// Those of whom anything is known here.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.tenants.read().keys().cloned().collect()
    }

    /// What the tenant may take and has taken, by the table.
    pub fn show(&self, store: &dyn Store, tenant: &TenantId) -> Value {
        let account = self.account(tenant);
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

/// A body that is longer takes milliseconds to read, check and write.
const LARGE: usize = 64 << 10;

/// What a request has taken, until its answer has been read or given up.
pub(crate) struct Ticket {
    /// None: it is served beside no connection's others.
    payer: Option<Payer>,
    /// None: it is not charged.
    account: Option<Arc<Account>>,
    taken: Vec<Taken>,
    /// Its turn was waited for where the connection is served.
    waited: bool,
}

impl Ticket {
    /// Waits until the request may begin, if that has not been done.
    ///
    /// # Errors
    /// When it would wait for too long.
    pub async fn turn(&self) -> Result<Option<Turn>, ApiError> {
        match &self.account {
            Some(account) if !self.waited => account.pace.turn(SERVER_MILLI_CPUS).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Whose request it is. None: it is not charged.
    pub fn account(&self) -> Option<Arc<Account>> {
        self.account.clone()
    }

    /// Bytes that the answer keeps in memory for as long as it is not read.
    ///
    /// # Errors
    /// When too much that the tenant asked for is not read yet.
    pub fn respond(&mut self, bytes: u64) -> Result<(), ApiError> {
        if let Some(account) = &self.account {
            self.taken.push(Taken::take(account, Budget::ResponseBytes, bytes)?);
        }
        Ok(())
    }

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
        if bytes.len() > LARGE
            && let Some(payer) = &self.payer
        {
            payer.steps_back().await;
        }
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
    pub fn hold(mut self, response: Response<Body>) -> Result<Response<Body>, ApiError> {
        // What is made while it is read has been charged by whoever makes it.
        self.respond(http_body::Body::size_hint(response.body()).exact().unwrap_or_default())?;
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
    let (group, plural) = (&call.resource.ty.group, &call.resource.plural);
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
