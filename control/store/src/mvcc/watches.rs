//! The watches that there are, found by what they cover: a change meets those that it concerns and no others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;

use super::changes::{self, Buffer, Changes, Feed, WatchLimits};
use crate::{Change, Entry, Prefix, Revision, WatchError};

#[derive(Default, Clone)]
pub(super) struct Watches(Arc<Mutex<Index>>);

#[derive(Default)]
struct Index {
    /// By the text of their prefix: a change's key has four.
    feeds: Feeds,
    /// Those of a part of what is under a prefix, by the index that it has there and the text of the prefix.
    indexed: Parts,
    /// Those of what has a name.
    named: Parts,
    begun: u64,
    /// What the watchers of a tenant have not read yet.
    buffers: HashMap<Arc<str>, Arc<Buffer>>,
}

type Feeds = HashMap<Box<str>, BTreeMap<u64, Feed>>;
type Parts = HashMap<Box<str>, Feeds>;

/// Which part of what is under a prefix a watch is told of: changes of the rest cost it nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<T> {
    /// What has this name, in whatever namespace and of whatever tenant.
    Named(T),
    /// What has, or had, this index ([`Values::index`](crate::Values::index)).
    Indexed(T),
}

impl<T: AsRef<str>> Part<T> {
    fn text(&self) -> &str {
        match self {
            Self::Named(text) | Self::Indexed(text) => text.as_ref(),
        }
    }

    pub(super) fn is_told(&self, change: &Change, index: fn(&Entry) -> Option<&str>) -> bool {
        match self {
            Self::Named(name) => change.key.name() == name.as_ref(),
            Self::Indexed(value) => change.entries().any(|entry| index(entry) == Some(value.as_ref())),
        }
    }
}

impl From<Part<&str>> for Part<Box<str>> {
    fn from(part: Part<&str>) -> Self {
        match part {
            Part::Named(text) => Self::Named(text.into()),
            Part::Indexed(text) => Self::Indexed(text.into()),
        }
    }
}

/// A watch's place, which is given back when it is dropped.
pub(super) struct Place {
    watches: Watches,
    prefix: Prefix,
    part: Option<Part<Box<str>>>,
    number: u64,
}

/// Tells those of one part.
fn tell_part(parts: &mut Parts, part: &str, change: &Arc<Change>) -> usize {
    let Some(feeds) = parts.get_mut(part) else { return 0 };
    let met = tell(feeds, change);
    if feeds.is_empty() {
        parts.remove(part);
    }
    met
}

/// Tells all of these that are at one of the prefixes; how many they are.
fn tell(feeds: &mut Feeds, change: &Arc<Change>) -> usize {
    let mut met = 0;
    for prefix in change.key.prefixes() {
        let Some(at) = feeds.get_mut(prefix) else { continue };
        met += at.len();
        at.retain(|_, feed| feed.send(change));
        if at.is_empty() {
            feeds.remove(prefix);
        }
    }
    met
}

impl Index {
    fn parts_of<T>(&mut self, part: &Part<T>) -> &mut Parts {
        match part {
            Part::Named(_) => &mut self.named,
            Part::Indexed(_) => &mut self.indexed,
        }
    }

    fn remove(&mut self, place: &Place) -> Option<Feed> {
        let feeds = match &place.part {
            None => &mut self.feeds,
            Some(part) => self.parts_of(part).get_mut(part.text())?,
        };
        let at = feeds.get_mut(place.prefix.as_str())?;
        let feed = at.remove(&place.number);
        if at.is_empty() {
            feeds.remove(place.prefix.as_str());
        }
        if let Some(part) = place.part.as_ref().filter(|_| feeds.is_empty()) {
            self.parts_of(part).remove(part.text());
        }
        feed
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut index = self.watches.0.lock();
        drop(index.remove(self));
        if let Some(tenant) = self.prefix.of_tenant()
            && index.buffers.get(tenant).is_some_and(|buffer| Arc::strong_count(buffer) == 1)
        {
            index.buffers.remove(tenant);
        }
    }
}

impl Watches {
    /// A watch that begins with `backlog` and is told of what comes after `from`, or of that part of it; none when that is too
    /// much already.
    pub fn begin(
        &self,
        prefix: &Prefix,
        part: Option<Part<&str>>,
        backlog: Vec<Arc<Change>>,
        from: Revision,
        limits: WatchLimits,
    ) -> Option<Changes> {
        let mut index = self.0.lock();
        let buffer = match prefix.of_tenant() {
            Some(tenant) => index.buffers.entry(tenant.into()).or_default().clone(),
            None => Arc::default(),
        };
        index.begun += 1;
        let number = index.begun;
        let place = Place { watches: self.clone(), prefix: prefix.clone(), part: part.map(Into::into), number };
        let (feed, changes) = match changes::channel(backlog, from, limits, buffer, place) {
            Ok(both) => both,
            Err(place) => {
                drop(index);
                drop(place);
                return None;
            }
        };
        let feeds = match &part {
            None => &mut index.feeds,
            Some(part) => index.parts_of(part).entry(part.text().into()).or_default(),
        };
        feeds.entry(prefix.as_str().into()).or_default().insert(number, feed);
        Some(changes)
    }

    /// How many watches it meets. `index` says which part an entry is of; a change can be of two.
    pub fn tell(&self, change: &Arc<Change>, index: fn(&Entry) -> Option<&str>) -> usize {
        // Finding out which part takes time in which nobody should wait for the lock.
        let in_parts = !self.0.lock().indexed.is_empty();
        let [before, now] =
            [&change.before, &change.now].map(|entry| entry.as_ref().filter(|_| in_parts).and_then(index));
        let mut watches = self.0.lock();
        let mut met = tell(&mut watches.feeds, change) + tell_part(&mut watches.named, change.key.name(), change);
        for part in [before, now.filter(|now| before != Some(*now))].into_iter().flatten() {
            met += tell_part(&mut watches.indexed, part, change);
        }
        met
    }

    /// Ends all that there are.
    pub fn end(&self, why: &WatchError) {
        let (feeds, indexed, named) = {
            let index = &mut *self.0.lock();
            (std::mem::take(&mut index.feeds), std::mem::take(&mut index.indexed), std::mem::take(&mut index.named))
        };
        for feed in indexed
            .into_values()
            .chain(named.into_values())
            .chain([feeds])
            .flatten()
            .flat_map(|(_, at)| at.into_values())
        {
            feed.end(why.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hypernetes_api::{AllTenants, ResourceId, TenantId};

    use super::*;
    use crate::Key;

    /// What the value says is where it is.
    fn index(entry: &Entry) -> Option<&str> {
        std::str::from_utf8(&entry.value).ok()
    }

    struct Told {
        watches: Watches,
        revision: Revision,
    }

    impl Told {
        fn watch(&self, prefix: &Prefix, part: Option<Part<&str>>) -> Changes {
            let limits = WatchLimits { bytes: 1 << 20, tenant_bytes: 1 << 20 };
            self.watches.begin(prefix, part, Vec::new(), self.revision, limits).unwrap()
        }

        /// How many watches a change meets.
        fn met(&mut self, tenant: &str, name: &str, before: Option<&str>, now: Option<&str>) -> usize {
            self.revision.0 += 1;
            let key = Key::new(&pods(), &tenant.parse().unwrap(), "default", name).unwrap();
            let entry = |text: Option<&str>| {
                let value = Bytes::copy_from_slice(text?.as_bytes());
                Some(Entry::outside(key.clone(), value, self.revision, self.revision))
            };
            let change = Change::new(self.revision, key.clone(), entry(now), entry(before));
            self.watches.tell(&Arc::new(change), index)
        }
    }

    fn pods() -> ResourceId {
        ResourceId::new("", "pods")
    }

    #[test]
    fn a_change_meets_those_that_it_concerns() {
        let mut told = Told { watches: Watches::default(), revision: Revision(1) };
        let of =
            |tenant: &str, namespace| Prefix::tenant(&pods(), &tenant.parse::<TenantId>().unwrap(), namespace).unwrap();
        let all = Prefix::all_tenants(&pods(), &AllTenants::grant());
        let nodes: Vec<String> = (0..1000).map(|node| format!("node-{node}")).collect();
        let mut watches: Vec<Changes> = nodes.iter().map(|node| told.watch(&all, Some(Part::Indexed(node)))).collect();
        for tenant in 0..100 {
            watches.push(told.watch(&of(&format!("tenant-{tenant}"), None), None));
            watches.push(told.watch(&of(&format!("tenant-{tenant}"), Some("other")), None));
        }
        // Its tenant's, and nobody else's; with a node also that one's.
        assert_eq!(told.met("tenant-7", "a", None, Some("")), 1);
        assert_eq!(told.met("tenant-7", "a", Some(""), Some("node-3")), 2);
        assert_eq!(told.met("tenant-7", "a", Some("node-3"), Some("node-3")), 2);
        // What moves concerns both; what has gone, where it was.
        assert_eq!(told.met("tenant-7", "a", Some("node-3"), Some("node-4")), 3);
        assert_eq!(told.met("tenant-7", "a", Some("node-4"), None), 2);
        assert_eq!(told.met("nobody", "a", None, Some("nowhere")), 0);
        let mut told_of = |node: usize| {
            let changes = &mut watches[node];
            std::iter::from_fn(|| changes.try_recv().unwrap()).map(|change| change.revision.0).collect::<Vec<_>>()
        };
        assert_eq!((told_of(3), told_of(4), told_of(5)), (vec![3, 4, 5], vec![5, 6], vec![]));
        // A name is a part of its own, that is no index and begins no other name.
        watches.push(told.watch(&all, Some(Part::Named("node-3"))));
        watches.push(told.watch(&of("tenant-7", None), Some(Part::Named("b"))));
        assert_eq!(told.met("tenant-7", "a", None, Some("")), 1);
        assert_eq!(told.met("tenant-7", "b", None, Some("")), 2);
        assert_eq!(told.met("tenant-8", "b", None, Some("")), 1);
        assert_eq!(told.met("tenant-8", "node-3", None, Some("")), 2);
        assert_eq!(told.met("tenant-8", "node-33", None, Some("node-3")), 2);
        // Nothing is left of those that have ended.
        drop(watches);
        let index = told.watches.0.lock();
        assert!(
            index.feeds.is_empty() && index.indexed.is_empty() && index.named.is_empty() && index.buffers.is_empty()
        );
    }
}
