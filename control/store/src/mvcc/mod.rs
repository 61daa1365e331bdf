//! What is read, whichever engine is beneath: the newest version of every key, the recent past, and the watches.
//!
//! ```text
//! load ─▶ apply, apply, … : keys and history change under one lock; then the watches are told, under another
//! ```

mod changes;
mod history;
mod watches;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::sync::watch;

use self::{history::History, watches::Watches};
use crate::{
    Change, Entry, Key, Listing, METERED, Meter, Prefix, Quotas, RangeOptions, ReadError, Revision, Usage, WatchError,
    log::embedded::{Encryption, SEGMENT},
};

pub use changes::{Changes, WatchLimits};

/// How much of the past is kept in memory, how far watches may be behind, and what is counted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Changes of one tenant.
    pub history_changes: usize,
    /// Bytes of one tenant's changes.
    pub history_bytes: usize,
    /// Bytes of all tenants' changes. When there are more the tenant with the most loses some.
    pub history_total_bytes: usize,
    /// How far watchers of one tenant may be behind.
    pub tenant_watch: WatchLimits,
    /// How far watchers of all tenants may be behind.
    pub infrastructure_watch: WatchLimits,
    /// Bytes on the disk that only deletions, and half of it small changes, may use, which are a segment of the log: of the
    /// embedded engine, as are the keys.
    pub reserve_bytes: u64,
    pub encryption: Encryption,
    /// What each tenant's quota is compared with, besides objects and bytes. The same for all that opens one store.
    pub meter: Meter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_changes: 20_000,
            history_bytes: 16 << 20,
            history_total_bytes: 64 << 20,
            tenant_watch: WatchLimits { bytes: 8 << 20, tenant_bytes: 32 << 20 },
            infrastructure_watch: WatchLimits { bytes: 64 << 20, tenant_bytes: usize::MAX },
            reserve_bytes: SEGMENT,
            encryption: Encryption::none(),
            meter: |_, _| [0; METERED],
        }
    }
}

/// Versions of one key, oldest first; `None` is a deletion. Never empty.
type Versions = Vec<(Revision, Option<Entry>)>;

/// What became of a key, durably.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub revision: Revision,
    pub key: Key,
    /// None: it was deleted.
    pub now: Option<Entry>,
}

pub(crate) struct Cache {
    options: Options,
    quotas: Quotas,
    state: RwLock<State>,
    watches: Watches,
    /// Until which revision the watches have been told everything.
    told: watch::Sender<Revision>,
}

struct State {
    keys: BTreeMap<Key, Versions>,
    revision: Revision,
    history: History,
    usage: HashMap<Arc<str>, Usage>,
    /// Of all tenants.
    total: Total,
}

/// What there is of all tenants: keys, and the bytes of keys and values.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Total {
    pub objects: u64,
    pub bytes: u64,
}

/// The state as it is now, for an engine that decides by it what is written next.
pub(crate) struct Current<'a> {
    state: parking_lot::RwLockReadGuard<'a, State>,
    pub meter: Meter,
    pub quotas: &'a Quotas,
}

impl Current<'_> {
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.state.get(key)
    }

    pub fn usage(&self, tenant: &str) -> Usage {
        self.state.usage(tenant)
    }
}

impl Cache {
    pub fn new(options: Options) -> Self {
        let history = History::new(&options, Revision(0));
        let state = State {
            keys: BTreeMap::new(),
            revision: Revision(0),
            history,
            usage: HashMap::new(),
            total: Total::default(),
        };
        Self {
            quotas: Quotas::default(),
            state: RwLock::new(state),
            watches: Watches::default(),
            told: watch::Sender::new(Revision(0)),
            options,
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    pub fn current(&self) -> Current<'_> {
        Current { state: self.state.read(), meter: self.options.meter, quotas: &self.quotas }
    }

    /// Begins, or begins anew, with these entries and no past. Watches that there were have missed what came between.
    pub fn load(&self, revision: Revision, entries: Vec<Entry>) {
        let mut usage: HashMap<Arc<str>, Usage> = HashMap::new();
        for entry in &entries {
            let tenant = entry.key.tenant();
            if !usage.contains_key(tenant) {
                usage.insert(tenant.into(), Usage::default());
            }
            if let Some(usage) = usage.get_mut(tenant) {
                usage.add(entry, self.options.meter);
            }
        }
        let total = Total {
            objects: usage.values().map(|usage| usage.objects).sum(),
            bytes: usage.values().map(|usage| usage.bytes).sum(),
        };
        let keys = entries.into_iter().map(|entry| (entry.key.clone(), vec![(entry.mod_revision, Some(entry))]));
        let state =
            State { keys: keys.collect(), revision, history: History::new(&self.options, revision), usage, total };
        *self.state.write() = state;
        self.watches.end(&WatchError::Lagged);
        self.told.send_replace(revision);
    }

    /// Makes what has become durable visible, and tells the watches: in the order of revisions, the last of which is
    /// `revision`, and from one thread at a time.
    pub fn apply(&self, applied: Vec<Applied>, revision: Revision) {
        let changes: Vec<Arc<Change>> = {
            let mut state = self.state.write();
            let changes = applied.into_iter().map(|applied| state.apply(applied, self.options.meter)).collect();
            state.revision = revision;
            for key in state.history.trim() {
                state.forget_versions(&key);
            }
            changes
        };
        for change in &changes {
            self.watches.tell(change);
        }
        self.told.send_replace(revision);
    }

    pub fn told(&self) -> Revision {
        *self.told.borrow()
    }

    pub fn revision(&self) -> Revision {
        self.state.read().revision
    }

    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.state.read().get(key).cloned()
    }

    pub fn usage(&self, tenant: &str) -> Usage {
        self.state.read().usage(tenant)
    }

    pub fn range(&self, prefix: &Prefix, options: &RangeOptions) -> Result<Listing, ReadError> {
        self.state.read().range(prefix, options)
    }

    /// What there is of all tenants.
    pub fn total(&self) -> Total {
        self.state.read().total
    }

    /// All keys with what they hold, at one revision.
    pub fn all(&self) -> (Revision, Vec<Entry>) {
        let state = self.state.read();
        (state.revision, state.keys.values().filter_map(newest).cloned().collect())
    }

    /// What the keys after one hold now, in order, until there are so many bytes.
    pub fn piece(&self, after: Option<&Key>, bytes: usize) -> Vec<Entry> {
        let state = self.state.read();
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_str()));
        let (mut piece, mut size) = (Vec::new(), 0);
        for entry in state.keys.range::<str, _>((start, Bound::Unbounded)).filter_map(|(_, versions)| newest(versions))
        {
            size += entry.value.len();
            piece.push(entry.clone());
            if size >= bytes {
                break;
            }
        }
        piece
    }

    pub fn count(&self, prefix: &Prefix) -> usize {
        let state = self.state.read();
        state.under(prefix, None).filter(|(_, versions)| newest(versions).is_some()).count()
    }

    pub fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Changes, ReadError> {
        let state = self.state.read();
        if from > state.revision {
            return Err(ReadError::Future(from));
        }
        let backlog = state.history.since(prefix, from)?;
        let limits =
            if prefix.of_tenant().is_some() { self.options.tenant_watch } else { self.options.infrastructure_watch };
        // What is applied from now on is told; what is being told now is in the backlog.
        let changes = self.watches.begin(prefix, backlog, state.revision, limits);
        // There is no room for so much of the past: the watcher has to list.
        changes.ok_or(ReadError::Compacted { requested: from, oldest: state.revision })
    }

    pub fn compact(&self, revision: Revision) -> Result<(), ReadError> {
        let mut state = self.state.write();
        if revision > state.revision {
            return Err(ReadError::Future(revision));
        }
        for key in state.history.compact(revision) {
            state.forget_versions(&key);
        }
        Ok(())
    }

    /// Ends all watches.
    pub fn close(&self) {
        self.watches.end(&WatchError::Closed);
    }
}

fn visible(versions: &Versions, at: Revision) -> Option<&Entry> {
    versions.iter().rev().find(|(revision, _)| *revision <= at).and_then(|(_, entry)| entry.as_ref())
}

fn newest(versions: &Versions) -> Option<&Entry> {
    versions.last().and_then(|(_, entry)| entry.as_ref())
}

impl State {
    fn get(&self, key: &Key) -> Option<&Entry> {
        newest(self.keys.get(key)?)
    }

    fn usage(&self, tenant: &str) -> Usage {
        self.usage.get(tenant).copied().unwrap_or_default()
    }

    fn apply(&mut self, applied: Applied, meter: Meter) -> Arc<Change> {
        let Applied { revision, key, now } = applied;
        let versions = self.keys.entry(key.clone()).or_default();
        let before = newest(versions).cloned();
        versions.push((revision, now.clone()));
        let change = Arc::new(Change { revision, key, now, before });
        let tenant = change.key.tenant();
        let (before, mut usage) = (self.usage(tenant), self.usage(tenant));
        usage.count(&change, meter);
        self.total.objects = (self.total.objects + usage.objects).saturating_sub(before.objects);
        self.total.bytes = (self.total.bytes + usage.bytes).saturating_sub(before.bytes);
        if usage == Usage::default() {
            self.usage.remove(tenant);
        } else if let Some(have) = self.usage.get_mut(tenant) {
            *have = usage;
        } else {
            self.usage.insert(tenant.into(), usage);
        }
        self.history.push(change.clone());
        change
    }

    fn under<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Versions)> {
        let start: Bound<&str> = match after {
            Some(key) if key.as_str() >= prefix.as_str() => Bound::Excluded(key.as_str()),
            _ => Bound::Included(prefix.as_str()),
        };
        self.keys.range::<str, _>((start, Bound::Unbounded)).take_while(|(key, _)| prefix.contains(key))
    }

    fn range(&self, prefix: &Prefix, options: &RangeOptions) -> Result<Listing, ReadError> {
        let at = match options.revision {
            Some(revision) if revision > self.revision => return Err(ReadError::Future(revision)),
            Some(revision) => self.history.keeps(prefix, revision)?,
            None => self.revision,
        };
        let mut found = self.under(prefix, options.after.as_ref()).filter_map(|(_, versions)| visible(versions, at));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let entries: Vec<Entry> = found.by_ref().take(limit).cloned().collect();
        Ok(Listing { entries, revision: at, more: found.next().is_some() })
    }

    /// Drops the versions of a key that nothing of the past needs any more.
    fn forget_versions(&mut self, key: &Key) {
        let oldest = self.history.oldest_of(key);
        let Some(versions) = self.keys.get_mut(key) else { return };
        let current = versions.partition_point(|(revision, _)| *revision <= oldest).saturating_sub(1);
        versions.drain(..current);
        versions.shrink_to_fit();
        if let [(_, None)] = versions.as_slice() {
            self.keys.remove(key);
        }
    }
}

/// Lets a map of keys be searched by text.
impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}
