//! Shared caches: the objects of one kind of all tenants, as the watch shows them and as our own writes left them. Of an API
//! server in the same process they are its own cache's, parsed once for all caches of the kind; or, where every tenant has some that
//! are seldom looked at, parsed whenever they are.

mod held;

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
    shared::{self, Item, Parsing, Which},
};
use kube::{Client, Resource, ResourceExt, runtime::watcher};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::held::{Held, is_seldom};
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
    all: BTreeMap<Key, Held<K>>,
    /// All of them, once somebody has asked for an owner's.
    controlled: Option<BTreeSet<Controlled>>,
}

impl<K: Resource + DeserializeOwned> Objects<K> {
    fn insert(&mut self, key: &Key, object: Held<K>) -> Option<Held<K>> {
        let of =
            self.controlled.is_some().then(|| object.object()).flatten().map(|object| Controlled::of(key, &*object));
        let before = self.all.insert(key.clone(), object);
        self.forget_controlled(key, before.as_ref());
        if let (Some(controlled), Some(of)) = (&mut self.controlled, of) {
            controlled.insert(of);
        }
        before
    }

    fn remove(&mut self, key: &Key) -> Option<Held<K>> {
        let gone = self.all.remove(key)?;
        self.forget_controlled(key, Some(&gone));
        Some(gone)
    }

    fn forget_controlled(&mut self, key: &Key, gone: Option<&Held<K>>) {
        if let Some(controlled) = &mut self.controlled
            && let Some(gone) = gone.and_then(Held::object)
        {
            controlled.remove(&Controlled::of(key, &*gone));
        }
    }

    fn index(&mut self) {
        let all = self.all.iter().filter_map(|(key, object)| Some(Controlled::of(key, &*object.object()?)));
        self.controlled.get_or_insert_with(|| all.collect());
    }

    /// Those beside this one; none before there is the index.
    fn controlled_by(&self, from: &Controlled) -> Option<Vec<Arc<K>>> {
        let within = |one: &&Controlled| {
            (&one.tenant, &one.namespace, &one.controller) == (&from.tenant, &from.namespace, &from.controller)
        };
        let found = self.controlled.as_ref()?.range(from..).take_while(within);
        Some(
            found.filter_map(|one| self.all.get(&Key::new(&one.tenant, &one.namespace, &one.name))?.object()).collect(),
        )
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
        let held = self.objects.read().all.get(key).cloned();
        held?.object()
    }

    /// [`Self::get`], for who asks no more than whether it is there.
    pub fn has(&self, key: &Key) -> bool {
        self.objects.read().all.contains_key(key)
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
        objects.all.range(from..).take_while(|(key, _)| within(key)).filter_map(|(_, object)| object.object()).collect()
    }

    /// All of a tenant's, in whatever namespace.
    pub fn list_tenant(&self, tenant: &TenantId) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let from = Key::new(tenant, "", "");
        let mine = objects.all.range(from..).take_while(|(key, _)| key.tenant == *tenant);
        mine.filter_map(|(_, object)| object.object()).collect()
    }

    /// All of all tenants.
    pub fn all(&self) -> Vec<(Key, Arc<K>)> {
        self.objects.read().all.iter().filter_map(|(key, object)| Some((key.clone(), object.object()?))).collect()
    }

    /// Takes in what a write of our own answered, so that the next look sees it before the watch says so.
    pub fn observe(&self, tenant: &TenantId, mut object: K) {
        shared::tidy(object.meta_mut());
        let key = Key::new(tenant, &object.namespace().unwrap_or_default(), &object.name_any());
        let object = Arc::new(object);
        self.apply(&key, &object, Held::Parsed(object.clone()), true);
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
    fn apply(&self, key: &Key, now: &K, held: Held<K>, own: bool) {
        let before = {
            let mut objects = self.objects.write();
            let told = match objects.all.get_mut(key) {
                Some(have) => {
                    // The answer to a write of our own is kept until the watch tells of it.
                    if matches!(held, Held::Text(_)) && have.revision() == held.revision() {
                        *have = held;
                        return;
                    }
                    have.revision() >= held.revision()
                }
                // Not there, though the watch has come so far: deleted since.
                None => own && self.seen.load(Ordering::Acquire) >= held.revision(),
            };
            if told {
                return;
            }
            objects.insert(key, held)
        };
        let before = before.as_ref().and_then(Held::object);
        self.changed(key, before.as_deref(), Some(now));
    }

    /// Takes in what the watch tells of. An object that is not of the kind's form stays as it was when it last was: that it cannot be
    /// read is no news of its end.
    fn heard(&self, key: &Key, item: Item<K>, seldom: bool) {
        let Ok(object) = item.object else { return };
        let held = match item.version {
            Some(version) if seldom => Held::Text(version),
            _ => Held::Parsed(object.clone()),
        };
        self.apply(key, &object, held, false);
    }

    /// `at`: up to which revision the object is known to be gone; a newer one stays.
    fn remove(&self, key: &Key, at: u64) {
        let gone = {
            let mut objects = self.objects.write();
            self.seen.fetch_max(at, Ordering::AcqRel);
            if objects.all.get(key).is_none_or(|have| have.revision() > at) {
                return;
            }
            objects.remove(key)
        };
        let gone = gone.as_ref().and_then(Held::object);
        self.changed(key, gone.as_deref(), None);
    }

    async fn run(&self, everywhere: Client, name: Option<&'static str>) {
        let seldom = is_seldom::<K>(name);
        // What is kept as text nobody has parsed for long.
        let parsing = if seldom { Parsing::Own(shared::tidy) } else { Parsing::Shared };
        let which = Which { name, parsing, ..Which::default() };
        let mut stream = std::pin::pin!(shared::follow::<K>(everywhere, &(), which));
        let (mut listed, mut newest, mut last) = (HashSet::new(), 0, 0);
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    newest = self.objects.read().all.values().map(Held::revision).max().unwrap_or(0);
                }
                Ok(watcher::Event::InitApply(item)) => {
                    let key = key_of(&item);
                    last = last.max(item.revision);
                    self.heard(&key, item, seldom);
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
                    let (key, revision) = (key_of(&item), item.revision);
                    self.heard(&key, item, seldom);
                    self.seen.fetch_max(revision, Ordering::AcqRel);
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
    use hypernetes_testing::{
        server::{ACME, InProcess, id, make},
        wait::eventually,
    };
    use k8s_openapi::api::core::v1::{Namespace, Pod};
    use kube::api::{Patch, PatchParams};
    use serde_json::{Value, json};

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
                    _ => {
                        let object = Arc::new(pod(namespace, &name, step, controller));
                        informer.apply(&key, &object, Held::Parsed(object.clone()), false);
                    }
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

    fn namespace(label: &str) -> Value {
        json!({"metadata": {"name": "n", "labels": {"is": label}}})
    }

    /// Of kinds that every tenant has nothing is kept but what the API server's cache has anyway; who looks sees no difference.
    #[tokio::test]
    async fn what_every_tenant_has_is_kept_as_its_text() {
        let api = InProcess::with_tenants().await;
        let informers = Informers::new(api.clients.clone(), AllTenants::grant(), CancellationToken::new());
        let (namespaces, pods) = (informers.of::<Namespace>(), informers.of::<Pod>());
        informers.synced().await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let is = |namespace: Option<&Namespace>| namespace?.metadata.labels.as_ref()?.get("is").cloned();
        let tell = told.clone();
        namespaces.subscribe(move |key, before, now| {
            if key.name == "n" {
                tell.lock().push((is(before), is(now)));
            }
        });
        let (tenant, key) = (id(ACME), Key::new(&id(ACME), "", "n"));
        let is_text = || match namespaces.objects.read().all.get(&key)? {
            Held::Text(_) => Some(()),
            Held::Parsed(_) => None,
        };
        let made: Namespace = api.make(ACME, namespace("made")).await;
        // The answer comes first, or the watch; it is told once, and held as text in the end.
        namespaces.observe(&tenant, made);
        assert!(namespaces.has(&key) && is(namespaces.get(&key).as_deref()).as_deref() == Some("made"));
        eventually(|| async { is_text() }).await;
        let patch = Patch::Merge(namespace("changed"));
        let all = api.api::<Namespace>(ACME);
        all.patch("n", &PatchParams::default(), &patch).await.unwrap();
        eventually(|| async { (is(namespaces.get(&key).as_deref())? == "changed").then_some(()) }).await;
        assert_eq!((is_text(), namespaces.list(&tenant, "").len()), (Some(()), 2));
        let (made, changed) = (Some("made".to_owned()), Some("changed".to_owned()));
        assert_eq!(*told.lock(), [(None, made.clone()), (made, changed)]);
        // Others are parsed once.
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        api.account(ACME).await;
        let _: Pod = make(&api.in_default(ACME), pod).await;
        let key = Key::new(&tenant, "default", "p");
        let first = eventually(|| async { pods.get(&key) }).await;
        assert!(Arc::ptr_eq(&first, &pods.get(&key).unwrap()));
    }
}
