//! What is read: the newest version of every key, the recent past, and the watchers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use tokio::sync::mpsc::{self, OwnedPermit, Sender};

use super::Options;
use crate::{
    Change, Changes, Entry, Guard, Key, Listing, Op, Prefix, RangeOptions, ReadError, Revision, Txn, TxnError,
    WatchError,
};

/// Versions of one key, oldest first; `None` is a deletion. Never empty.
type Versions = Vec<(Revision, Option<Entry>)>;

pub(super) struct Memory {
    options: Options,
    keys: BTreeMap<Key, Versions>,
    revision: Revision,
    /// Reads and watches from before this revision are refused.
    oldest: Revision,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// By the `/<group>/<resource>/` they watch, so that a change meets only watchers of its resource.
    watchers: HashMap<String, Vec<Watcher>>,
}

struct Watcher {
    prefix: Prefix,
    changes: Sender<Result<Arc<Change>, WatchError>>,
    /// A place kept free to say why the watch ends.
    last_word: Option<OwnedPermit<Result<Arc<Change>, WatchError>>>,
}

/// Transactions that become durable together.
pub(super) struct Batch {
    revision: Revision,
    changes: Vec<Change>,
    newest: HashMap<Key, Option<Entry>>,
}

impl Batch {
    pub fn new(revision: Revision) -> Self {
        Self { revision, changes: Vec::new(), newest: HashMap::new() }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What each key will be.
    pub fn newest(&self) -> impl Iterator<Item = (&Key, Option<&Entry>)> {
        self.newest.iter().map(|(key, now)| (key, now.as_ref()))
    }

    /// Checks the guards against `memory` with the batch's earlier transactions, and takes the transaction in.
    pub fn add(&mut self, memory: &Memory, txn: Txn) -> Result<Revision, TxnError> {
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
        let before_ops = self.changes.len();
        for op in txn.ops {
            let (key, value) = match op {
                Op::Put(key, value) => (key, Some(value)),
                Op::Delete(key) => (key, None),
            };
            let before = self.current(memory, &key);
            if value.is_none() && before.is_none() {
                continue;
            }
            let create_revision = before.as_ref().map_or(revision, |entry| entry.create_revision);
            let now = value.map(|value| Entry { key: key.clone(), value, create_revision, mod_revision: revision });
            self.newest.insert(key.clone(), now.clone());
            self.changes.push(Change { revision, key, now, before });
        }
        if self.changes.len() > before_ops {
            self.revision = revision;
        }
        Ok(self.revision)
    }

    fn current(&self, memory: &Memory, key: &Key) -> Option<Entry> {
        self.newest.get(key).cloned().unwrap_or_else(|| memory.get(key))
    }
}

fn bytes_of(change: &Change) -> usize {
    let value = |entry: &Option<Entry>| entry.as_ref().map_or(0, |e| e.value.len());
    value(&change.now) + 200
}

fn visible(versions: &Versions, at: Revision) -> Option<&Entry> {
    versions.iter().rev().find(|(revision, _)| *revision <= at).and_then(|(_, entry)| entry.as_ref())
}

impl Memory {
    pub fn new(options: Options, revision: Revision, entries: Vec<Entry>) -> Self {
        let keys =
            entries.into_iter().map(|entry| (entry.key.clone(), vec![(entry.mod_revision, Some(entry))])).collect();
        Self {
            options,
            keys,
            revision,
            oldest: revision,
            history: VecDeque::new(),
            history_bytes: 0,
            watchers: HashMap::new(),
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.keys.get(key)?.last()?.1.clone()
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
        let at = match options.revision {
            Some(revision) if revision < self.oldest => {
                return Err(ReadError::Compacted { requested: revision, oldest: self.oldest });
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
        for change in batch.changes {
            let change = Arc::new(change);
            self.keys.entry(change.key.clone()).or_default().push((change.revision, change.now.clone()));
            self.history_bytes += bytes_of(&change);
            self.notify(&change);
            self.history.push_back(change);
        }
        while self.history.len() > self.options.history_changes || self.history_bytes > self.options.history_bytes {
            self.forget_oldest();
        }
    }

    fn notify(&mut self, change: &Arc<Change>) {
        let resource = format!("/{}/{}/", change.key.group(), change.key.plural());
        for bucket in [resource.as_str(), "/"] {
            let Some(watchers) = self.watchers.get_mut(bucket) else { continue };
            watchers.retain_mut(|watcher| {
                if !watcher.prefix.contains(&change.key) {
                    return !watcher.changes.is_closed();
                }
                match watcher.changes.try_send(Ok(change.clone())) {
                    Ok(()) => true,
                    Err(mpsc::error::TrySendError::Closed(_)) => false,
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        if let Some(last_word) = watcher.last_word.take() {
                            last_word.send(Err(WatchError::Lagged));
                        }
                        false
                    }
                }
            });
            if watchers.is_empty() {
                self.watchers.remove(bucket);
            }
        }
    }

    pub fn watch(&mut self, prefix: &Prefix, from: Revision) -> Result<Changes, ReadError> {
        if from < self.oldest {
            return Err(ReadError::Compacted { requested: from, oldest: self.oldest });
        }
        if from > self.revision {
            return Err(ReadError::Future(from));
        }
        let start = self.history.partition_point(|change| change.revision <= from);
        let backlog: Vec<_> =
            self.history.range(start..).filter(|change| prefix.contains(&change.key)).cloned().collect();
        let (changes, receiver) = mpsc::channel(backlog.len() + self.options.watch_buffer + 1);
        let last_word = changes.clone().try_reserve_owned().ok();
        for change in backlog {
            // The capacity was chosen so that this has room.
            let _ = changes.try_send(Ok(change));
        }
        let bucket = bucket_of(prefix);
        self.watchers.entry(bucket).or_default().push(Watcher { prefix: prefix.clone(), changes, last_word });
        Ok(receiver)
    }

    pub fn close_watchers(&mut self) {
        for watcher in self.watchers.drain().flat_map(|(_, watchers)| watchers) {
            if let Some(last_word) = watcher.last_word {
                last_word.send(Err(WatchError::Closed));
            }
        }
    }

    pub fn compact(&mut self, revision: Revision) -> Result<(), ReadError> {
        if revision > self.revision {
            return Err(ReadError::Future(revision));
        }
        while self.history.front().is_some_and(|change| change.revision <= revision) {
            self.forget_oldest();
        }
        self.oldest = self.oldest.max(revision);
        Ok(())
    }

    /// Drops the oldest change and the version that it replaced.
    fn forget_oldest(&mut self) {
        let Some(change) = self.history.pop_front() else { return };
        self.history_bytes -= bytes_of(&change);
        self.oldest = self.oldest.max(change.revision);
        if let Some(versions) = self.keys.get_mut(&change.key) {
            let current = versions.partition_point(|(revision, _)| *revision <= self.oldest).saturating_sub(1);
            versions.drain(..current);
            if let [(_, None)] = versions.as_slice() {
                self.keys.remove(&change.key);
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
