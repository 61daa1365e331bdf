//! What was asked for, by whom, and what came of it: `audit.k8s.io/v1`, a line an event, in files that tell when they were changed.
//!
//! ```text
//! a request ─▶ policy: how much ─▶ record ─▶ queue, bounded in bytes per tenant ─▶ one thread ─▶ a chain of each tenant
//! ```
//!
//! Each logical cluster has a chain of its own: nobody's requests push what others did out of the log. Nothing waits for it: what the
//! queue has no room for, or the disk, is lost, counted, and told of in the log itself.

mod chain;
pub(crate) mod event;
mod files;
pub mod policy;
mod verify;
mod writer;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use hypernetes_api::TenantId;
use parking_lot::Mutex;

use self::writer::{Message, Writer};
pub use self::{
    chain::Head,
    files::Keep,
    policy::{Policy, PolicyError},
    verify::{Broken, VerifyError, What, Whole, each_line, verify},
};
use crate::fairness::{
    account::{Account, Taken},
    budget::Budget,
};

/// The chain of requests of which it is not known whose they are. No tenant is called so.
const NOBODY: &str = "_unauthenticated";
/// Room for the system's own events, in bytes.
const SYSTEM_ROOM: u64 = 16 << 20;
/// Room for all of them.
const ROOM: u64 = 64 << 20;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub system: Keep,
    pub tenant: Keep,
}

impl Default for Options {
    fn default() -> Self {
        Self { system: Keep { file_bytes: 16 << 20, files: 16 }, tenant: Keep { file_bytes: 4 << 20, files: 4 } }
    }
}

impl Options {
    fn keep(&self, chain: &str) -> Keep {
        if chain == TenantId::SYSTEM { self.system } else { self.tenant }
    }
}

/// What both sides of the queue know.
#[derive(Default)]
struct Shared {
    events: AtomicU64,
    errors: AtomicU64,
    /// Bytes that wait to be written.
    waiting: AtomicU64,
    /// Events of each chain that were lost, and are not told of yet.
    gaps: Mutex<BTreeMap<Arc<str>, u64>>,
}

impl Shared {
    fn written(&self, events: u64) {
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    /// Whether they are the first that the log has to tell of.
    fn lost(&self, chain: &Arc<str>, events: u64) -> bool {
        self.errors.fetch_add(events, Ordering::Relaxed);
        self.put_back(chain, events)
    }

    fn put_back(&self, chain: &Arc<str>, events: u64) -> bool {
        if events == 0 {
            return false;
        }
        let mut gaps = self.gaps.lock();
        let gap = gaps.entry(chain.clone()).or_default();
        *gap += events;
        *gap == events
    }

    fn take_gap(&self, chain: &Arc<str>) -> u64 {
        self.gaps.lock().remove(chain).unwrap_or(0)
    }

    fn gaps(&self) -> Vec<Arc<str>> {
        self.gaps.lock().keys().cloned().collect()
    }
}

/// The log.
pub struct Audit {
    pub policy: Policy,
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    /// What the system's own events are charged to.
    system: Arc<Account>,
}

impl Audit {
    /// Begins to write below a directory.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(root: &Path, policy: Policy, options: Options) -> io::Result<Self> {
        let (queue, messages) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let writer = Writer::new(root, options, shared.clone());
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&messages))?;
        let system = Account::default();
        system.set_limit(Budget::AuditBytes, SYSTEM_ROOM);
        Ok(Self { policy, queue, shared, system: Arc::new(system) })
    }

    /// Hands over an event of a tenant, which this account pays for: the system, if none does.
    fn write(&self, tenant: Option<&TenantId>, account: Option<&Arc<Account>>, line: String) {
        let chain: Arc<str> = tenant.map_or(NOBODY, TenantId::as_str).into();
        let bytes = line.len() as u64;
        let room = Taken::take(account.unwrap_or(&self.system), Budget::AuditBytes, bytes);
        let message = match room {
            Ok(room) if writer::fits(&line) && self.shared.waiting.load(Ordering::Relaxed) < ROOM => {
                self.shared.waiting.fetch_add(bytes, Ordering::Relaxed);
                Message::Event { chain, line, room }
            }
            _ if self.shared.lost(&chain, 1) => Message::Dropped,
            _ => return,
        };
        if self.queue.send(message).is_err() {
            self.shared.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has something else that happened to a tenant recorded: a JSON object that is not empty.
    pub fn note(&self, tenant: &TenantId, object: &str) {
        self.write(Some(tenant), None, object.to_owned());
    }

    /// Removes the chain of a tenant that is gone. What is still done with what it leaves is the operator's to know from now on.
    pub fn forget(&self, tenant: &TenantId) {
        let _ = self.queue.send(Message::Gone(tenant.as_str().into()));
    }

    /// There is such a tenant, perhaps again.
    pub fn expect(&self, tenant: &TenantId) {
        let _ = self.queue.send(Message::There(tenant.as_str().into()));
    }

    /// These are all tenants that there are: others may have gone while nobody recorded.
    pub fn forget_others(&self, tenants: HashSet<TenantId>) {
        let _ = self.queue.send(Message::Only(tenants));
    }

    /// Waits until all that was handed over is written, or could not be.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    /// Events that were written, and such that were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.events.load(Ordering::Relaxed), self.shared.errors.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
