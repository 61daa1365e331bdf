//! The watches that there are, found by what they cover: a change meets those that it concerns and no others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;

use super::changes::{self, Buffer, Changes, Feed, WatchLimits};
use crate::{Change, Prefix, Revision, WatchError};

#[derive(Default, Clone)]
pub(super) struct Watches(Arc<Mutex<Index>>);

#[derive(Default)]
struct Index {
    /// By the text of their prefix: a change's key has four.
    feeds: HashMap<Box<str>, BTreeMap<u64, Feed>>,
    begun: u64,
    /// What the watchers of a tenant have not read yet.
    buffers: HashMap<Arc<str>, Arc<Buffer>>,
}

/// A watch's place, which is given back when it is dropped.
pub(super) struct Place {
    watches: Watches,
    prefix: Prefix,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut index = self.watches.0.lock();
        if let Some(feeds) = index.feeds.get_mut(self.prefix.as_str()) {
            let feed = feeds.remove(&self.number);
            if feeds.is_empty() {
                index.feeds.remove(self.prefix.as_str());
            }
            drop(feed);
        }
        if let Some(tenant) = self.prefix.of_tenant()
            && index.buffers.get(tenant).is_some_and(|buffer| Arc::strong_count(buffer) == 1)
        {
            index.buffers.remove(tenant);
        }
    }
}

impl Watches {
    /// A watch that begins with `backlog` and is told of what comes after `from`; none when that is too much already.
    pub fn begin(
        &self,
        prefix: &Prefix,
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
        let place = Place { watches: self.clone(), prefix: prefix.clone(), number: index.begun };
        let number = index.begun;
        let (feed, changes) = match changes::channel(backlog, from, limits, buffer, place) {
            Ok(both) => both,
            Err(place) => {
                drop(index);
                drop(place);
                return None;
            }
        };
        index.feeds.entry(prefix.as_str().into()).or_default().insert(number, feed);
        Some(changes)
    }

    pub fn tell(&self, change: &Arc<Change>) {
        let mut index = self.0.lock();
        for prefix in change.key.prefixes() {
            let Some(feeds) = index.feeds.get_mut(prefix) else { continue };
            feeds.retain(|_, feed| feed.send(change));
            if feeds.is_empty() {
                index.feeds.remove(prefix);
            }
        }
    }

    /// Ends all that there are.
    pub fn end(&self, why: &WatchError) {
        let feeds = std::mem::take(&mut self.0.lock().feeds);
        for feed in feeds.into_values().flat_map(BTreeMap::into_values) {
            feed.end(why.clone());
        }
    }
}
