//! What is read, whichever engine is beneath: the newest version of every key, the recent past, and the watches.
//!
//! ```text
//! load ─▶ apply, apply, … : keys and history change under one lock; then the watches are told, under another
//! ```

mod changes;
mod history;
mod watches;

use std::{
    collections::{BTreeMap, HashMap, btree_map},
    ops::Bound,
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::sync::watch;

use self::{history::History, watches::Watches};
use crate::{
    Change, Encryption, Entry, Key, Listing, Meter, Prefix, Quotas, RangeOptions, ReadError, Revision, Usage, Values,
    WatchError, entry::Record,
};

pub use changes::{Changes, WatchLimits};
pub use watches::Part;

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
    /// embedded engine.
    pub reserve_bytes: u64,
    pub encryption: Encryption,
    /// What is in it.
    pub values: Values,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_changes: 20_000,
            history_bytes: 16 << 20,
            history_total_bytes: 64 << 20,
            tenant_watch: WatchLimits { bytes: 8 << 20, tenant_bytes: 32 << 20 },
            infrastructure_watch: WatchLimits { bytes: 64 << 20, tenant_bytes: usize::MAX },
            reserve_bytes: 4 << 20,
            encryption: Encryption::none(),
            values: Values::default(),
        }
    }
}

/// A version of a key; `None` is a deletion.
type At = (Revision, Option<Entry>);

/// Versions of one key.
struct Versions {
    newest: At,
    /// Those before that something of the past may still need, oldest first.
    older: Vec<At>,
}

/// What became of a key, durably.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub revision: Revision,
    pub key: Key,
    /// None: it was deleted.
    pub now: Option<Record>,
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
        // What these keys are changed to is this store's alone.
        let options = Options { encryption: options.encryption.now(), ..options };
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
        Current { state: self.state.read(), meter: self.options.values.meter, quotas: &self.quotas }
    }

    /// Begins, or begins anew, with these entries and no past. Watches that there were have missed what came between.
    pub fn load(&self, revision: Revision, records: Vec<Record>) {
        let mut usage: HashMap<Arc<str>, Usage> = HashMap::new();
        let entries = records.into_iter().map(|record| Entry::of(record, &self.options.values)).inspect(|entry| {
            let tenant = entry.key.tenant();
            if !usage.contains_key(tenant) {
                usage.insert(tenant.into(), Usage::default());
            }
            if let Some(usage) = usage.get_mut(tenant) {
                usage.add(&entry.usage);
            }
        });
        let versions =
            |entry: Entry| (entry.key.clone(), Versions { newest: (entry.mod_revision, Some(entry)), older: vec![] });
        let keys = entries.map(versions).collect();
        let total = Total {
            objects: usage.values().map(|usage| usage.objects).sum(),
            bytes: usage.values().map(|usage| usage.bytes).sum(),
        };
        let state = State { keys, revision, history: History::new(&self.options, revision), usage, total };
        *self.state.write() = state;
        self.watches.end(&WatchError::Lagged);
        self.told.send_replace(revision);
    }

    /// Makes what has become durable visible, and tells the watches: in the order of revisions, the last of which is
    /// `revision`, and from one thread at a time.
    pub fn apply(&self, applied: Vec<Applied>, revision: Revision) {
        // What everybody is shown is made before anybody has to wait.
        let made =
            |Applied { revision, key, now }| (revision, key, now.map(|now| Entry::of(now, &self.options.values)));
        let made: Vec<_> = applied.into_iter().map(made).collect();
        let changes: Vec<Arc<Change>> = {
            let mut state = self.state.write();
            let changes = made.into_iter().map(|(revision, key, now)| state.apply(revision, key, now)).collect();
            state.revision = revision;
            for key in state.history.trim() {
                state.forget_versions(&key);
            }
            changes
        };
        for change in &changes {
            self.watches.tell(change, self.options.values.index);
        }
        self.told.send_replace(revision);
    }

    pub fn told(&self) -> Revision {
        *self.told.borrow()
    }

    pub async fn all_told(&self, revision: Revision) {
        // The sender is this cache's own: it does not end before.
        let _ = self.told.subscribe().wait_for(|told| *told >= revision).await;
    }

    pub fn revision(&self) -> Revision {
        self.state.read().revision
    }

    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.state.read().get(key).cloned()
    }

    /// What a key holds, as it is stored.
    pub fn record(&self, key: &Key) -> Option<Record> {
        self.get(key).map(|entry| entry.record(&self.options.values))
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
        (state.revision, state.keys.values().filter_map(Versions::newest).cloned().collect())
    }

    /// What the keys after one hold now, as it is stored, in order, until there are so many bytes.
    pub fn piece(&self, after: Option<&Key>, bytes: usize) -> Vec<Record> {
        let state = self.state.read();
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_str()));
        let (mut piece, mut size) = (Vec::new(), 0);
        for entry in state.keys.range::<str, _>((start, Bound::Unbounded)).filter_map(|(_, versions)| versions.newest())
        {
            size += entry.value.len();
            piece.push(entry.record(&self.options.values));
            if size >= bytes {
                break;
            }
        }
        piece
    }

    pub fn count(&self, prefix: &Prefix) -> usize {
        let state = self.state.read();
        state.under(prefix, None).filter(|(_, versions)| versions.newest().is_some()).count()
    }

    /// As [`Store::count_after`](crate::Store::count_after).
    pub fn count_after(
        &self,
        prefix: &Prefix,
        after: &Key,
        revision: Revision,
        most: usize,
    ) -> Result<(usize, Option<Key>), ReadError> {
        let state = self.state.read();
        let at = state.kept(prefix, Some(revision))?;
        let found = state.under(prefix, Some(after)).filter(|(_, versions)| versions.visible(at).is_some());
        let (mut count, mut last) = (0, None);
        for (key, _) in found.take(most) {
            (count, last) = (count + 1, Some(key));
        }
        Ok((count, last.filter(|_| count == most).cloned()))
    }

    /// Of that part of them, if one is given.
    pub fn watch(&self, prefix: &Prefix, part: Option<Part<&str>>, from: Revision) -> Result<Changes, ReadError> {
        let state = self.state.read();
        if from > state.revision {
            return Err(ReadError::Future(from));
        }
        let value = self.options.values.index;
        let is_told = |change: &&Change| part.is_none_or(|part| part.is_told(change, value));
        let backlog = state.history.since(prefix, from)?.into_iter().filter(is_told).cloned().map(Arc::new).collect();
        let limits =
            if prefix.of_tenant().is_some() { self.options.tenant_watch } else { self.options.infrastructure_watch };
        // What is applied from now on is told; what is being told now is in the backlog.
        let changes = self.watches.begin(prefix, part, backlog, state.revision, limits);
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

impl Versions {
    fn visible(&self, at: Revision) -> Option<&Entry> {
        let newest_first = std::iter::once(&self.newest).chain(self.older.iter().rev());
        newest_first.into_iter().find(|(revision, _)| *revision <= at).and_then(|(_, entry)| entry.as_ref())
    }

    fn newest(&self) -> Option<&Entry> {
        self.newest.1.as_ref()
    }
}

impl State {
    fn get(&self, key: &Key) -> Option<&Entry> {
        self.keys.get(key)?.newest()
    }

    fn usage(&self, tenant: &str) -> Usage {
        self.usage.get(tenant).copied().unwrap_or_default()
    }

    fn apply(&mut self, revision: Revision, key: Key, now: Option<Entry>) -> Arc<Change> {
        let newest = (revision, now.clone());
        let before = match self.keys.entry(key.clone()) {
            btree_map::Entry::Vacant(place) => {
                place.insert(Versions { newest, older: Vec::new() });
                None
            }
            btree_map::Entry::Occupied(mut versions) => {
                let versions = versions.get_mut();
                let before = std::mem::replace(&mut versions.newest, newest);
                versions.older.push(before.clone());
                before.1
            }
        };
        let change = Arc::new(Change::new(revision, key, now, before));
        let tenant = change.key.tenant();
        let (before, mut usage) = (self.usage(tenant), self.usage(tenant));
        change.before.iter().for_each(|entry| usage.subtract(&entry.usage));
        change.now.iter().for_each(|entry| usage.add(&entry.usage));
        self.total.objects = (self.total.objects + usage.objects).saturating_sub(before.objects);
        self.total.bytes = (self.total.bytes + usage.bytes).saturating_sub(before.bytes);
        if usage == Usage::default() {
            self.usage.remove(tenant);
        } else if let Some(have) = self.usage.get_mut(tenant) {
            *have = usage;
        } else {
            self.usage.insert(tenant.into(), usage);
        }
        self.history.push(Change::clone(&change));
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

    /// The revision that is asked for, if what was there then is known; the newest if none is.
    fn kept(&self, prefix: &Prefix, revision: Option<Revision>) -> Result<Revision, ReadError> {
        match revision {
            Some(revision) if revision > self.revision => Err(ReadError::Future(revision)),
            Some(revision) => self.history.keeps(prefix, revision),
            None => Ok(self.revision),
        }
    }

    fn range(&self, prefix: &Prefix, options: &RangeOptions) -> Result<Listing, ReadError> {
        let at = self.kept(prefix, options.revision)?;
        let mut found = self.under(prefix, options.after.as_ref()).filter_map(|(_, versions)| versions.visible(at));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let entries: Vec<Entry> = found.by_ref().take(limit).cloned().collect();
        Ok(Listing { entries, revision: at, more: found.next().is_some() })
    }

    /// Drops the versions of a key that nothing of the past needs any more.
    fn forget_versions(&mut self, key: &Key) {
        let oldest = self.history.oldest_of(key);
        let Some(versions) = self.keys.get_mut(key) else { return };
        // The last of those that are no newer is what was there then.
        let known = versions.older.partition_point(|(revision, _)| *revision <= oldest);
        let of_no_use = if versions.newest.0 <= oldest { known } else { known.saturating_sub(1) };
        versions.older.drain(..of_no_use);
        versions.older.shrink_to_fit();
        if versions.older.is_empty() && versions.newest().is_none() {
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
