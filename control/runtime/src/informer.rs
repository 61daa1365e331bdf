//! Shared caches: the objects of one kind of all tenants, as the watch shows them and as our own writes left them. Of an API
//! server in the same process they are its own cache's, parsed once for all caches of the kind.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::{self, Debug},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::StreamExt;
use hypernetes_api::{AllTenants, TenantId};
use hypernetes_client::{
    Clients,
    shared::{self, Item},
};
use kube::{Client, Resource, ResourceExt, runtime::watcher};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    election::Term,
    guard,
    queue::{Queue, Tenanted},
};

/// A kind that can be cached.
pub trait Object: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static {}
impl<K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static> Object for K {}

/// Which object of a kind, of whom. Ordered so that a tenant's, and a namespace's, are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub tenant: TenantId,
    /// Empty for what is in no namespace.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(tenant: &TenantId, namespace: &str, name: &str) -> Self {
        Self { tenant: tenant.clone(), namespace: namespace.into(), name: name.into() }
    }

    /// Another object of the same tenant and namespace.
    pub fn sibling(&self, name: &str) -> Self {
        Self::new(&self.tenant, &self.namespace, name)
    }
}

impl Tenanted for Key {
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.namespace, self.name)
    }
}

/// Told of each change: the key, the object before, and the object now. Must not block.
type Handler<K> = Arc<dyn Fn(&Key, Option<&K>, Option<&K>) + Send + Sync>;

/// A handler that panics on one tenant's object has not been told of it; the watch goes on for all.
fn tell<K: Object>(handler: &Handler<K>, key: &Key, before: Option<&K>, now: Option<&K>) {
    if guard::call(|| handler(key, before, now)).is_err() {
        tracing::error!(kind = %K::kind(&()), %key, "a handler of changes failed");
    }
}

/// An object by the uid of whoever manages it; without one it is nobody's. Ordered so that an owner's are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Controlled {
    tenant: TenantId,
    namespace: String,
    controller: Option<String>,
    name: String,
}

impl Controlled {
    fn of<K: Resource>(key: &Key, object: &K) -> Self {
        let mut owners = object.meta().owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone());
        Self { tenant: key.tenant.clone(), namespace: key.namespace.clone(), controller, name: key.name.clone() }
    }
}

/// What is known of a kind.
struct Objects<K> {
    all: BTreeMap<Key, Arc<K>>,
    /// All of them, once somebody has asked for an owner's.
    controlled: Option<BTreeSet<Controlled>>,
}

impl<K: Resource> Objects<K> {
    fn insert(&mut self, key: &Key, object: Arc<K>) -> Option<Arc<K>> {
        let of = self.controlled.is_some().then(|| Controlled::of(key, &*object));
        let before = self.all.insert(key.clone(), object);
        if let (Some(controlled), Some(of)) = (&mut self.controlled, of) {
            if let Some(before) = &before {
                controlled.remove(&Controlled::of(key, &**before));
            }
            controlled.insert(of);
        }
        before
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let gone = self.all.remove(key)?;
        if let Some(controlled) = &mut self.controlled {
            controlled.remove(&Controlled::of(key, &*gone));
        }
        Some(gone)
    }

    fn index(&mut self) {
        let all = &self.all;
        self.controlled.get_or_insert_with(|| all.iter().map(|(key, object)| Controlled::of(key, &**object)).collect());
    }

    /// Those beside this one; none before there is the index.
    fn controlled_by(&self, from: &Controlled) -> Option<Vec<Arc<K>>> {
        let within = |one: &&Controlled| {
            (&one.tenant, &one.namespace, &one.controller) == (&from.tenant, &from.namespace, &from.controller)
        };
        let found = self.controlled.as_ref()?.range(from..).take_while(within);
        Some(found.filter_map(|one| self.all.get(&Key::new(&one.tenant, &one.namespace, &one.name)).cloned()).collect())
    }
}

/// The cache of one kind.
pub struct Informer<K> {
    objects: RwLock<Objects<K>>,
    /// Up to which revision the watch has told everything.
    seen: AtomicU64,
    /// Each with when it ends.
    handlers: RwLock<Vec<(CancellationToken, Handler<K>)>>,
    synced: watch::Sender<bool>,
}

fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl<K: Object> Informer<K> {
    fn new() -> Self {
        Self {
            objects: RwLock::new(Objects { all: BTreeMap::new(), controlled: None }),
            seen: AtomicU64::new(0),
            handlers: RwLock::default(),
            synced: watch::Sender::new(false),
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.read().all.get(key).cloned()
    }

    /// Those of a tenant's namespace that the object with this uid manages, or that nothing does. It costs what there are of them,
    /// whatever else there is.
    pub fn controlled_by(&self, tenant: &TenantId, namespace: &str, uid: Option<&str>) -> Vec<Arc<K>> {
        let from = Controlled {
            tenant: tenant.clone(),
            namespace: namespace.into(),
            controller: uid.map(str::to_owned),
            name: String::new(),
        };
        if let Some(found) = self.objects.read().controlled_by(&from) {
            return found;
        }
        let mut objects = self.objects.write();
        objects.index();
        objects.controlled_by(&from).unwrap_or_default()
    }

    /// All of a tenant's namespace; of a kind without namespaces, all of the tenant's with the namespace `""`.
    pub fn list(&self, tenant: &TenantId, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let from = Key::new(tenant, namespace, "");
        let within = |key: &&Key| key.tenant == *tenant && key.namespace == namespace;
        objects.all.range(from..).take_while(|(key, _)| within(key)).map(|(_, object)| object.clone()).collect()
    }

    /// All of a tenant's, in whatever namespace.
    pub fn list_tenant(&self, tenant: &TenantId) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let from = Key::new(tenant, "", "");
        let mine = objects.all.range(from..).take_while(|(key, _)| key.tenant == *tenant);
        mine.map(|(_, object)| object.clone()).collect()
    }

    /// All of all tenants.
    pub fn all(&self) -> Vec<(Key, Arc<K>)> {
        self.objects.read().all.iter().map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// Takes in what a write of our own answered, so that the next look sees it before the watch says so.
    pub fn observe(&self, tenant: &TenantId, mut object: K) {
        shared::tidy(object.meta_mut());
        let key = Key::new(tenant, &object.namespace().unwrap_or_default(), &object.name_any());
        self.apply(&key, Arc::new(object), true);
    }

    fn subscribe(&self, handler: Handler<K>, until: CancellationToken) {
        {
            let mut handlers = self.handlers.write();
            handlers.retain(|(until, _)| !until.is_cancelled());
            handlers.push((until, handler.clone()));
        }
        for (key, object) in self.all() {
            tell(&handler, &key, None, Some(&object));
        }
    }

    fn changed(&self, key: &Key, before: Option<&K>, now: Option<&K>) {
        let handlers = self.handlers.read().clone();
        for (_, handler) in handlers.iter().filter(|(until, _)| !until.is_cancelled()) {
            tell(handler, key, before, now);
        }
    }

    /// `own`: the answer to a write, which the watch may be past already.
    fn apply(&self, key: &Key, object: Arc<K>, own: bool) {
        let before = {
            let mut objects = self.objects.write();
            let told = match objects.all.get(key) {
                Some(have) => revision(&**have) >= revision(&*object),
                // Not there, though the watch has come so far: deleted since.
                None => own && self.seen.load(Ordering::Acquire) >= revision(&*object),
            };
            if told {
                return;
            }
            objects.insert(key, object.clone())
        };
        self.changed(key, before.as_deref(), Some(&object));
    }

    /// `at`: up to which revision the object is known to be gone; a newer one stays.
    fn remove(&self, key: &Key, at: u64) {
        let gone = {
            let mut objects = self.objects.write();
            self.seen.fetch_max(at, Ordering::AcqRel);
            if objects.all.get(key).is_none_or(|have| revision(&**have) > at) {
                return;
            }
            objects.remove(key)
        };
        self.changed(key, gone.as_deref(), None);
    }

    /// An object that is not of the kind's form stays as it was when it last was: that it cannot be read is no news of
    /// its end.
    async fn run(&self, everywhere: Client, name: Option<&str>) {
        let mut stream = std::pin::pin!(shared::follow::<K>(everywhere, &(), name));
        let (mut listed, mut newest, mut last) = (HashSet::new(), 0, 0);
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    newest = self.objects.read().all.values().map(|object| revision(&**object)).max().unwrap_or(0);
                }
                Ok(watcher::Event::InitApply(item)) => {
                    let key = key_of(&item);
                    last = last.max(item.revision);
                    if let Ok(object) = item.object {
                        self.apply(&key, object, false);
                    }
                    listed.insert(key);
                }
                Ok(watcher::Event::InitDone) => {
                    let gone: Vec<Key> =
                        self.objects.read().all.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                    for key in gone {
                        self.remove(&key, newest);
                    }
                    listed = HashSet::new();
                    self.seen.fetch_max(last, Ordering::AcqRel);
                    self.synced.send_replace(true);
                }
                Ok(watcher::Event::Apply(item)) => {
                    let key = key_of(&item);
                    if let Ok(object) = item.object {
                        self.apply(&key, object, false);
                    }
                    self.seen.fetch_max(item.revision, Ordering::AcqRel);
                }
                Ok(watcher::Event::Delete(item)) => self.remove(&key_of(&item), item.revision),
                Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watching"),
            }
        }
    }
}

/// A shared cache as it is handed out: what is subscribed through it ends with whom it was handed out to. Cheap to clone.
pub struct Cache<K> {
    informer: Arc<Informer<K>>,
    until: CancellationToken,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { informer: self.informer.clone(), until: self.until.clone() }
    }
}

impl<K> Deref for Cache<K> {
    type Target = Informer<K>;

    fn deref(&self) -> &Informer<K> {
        &self.informer
    }
}

impl<K: Object> Cache<K> {
    /// Calls `handler` for what is there and for each change from now on.
    pub fn subscribe(&self, handler: impl Fn(&Key, Option<&K>, Option<&K>) + Send + Sync + 'static) {
        self.informer.subscribe(Arc::new(handler), self.until.clone());
    }

    /// Queues the keys that `map` makes of an object whenever that changes: of its state before and of the one now.
    pub fn feed(&self, queue: &Queue<Key>, map: impl Fn(&Key, &K) -> Vec<Key> + Send + Sync + 'static) {
        let queue = queue.clone();
        self.subscribe(move |key, before, now| {
            for key in [before, now].into_iter().flatten().flat_map(|object| map(key, object)) {
                queue.add(key);
            }
        });
    }
}

fn key_of<K: Resource>(item: &Item<K>) -> Key {
    let meta = item.meta();
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
    Key { tenant: item.tenant.clone(), namespace: text(&meta.namespace), name: text(&meta.name) }
}

#[derive(Default)]
struct Registry {
    /// By kind, and by the name that all have which are kept.
    informers: HashMap<(TypeId, Option<&'static str>), Arc<dyn Any + Send + Sync>>,
    synced: Vec<watch::Receiver<bool>>,
}

/// The shared caches of a process. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    clients: Clients,
    capability: AllTenants,
    stop: CancellationToken,
    /// Of what is subscribed through it.
    until: CancellationToken,
    registry: Arc<Mutex<Registry>>,
}

impl Informers {
    /// Caches that follow until `stop`. Each kind's watch begins when it is first asked for.
    pub fn new(clients: Clients, capability: AllTenants, stop: CancellationToken) -> Self {
        Self { clients, capability, until: stop.clone(), stop, registry: Arc::default() }
    }

    /// Caches for who acts during a term alone: what is subscribed ends with it, and so do the clients. Where others may have
    /// acted before it they are caches of its own, which are read after the term has begun and so have all that
    /// was done before it.
    #[must_use]
    pub fn during(&self, term: &Term) -> Self {
        let (clients, until) = (term.clients(&self.clients), term.stop().clone());
        if term.is_alone() {
            return Self { clients, until, ..self.clone() };
        }
        Self::new(clients, self.capability.clone(), until)
    }

    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    pub fn capability(&self) -> &AllTenants {
        &self.capability
    }

    /// The one cache of a kind.
    pub fn of<K: Object>(&self) -> Cache<K> {
        Cache { informer: self.informer(None), until: self.until.clone() }
    }

    /// The one cache of what of a kind has this name, in every namespace: nothing else of the kind is heard of.
    pub fn named<K: Object>(&self, name: &'static str) -> Cache<K> {
        Cache { informer: self.informer(Some(name)), until: self.until.clone() }
    }

    fn informer<K: Object>(&self, name: Option<&'static str>) -> Arc<Informer<K>> {
        let mut registry = self.registry.lock();
        let place = (TypeId::of::<K>(), name);
        let have = registry.informers.get(&place).cloned();
        if let Some(have) = have.and_then(|have| have.downcast::<Informer<K>>().ok()) {
            return have;
        }
        let informer = Arc::new(Informer::<K>::new());
        registry.informers.insert(place, informer.clone());
        registry.synced.push(informer.synced.subscribe());
        let (follower, everywhere) = (informer.clone(), self.clients.all_tenants(&self.capability));
        let run = async move { follower.run(everywhere, name).await };
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(run));
        informer
    }

    /// Until every cache that was asked for has its first list, or the caches stop.
    pub async fn synced(&self) {
        let waits = self.registry.lock().synced.clone();
        for mut wait in waits {
            let synced = wait.wait_for(|synced| *synced);
            self.stop.run_until_cancelled(synced).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, revision: u64, controller: Option<&str>) -> Pod {
        // One that does not manage it is not looked at.
        let mut owners = vec![json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "another"})];
        owners.extend(controller.map(
            |uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}),
        ));
        let meta = json!({"namespace": namespace, "name": name, "resourceVersion": revision.to_string(),
            "ownerReferences": owners});
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    /// Whatever comes and goes, and whenever somebody asks first.
    #[test]
    fn an_owners_are_found_as_if_all_were_looked_at() {
        let tenants: [TenantId; 2] = ["acme", "globex"].map(|tenant| tenant.parse().unwrap());
        for asked_from in [0, 100] {
            let informer = Informer::<Pod>::new();
            for step in 1..400_u64 {
                // Of few names, so that most are changed, and come to another owner or to none.
                let pick = |of: u64, prime: u64| (step * prime / 7) % of;
                let (tenant, namespace) = (&tenants[pick(2, 11) as usize], ["a", "b"][pick(2, 13) as usize]);
                let name = format!("p{}", pick(9, 17));
                let key = Key::new(tenant, namespace, &name);
                let controller = [None, Some("one"), Some("two")][pick(3, 19) as usize];
                match pick(4, 23) {
                    0 => informer.remove(&key, step),
                    1 => informer.observe(tenant, pod(namespace, &name, step, controller)),
                    _ => informer.apply(&key, Arc::new(pod(namespace, &name, step, controller)), false),
                }
                if step < asked_from {
                    continue;
                }
                for uid in [None, Some("one"), Some("two"), Some("another")] {
                    let found: Vec<_> =
                        informer.controlled_by(tenant, namespace, uid).iter().map(|pod| pod.name_any()).collect();
                    let by = |pod: &&Arc<Pod>| crate::controller_of(&***pod).map(|owner| owner.uid.as_str()) == uid;
                    let all = informer.list(tenant, namespace);
                    let wanted: Vec<_> = all.iter().filter(by).map(|pod| pod.name_any()).collect();
                    assert_eq!(found, wanted, "{step} {uid:?}");
                }
            }
        }
    }
}
