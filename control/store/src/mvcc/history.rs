//! The recent past: each tenant's own, so that nobody's changes push out another's.
//!
//! A tenant's changes are kept for [`AGE`], and within its own limits of number and bytes; what is over goes, the oldest first.
//! What has gone is known by tenant and resource: a watch of pods goes on although a flood of events has pushed out events.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Options, changes};
use crate::{Change, Key, Prefix, ReadError, Revision};

/// As long as upstream has etcd keep the past.
const AGE: Duration = Duration::from_secs(300);
/// How often tenants that write nothing are looked at for what has become too old.
const SWEEP: Duration = Duration::from_secs(60);

pub(super) struct History {
    most_changes: usize,
    most_bytes: usize,
    most_total_bytes: usize,
    tenants: HashMap<Arc<str>, Past>,
    bytes: usize,
    /// What is older has never been here, or was forgotten for everyone.
    floor: Revision,
    /// The newest change of a resource (`/<group>/<plural>/`) that was forgotten, whoever's.
    forgotten: HashMap<Box<str>, Revision>,
    /// Keys some of whose versions are of no use any more.
    loose: Vec<Key>,
    swept: Instant,
}

#[derive(Default)]
struct Past {
    changes: VecDeque<(Instant, Change)>,
    bytes: usize,
    /// By resource: its newest change that was forgotten.
    forgotten: HashMap<Box<str>, Revision>,
}

impl History {
    /// From `floor` on.
    pub fn new(options: &Options, floor: Revision) -> Self {
        Self {
            most_changes: options.history_changes,
            most_bytes: options.history_bytes,
            most_total_bytes: options.history_total_bytes,
            tenants: HashMap::new(),
            bytes: 0,
            floor,
            forgotten: HashMap::new(),
            loose: Vec::new(),
            swept: Instant::now(),
        }
    }

    pub fn push(&mut self, change: Change) {
        let tenant = change.key.tenant();
        let bytes = changes::bytes_of(&change);
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.into(), Past::default());
        }
        let Some(past) = self.tenants.get_mut(tenant) else { return };
        let now = Instant::now();
        let key = change.key.clone();
        past.changes.push_back((now, change));
        past.bytes += bytes;
        self.bytes += bytes;
        let (most, most_bytes) = (self.most_changes, self.most_bytes);
        self.forget_while(key.tenant(), |past| {
            past.changes.len() > most || past.bytes > most_bytes || past.is_old(now)
        });
    }

    /// Forgets what is too much of all together, and what has become too old. The keys that have versions of no use any
    /// more.
    pub fn trim(&mut self) -> Vec<Key> {
        while self.bytes > self.most_total_bytes {
            // Whoever has the longest past has made it too long.
            let longest = self.tenants.iter().max_by_key(|(_, past)| past.bytes);
            let Some((tenant, keep)) = longest.map(|(tenant, past)| (tenant.clone(), past.bytes / 4 * 3)) else {
                break;
            };
            self.forget_while(&tenant, |past| past.bytes > keep);
        }
        if self.swept.elapsed() > SWEEP {
            self.swept = Instant::now();
            let now = self.swept;
            let old = |past: &Past| past.is_old(now);
            let tenants: Vec<_> =
                self.tenants.iter().filter(|(_, past)| old(past)).map(|(tenant, _)| tenant.clone()).collect();
            for tenant in tenants {
                self.forget_while(&tenant, old);
            }
        }
        std::mem::take(&mut self.loose)
    }

    /// Forgets everything until `revision`. The keys that have versions of no use any more.
    pub fn compact(&mut self, revision: Revision) -> Vec<Key> {
        self.floor = self.floor.max(revision);
        let tenants: Vec<_> = self.tenants.keys().cloned().collect();
        for tenant in tenants {
            self.forget_while(&tenant, |past| past.changes.front().is_some_and(|(_, c)| c.revision <= revision));
        }
        std::mem::take(&mut self.loose)
    }

    fn forget_while(&mut self, tenant: &str, too_much: impl Fn(&Past) -> bool) {
        let Some(past) = self.tenants.get_mut(tenant) else { return };
        while too_much(past) {
            let Some((_, change)) = past.changes.pop_front() else { return };
            let bytes = changes::bytes_of(&change);
            past.bytes -= bytes;
            self.bytes -= bytes;
            for forgotten in [&mut past.forgotten, &mut self.forgotten] {
                let resource = change.key.resource();
                match forgotten.get_mut(resource) {
                    Some(newest) => *newest = (*newest).max(change.revision),
                    None => drop(forgotten.insert(resource.into(), change.revision)),
                }
            }
            self.loose.push(change.key.clone());
        }
    }

    /// The newest revision under a prefix of which something was forgotten: from there on everything is here.
    fn oldest(&self, prefix: &Prefix) -> Revision {
        let of = |forgotten: &HashMap<Box<str>, Revision>| match prefix.resource() {
            Some(resource) => forgotten.get(resource).copied(),
            None => forgotten.values().max().copied(),
        };
        let forgotten = match prefix.of_tenant() {
            Some(tenant) => self.tenants.get(tenant).and_then(|past| of(&past.forgotten)),
            None => of(&self.forgotten),
        };
        self.floor.max(forgotten.unwrap_or_default())
    }

    /// The newest revision of which versions of this key may have been forgotten.
    pub fn oldest_of(&self, key: &Key) -> Revision {
        let past = self.tenants.get(key.tenant());
        let forgotten = past.and_then(|past| past.forgotten.get(key.resource())).copied();
        self.floor.max(forgotten.unwrap_or_default())
    }

    /// # Errors
    /// When what was there at that revision is not known any more.
    pub fn keeps(&self, prefix: &Prefix, revision: Revision) -> Result<Revision, ReadError> {
        let oldest = self.oldest(prefix);
        if revision < oldest { Err(ReadError::Compacted { requested: revision, oldest }) } else { Ok(revision) }
    }

    /// All changes under a prefix after a revision.
    ///
    /// # Errors
    /// When some were forgotten.
    pub fn since(&self, prefix: &Prefix, from: Revision) -> Result<Vec<&Change>, ReadError> {
        self.keeps(prefix, from)?;
        Ok(match prefix.of_tenant() {
            Some(tenant) => self.tenants.get(tenant).map(|past| past.since(prefix, from).collect()).unwrap_or_default(),
            None => {
                let mut all: Vec<_> = self.tenants.values().flat_map(|past| past.since(prefix, from)).collect();
                all.sort_by_key(|change| change.revision);
                all
            }
        })
    }
}

impl Past {
    fn since(&self, prefix: &Prefix, from: Revision) -> impl Iterator<Item = &Change> {
        let first = self.changes.partition_point(|(_, change)| change.revision <= from);
        self.changes.range(first..).map(|(_, change)| change).filter(|change| prefix.contains(&change.key))
    }

    fn is_old(&self, now: Instant) -> bool {
        self.changes.front().is_some_and(|(when, _)| now.duration_since(*when) > AGE)
    }
}
