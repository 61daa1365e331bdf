//! A watched copy of all objects of one kind, with indexes, that sees its own process's writes at once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use futures::StreamExt;
use hypernetes_api::TenantId;
use hypernetes_client::shared::{self, Which};
use kube::{Client, ResourceExt, runtime::watcher};
use parking_lot::RwLock;
use tokio::sync::watch;

/// Objects by name, and by the keys that `index` derives from them.
pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    index: fn(&K) -> Vec<String>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: HashMap<String, Arc<K>>,
    index: HashMap<String, BTreeSet<String>>,
    /// Deleted by this process: the version up to which news of the object are old. Until the watch tells of it.
    deleted: HashMap<String, u64>,
    /// While a list is read: the names that are in it, or were written meanwhile.
    listed: Option<HashSet<String>>,
}

impl<K> Cache<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    pub fn new(index: fn(&K) -> Vec<String>) -> Self {
        let state = State { objects: HashMap::new(), index: HashMap::new(), deleted: HashMap::new(), listed: None };
        Self { state: RwLock::new(state), index, synced: watch::Sender::new(false) }
    }

    /// Follows the API server, by a client of the system's cluster, until the future is dropped. What is not of the kind's form stays as
    /// it was last told.
    pub async fn follow(&self, client: Client) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let which = Which { tenant: Some(TenantId::system()), ..Which::default() };
        let mut events = std::pin::pin!(shared::follow::<K>(client, &(), which));
        while let Some(event) = events.next().await {
            let of = |item: shared::Item<K>| item.object.ok();
            let event = match event {
                Ok(Init) => Some(Init),
                Ok(InitApply(item)) => of(item).map(InitApply),
                Ok(InitDone) => Some(InitDone),
                Ok(Apply(item)) => of(item).map(Apply),
                Ok(Delete(item)) => of(item).map(Delete),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watching identity objects");
                    None
                }
            };
            event.into_iter().for_each(|event| self.event(event));
        }
    }

    /// Waits until the first list has been read.
    pub async fn synced(&self) {
        // The sender is `self`'s own, and so lives.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.state.read().objects.get(name).cloned()
    }

    /// In the order of their names.
    pub fn find(&self, key: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let names = state.index.get(key).into_iter().flatten();
        names.filter_map(|name| state.objects.get(name).cloned()).collect()
    }

    /// In the order of their names.
    pub fn all(&self) -> Vec<Arc<K>> {
        let mut all: Vec<_> = self.state.read().objects.values().cloned().collect();
        all.sort_by_key(|object| object.name_any());
        all
    }

    /// Takes what this process has just written, unless something newer is known.
    pub fn apply(&self, mut object: K) -> Arc<K> {
        shared::tidy(object.meta_mut());
        self.take(Arc::new(object))
    }

    fn take(&self, new: Arc<K>) -> Arc<K> {
        let mut state = self.state.write();
        let name = new.name_any();
        if let Some(listed) = &mut state.listed {
            listed.insert(name.clone());
        }
        let old_news = state.deleted.get(&name).is_some_and(|deleted| version(&*new) <= *deleted);
        if old_news || state.objects.get(&name).is_some_and(|known| version(&**known) > version(&*new)) {
            return new;
        }
        state.remove(&name, self.index);
        for key in (self.index)(&new) {
            state.index.entry(key).or_default().insert(name.clone());
        }
        state.objects.insert(name, Arc::clone(&new));
        new
    }

    /// Forgets what this process has just deleted.
    pub fn forget(&self, name: &str) {
        let mut state = self.state.write();
        if let Some(known) = state.remove(name, self.index) {
            state.deleted.insert(name.to_owned(), version(&*known));
        }
    }

    fn event(&self, event: watcher::Event<Arc<K>>) {
        match event {
            watcher::Event::Init => self.state.write().listed = Some(HashSet::new()),
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                self.take(object);
            }
            // As it was last.
            watcher::Event::Delete(object) => {
                let mut state = self.state.write();
                let name = object.name_any();
                state.deleted.remove(&name);
                if state.objects.get(&name).is_some_and(|known| version(&**known) <= version(&*object)) {
                    state.remove(&name, self.index);
                }
            }
            watcher::Event::InitDone => {
                let mut state = self.state.write();
                let listed = state.listed.take().unwrap_or_default();
                let gone: Vec<String> = state.objects.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                for name in gone {
                    state.remove(&name, self.index);
                }
                state.deleted.clear();
                self.synced.send_replace(true);
            }
        }
    }
}

impl<K> State<K> {
    fn remove(&mut self, name: &str, index: fn(&K) -> Vec<String>) -> Option<Arc<K>> {
        let known = self.objects.remove(name)?;
        for key in index(&known) {
            if let Some(names) = self.index.get_mut(&key) {
                names.remove(name);
                if names.is_empty() {
                    self.index.remove(&key);
                }
            }
        }
        Some(known)
    }
}

/// The revision of the store at which the object was written. Kubernetes promises since 1.35 that versions of one
/// resource can be compared as numbers.
fn version<K: kube::Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use hypernetes_api::types::identity::{Domain, DomainSpec};

    use super::*;

    fn domain(name: &str, label: &str, version: u64) -> Domain {
        let mut domain = Domain::new(name, DomainSpec { display_name: label.into(), ..DomainSpec::default() });
        domain.metadata.resource_version = Some(version.to_string());
        domain
    }

    fn cache() -> Cache<Domain> {
        Cache::new(|d| vec![d.spec.display_name.clone()])
    }

    #[test]
    fn the_index_follows_changes() {
        let cache = cache();
        cache.apply(domain("a", "one", 1));
        cache.apply(domain("a", "two", 2));
        assert!(cache.find("one").is_empty());
        assert_eq!(cache.find("two").len(), 1);
        cache.forget("a");
        assert!(cache.find("two").is_empty() && cache.get("a").is_none());
    }

    #[test]
    fn a_late_watch_does_not_undo_own_writes() {
        let cache = cache();
        cache.apply(domain("a", "new", 5));
        cache.event(watcher::Event::Apply(Arc::new(domain("a", "old", 4))));
        assert_eq!(cache.get("a").unwrap().spec.display_name, "new");
        cache.forget("a");
        cache.event(watcher::Event::Apply(Arc::new(domain("a", "new", 5))));
        assert!(cache.get("a").is_none(), "news from before the deletion");
        cache.event(watcher::Event::Delete(Arc::new(domain("a", "new", 6))));
        cache.event(watcher::Event::Apply(Arc::new(domain("a", "again", 7))));
        assert!(cache.get("a").is_some(), "made again after the deletion");
    }

    #[test]
    fn a_new_list_drops_what_is_gone_but_not_what_was_just_written() {
        let cache = cache();
        cache.apply(domain("gone", "x", 1));
        cache.event(watcher::Event::Init);
        cache.event(watcher::Event::InitApply(Arc::new(domain("kept", "x", 2))));
        cache.apply(domain("written", "x", 9));
        cache.event(watcher::Event::InitDone);
        let names: Vec<String> = cache.all().iter().map(|d| d.name_any()).collect();
        assert_eq!(names, ["kept", "written"]);
    }
}
