//! What is read: the newest version of every key, the recent past, and the watchers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::Options;
use crate::{
    Change, Changes, Entry, Guard, Key, Listing, Op, Prefix, RangeOptions, ReadError, Revision, Txn, TxnError, Usage,
    WatchError,
    changes::{self, Buffer, Feed},
    quota::Quotas,
};

/// Versions of one key, oldest first; `None` is a deletion. Never empty.
type Versions = Vec<(Revision, Option<Entry>)>;

pub(super) struct Memory {
    options: Options,
    keys: BTreeMap<Key, Versions>,
    revision: Revision,
    /// Reads and watches from before this revision are refused.
    compacted: Revision,
    /// By tenant, so that nobody's changes push out another's.
    pasts: HashMap<Arc<str>, Past>,
    past_bytes: usize,
    /// The newest revision that any tenant's past has lost.
    trimmed: Revision,
    usage: HashMap<Arc<str>, Usage>,
    /// By the `/<group>/<resource>/` they watch, so that a change meets only watchers of its resource.
    watchers: HashMap<String, Vec<Watcher>>,
    /// What the watchers of a tenant have not read yet.
    buffers: HashMap<Arc<str>, Arc<Buffer>>,
}

/// A tenant's recent changes.
#[derive(Default)]
struct Past {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// What is older has been forgotten.
    oldest: Revision,
}

struct Watcher {
    prefix: Prefix,
    feed: Feed,
}

/// What a transaction does to the room that is taken, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Growth {
    /// It takes no more than before.
    None,
    /// Objects that exist take a little more, as when they are marked as being deleted.
    Small,
    Large,
}

/// Bytes that a transaction may add to objects that exist and count as small.
const SMALL_GROWTH: usize = 1024;

/// Transactions that become durable together.
pub(super) struct Batch {
    revision: Revision,
    changes: Vec<Change>,
    newest: HashMap<Key, Option<Entry>>,
    /// The largest of its transactions'.
    growth: Growth,
    /// What each tenant will have.
    usage: HashMap<Arc<str>, Usage>,
}

impl Batch {
    pub fn new(revision: Revision) -> Self {
        Self { revision, changes: Vec::new(), newest: HashMap::new(), growth: Growth::None, usage: HashMap::new() }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn growth(&self) -> Growth {
        self.growth
    }

    pub fn deletes(&self) -> bool {
        self.changes.iter().any(|change| change.now.is_none())
    }

    /// What each key will be.
    pub fn newest(&self) -> impl Iterator<Item = (&Key, Option<&Entry>)> {
        self.newest.iter().map(|(key, now)| (key, now.as_ref()))
    }

    /// Checks the guards and quotas against `memory` with the batch's earlier transactions, and takes the transaction
    /// in, if its growth is no more than `allowed`.
    pub fn add(
        &mut self,
        memory: &Memory,
        txn: &Txn,
        quotas: &Quotas,
        allowed: Growth,
    ) -> Result<(Revision, Growth), TxnError> {
        for guard in &txn.guards {
            let (key, wanted) = match guard {
                Guard::Absent(key) => (key, None),
                Guard::Unchanged(key, revision) => (key, Some(*revision)),
            };
            let current = self.current(memory, key);
            if current.as_ref().map(|entry| entry.mod_revision) != wanted {
                return Err(TxnError::Conflict { key: key.clone(), current: current.map(Box::new) });
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let mut changes = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            let (key, value) = match op {
                Op::Put(key, value) => (key, Some(value)),
                Op::Delete(key) => (key, None),
            };
            let before = self.current(memory, key);
            if value.is_none() && before.is_none() {
                continue;
            }
            let create_revision = before.as_ref().map_or(revision, |entry| entry.create_revision);
            let now = value.map(|value| Entry {
                key: key.clone(),
                value: value.clone(),
                create_revision,
                mod_revision: revision,
            });
            changes.push(Change { revision, key: key.clone(), now, before });
        }
        let growth = growth_of(&changes);
        if growth > allowed {
            return Err(TxnError::NoSpace("the disk is full".into()));
        }
        let usage = self.usage_after(memory, &changes, quotas, growth)?;
        if changes.is_empty() {
            return Ok((self.revision, growth));
        }
        self.usage.extend(usage);
        self.growth = self.growth.max(growth);
        self.revision = revision;
        self.newest.extend(changes.iter().map(|change| (change.key.clone(), change.now.clone())));
        self.changes.append(&mut changes);
        Ok((revision, growth))
    }

    /// What the tenants will have; an error when one would have more than it may, and more than before.
    fn usage_after(
        &self,
        memory: &Memory,
        changes: &[Change],
        quotas: &Quotas,
        growth: Growth,
    ) -> Result<HashMap<Arc<str>, Usage>, TxnError> {
        let mut after: HashMap<Arc<str>, Usage> = HashMap::new();
        let before =
            |tenant: &str| self.usage.get(tenant).or_else(|| memory.usage.get(tenant)).copied().unwrap_or_default();
        for change in changes {
            let tenant = change.key.tenant();
            if !after.contains_key(tenant) {
                after.insert(tenant.into(), before(tenant));
            }
            if let Some(usage) = after.get_mut(tenant) {
                usage.count(change, memory.options.meter);
            }
        }
        for (tenant, usage) in &after {
            quotas.check(tenant, before(tenant), *usage, growth == Growth::Large)?;
        }
        Ok(after)
    }

    fn current(&self, memory: &Memory, key: &Key) -> Option<Entry> {
        self.newest.get(key).cloned().unwrap_or_else(|| memory.get(key))
    }
}

fn growth_of(changes: &[Change]) -> Growth {
    let value = |entry: &Option<Entry>| entry.as_ref().map_or(0, |e| e.value.len());
    let creates = changes.iter().any(|change| change.before.is_none());
    let (before, now) =
        changes.iter().fold((0, 0), |(before, now), change| (before + value(&change.before), now + value(&change.now)));
    match now.saturating_sub(before) {
        _ if creates => Growth::Large,
        0 => Growth::None,
        1..=SMALL_GROWTH => Growth::Small,
        _ => Growth::Large,
    }
}

fn visible(versions: &Versions, at: Revision) -> Option<&Entry> {
    versions.iter().rev().find(|(revision, _)| *revision <= at).and_then(|(_, entry)| entry.as_ref())
}

impl Memory {
    pub fn new(options: Options, revision: Revision, entries: Vec<Entry>) -> Self {
        let mut usage: HashMap<Arc<str>, Usage> = HashMap::new();
        for entry in &entries {
            usage.entry(entry.key.tenant().into()).or_default().add(entry, options.meter);
        }
        let keys =
            entries.into_iter().map(|entry| (entry.key.clone(), vec![(entry.mod_revision, Some(entry))])).collect();
        Self {
            options,
            keys,
            revision,
            compacted: revision,
            pasts: HashMap::new(),
            past_bytes: 0,
            trimmed: Revision(0),
            usage,
            watchers: HashMap::new(),
            buffers: HashMap::new(),
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.keys.get(key)?.last()?.1.clone()
    }

    pub fn usage(&self, tenant: &str) -> Usage {
        self.usage.get(tenant).copied().unwrap_or_default()
    }

    /// What is older cannot be read under this prefix.
    fn oldest(&self, prefix: &Prefix) -> Revision {
        let lost = match prefix.of_tenant() {
            Some(tenant) => self.pasts.get(tenant).map_or(Revision(0), |past| past.oldest),
            None => self.trimmed,
        };
        self.compacted.max(lost)
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

    pub fn range(&self, prefix: &Prefix, options: &RangeOptions) -> Result<Listing, ReadError> {
        let oldest = self.oldest(prefix);
        let at = match options.revision {
            Some(revision) if revision < oldest => {
                return Err(ReadError::Compacted { requested: revision, oldest });
            }
            Some(revision) if revision > self.revision => return Err(ReadError::Future(revision)),
            Some(revision) => revision,
            None => self.revision,
        };
        let mut found = self.under(prefix, options.after.as_ref()).filter_map(|(_, versions)| visible(versions, at));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let entries: Vec<Entry> = found.by_ref().take(limit).cloned().collect();
        Ok(Listing { entries, revision: at, more: found.next().is_some() })
    }

    pub fn count(&self, prefix: &Prefix) -> usize {
        self.under(prefix, None)
            .filter(|(_, versions)| versions.last().is_some_and(|(_, entry)| entry.is_some()))
            .count()
    }

    /// Makes a durable batch visible and tells the watchers.
    pub fn publish(&mut self, batch: Batch) {
        self.revision = batch.revision;
        for (tenant, usage) in batch.usage {
            if usage == Usage::default() {
                self.usage.remove(&tenant);
            } else {
                self.usage.insert(tenant, usage);
            }
        }
        for change in batch.changes {
            let change = Arc::new(change);
            self.keys.entry(change.key.clone()).or_default().push((change.revision, change.now.clone()));
            self.notify(&change);
            self.remember(change);
        }
        while self.past_bytes > self.options.history_total_bytes {
            // Whoever has the longest past has made it too long.
            let longest = self.pasts.iter().max_by_key(|(_, past)| past.bytes);
            let Some((tenant, keep)) = longest.map(|(tenant, past)| (tenant.clone(), past.bytes / 4 * 3)) else {
                break;
            };
            self.forget_while(&tenant, |past| past.bytes > keep);
        }
    }

    fn remember(&mut self, change: Arc<Change>) {
        let tenant: Arc<str> = change.key.tenant().into();
        let bytes = changes::bytes_of(&change);
        let past = self.pasts.entry(tenant.clone()).or_default();
        past.bytes += bytes;
        past.changes.push_back(change);
        self.past_bytes += bytes;
        let (most, most_bytes) = (self.options.history_changes, self.options.history_bytes);
        self.forget_while(&tenant, |past| past.changes.len() > most || past.bytes > most_bytes);
    }

    fn notify(&mut self, change: &Arc<Change>) {
        let resource = format!("/{}/{}/", change.key.group(), change.key.plural());
        for bucket in [resource.as_str(), "/"] {
            let Some(watchers) = self.watchers.get_mut(bucket) else { continue };
            watchers.retain_mut(|watcher| {
                if watcher.prefix.contains(&change.key) { watcher.feed.send(change) } else { !watcher.feed.is_closed() }
            });
            if watchers.is_empty() {
                self.watchers.remove(bucket);
            }
        }
    }

    pub fn watch(&mut self, prefix: &Prefix, from: Revision) -> Result<Changes, ReadError> {
        let oldest = self.oldest(prefix);
        if from < oldest {
            return Err(ReadError::Compacted { requested: from, oldest });
        }
        if from > self.revision {
            return Err(ReadError::Future(from));
        }
        let after = |past: &Past| past.changes.partition_point(|change| change.revision <= from);
        let mut backlog: Vec<Arc<Change>> = match prefix.of_tenant() {
            Some(tenant) => self
                .pasts
                .get(tenant)
                .map(|past| past.changes.range(after(past)..))
                .into_iter()
                .flatten()
                .filter(|change| prefix.contains(&change.key))
                .cloned()
                .collect(),
            None => self
                .pasts
                .values()
                .flat_map(|past| past.changes.range(after(past)..))
                .filter(|change| prefix.contains(&change.key))
                .cloned()
                .collect(),
        };
        // One tenant's are in order already.
        backlog.sort_by_key(|change| change.revision);
        let (limits, buffer) = match prefix.of_tenant() {
            Some(tenant) => {
                self.buffers.retain(|_, buffer| Arc::strong_count(buffer) > 1);
                (self.options.tenant_watch, self.buffers.entry(tenant.into()).or_default().clone())
            }
            None => (self.options.infrastructure_watch, Arc::default()),
        };
        let Some((feed, changes)) = changes::channel(backlog, limits, buffer) else {
            // There is no room for so much of the past: the watcher has to list.
            return Err(ReadError::Compacted { requested: from, oldest: self.revision });
        };
        self.watchers.entry(bucket_of(prefix)).or_default().push(Watcher { prefix: prefix.clone(), feed });
        Ok(changes)
    }

    pub fn close_watchers(&mut self) {
        for watcher in self.watchers.drain().flat_map(|(_, watchers)| watchers) {
            watcher.feed.end(WatchError::Closed);
        }
    }

    pub fn compact(&mut self, revision: Revision) -> Result<(), ReadError> {
        if revision > self.revision {
            return Err(ReadError::Future(revision));
        }
        let tenants: Vec<_> = self.pasts.keys().cloned().collect();
        for tenant in tenants {
            self.forget_while(&tenant, |past| past.changes.front().is_some_and(|change| change.revision <= revision));
        }
        self.compacted = self.compacted.max(revision);
        Ok(())
    }

    /// Drops a tenant's oldest changes and the versions that they replaced.
    fn forget_while(&mut self, tenant: &str, too_much: impl Fn(&Past) -> bool) {
        let Some(past) = self.pasts.get_mut(tenant) else { return };
        while too_much(past) {
            let Some(change) = past.changes.pop_front() else { return };
            let bytes = changes::bytes_of(&change);
            past.bytes -= bytes;
            self.past_bytes -= bytes;
            past.oldest = past.oldest.max(change.revision);
            self.trimmed = self.trimmed.max(past.oldest);
            if let Some(versions) = self.keys.get_mut(&change.key) {
                let current = versions.partition_point(|(revision, _)| *revision <= past.oldest).saturating_sub(1);
                versions.drain(..current);
                if let [(_, None)] = versions.as_slice() {
                    self.keys.remove(&change.key);
                }
            }
        }
    }
}

/// `/<group>/<resource>/` of a prefix, or `/` for everything.
fn bucket_of(prefix: &Prefix) -> String {
    let mut parts = prefix.as_str().split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some(group), Some(resource)) if !resource.is_empty() => format!("/{group}/{resource}/"),
        _ => "/".into(),
    }
}

/// Lets a map of keys be searched by text.
impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}
