//! The Ports that are on this host, the Networks that those are on and these Networks' Subnets, followed by watches: what the
//! node's credential may read.

use std::{
    collections::{HashMap, HashSet, hash_map},
    fmt::Debug,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    StreamExt,
    future::{AbortHandle, abortable},
    stream::FuturesUnordered,
};
use hypernetes_api::{
    AllTenants, TenantId,
    types::network::{Network, Port, Subnet},
};
use hypernetes_client::{Clients, tenant_of};
use hypernetes_names::ObjectName;
use kube::{Client, ResourceExt, runtime::watcher};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

/// What has changed in the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The Port with this uid.
    Port(String),
    /// Anything.
    All,
}

pub(crate) struct Mirror {
    node: String,
    ports: RwLock<Ports>,
    /// Those that ports are on.
    networks: RwLock<HashMap<Key, Followed>>,
    /// Their keys, for whoever follows them.
    wanted: watch::Sender<HashSet<Key>>,
    synced: AtomicBool,
    /// Counts changes, for whoever waits for one.
    pub generation: watch::Sender<u64>,
    changes: mpsc::UnboundedSender<Change>,
}

/// Tenant and name.
type Key = (TenantId, String);

/// Objects of a kind.
struct Kind<I, K> {
    objects: HashMap<I, Arc<K>>,
    /// While a list is being read.
    next: HashMap<I, Arc<K>>,
    synced: bool,
}

#[derive(Default)]
struct Ports {
    all: Kind<Key, Port>,
    /// By tenant and uid of the pod: name of the Port.
    by_pod: HashMap<(TenantId, String), String>,
    /// How many are on a network.
    networks: HashMap<Key, usize>,
}

/// A network and what is on it, by name.
#[derive(Default)]
struct Followed {
    network: Kind<String, Network>,
    subnets: Kind<String, Subnet>,
}

impl<I, K> Default for Kind<I, K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), next: HashMap::new(), synced: false }
    }
}

impl<I: Eq + Hash, K> Kind<I, K> {
    /// Takes in what a watch tells; whether what is known may be different then.
    fn take(&mut self, event: watcher::Event<K>, id: impl Fn(&K) -> Option<I>) -> bool {
        match event {
            watcher::Event::Init => self.next.clear(),
            watcher::Event::InitApply(object) => {
                if let Some(id) = id(&object) {
                    self.next.insert(id, Arc::new(object));
                }
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(&mut self.next);
                self.synced = true;
                return true;
            }
            watcher::Event::Apply(object) => {
                if let Some(id) = id(&object) {
                    self.objects.insert(id, Arc::new(object));
                    return true;
                }
            }
            watcher::Event::Delete(object) => return id(&object).is_some_and(|id| self.objects.remove(&id).is_some()),
        }
        false
    }
}

impl Ports {
    /// Whether what is known may be different then.
    fn take(&mut self, event: watcher::Event<Port>) -> bool {
        let (listed, one) = match &event {
            watcher::Event::InitDone => (true, None),
            watcher::Event::Apply(port) | watcher::Event::Delete(port) => (false, key(port)),
            _ => (false, None),
        };
        let before = one.as_ref().and_then(|key| self.all.objects.get(key)).cloned();
        if !self.all.take(event, key) {
            return false;
        }
        if listed {
            (self.by_pod, self.networks) = (HashMap::new(), HashMap::new());
            for (key, port) in self.all.objects.clone() {
                self.enter(&key.0, &port);
            }
        }
        if let Some(key) = one {
            if let Some(before) = before {
                self.leave(&key.0, &before);
            }
            if let Some(port) = self.all.objects.get(&key).cloned() {
                self.enter(&key.0, &port);
            }
        }
        true
    }

    fn enter(&mut self, tenant: &TenantId, port: &Port) {
        if let Some(uid) = pod_uid(port) {
            self.by_pod.insert((tenant.clone(), uid.to_owned()), port.name_any());
        }
        // What is no name is no network's.
        if ObjectName::new(&port.spec.network).is_ok() {
            *self.networks.entry((tenant.clone(), port.spec.network.clone())).or_default() += 1;
        }
    }

    fn leave(&mut self, tenant: &TenantId, port: &Port) {
        if let Some(uid) = pod_uid(port) {
            let key = (tenant.clone(), uid.to_owned());
            if self.by_pod.get(&key) == port.metadata.name.as_ref() {
                self.by_pod.remove(&key);
            }
        }
        let network = (tenant.clone(), port.spec.network.clone());
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
    }
}

impl Mirror {
    /// `node` is the name of this host's Node.
    pub fn new(node: &str) -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        let mirror = Self {
            node: node.to_owned(),
            ports: RwLock::default(),
            networks: RwLock::default(),
            wanted: watch::Sender::default(),
            synced: AtomicBool::new(false),
            generation: watch::Sender::new(0),
            changes,
        };
        (mirror, receiver)
    }

    /// Follows all of it until the future is dropped.
    pub async fn follow(&self, clients: &Clients, all: &AllTenants) {
        let ports = follow(clients.all_tenants(all), format!("status.host={}", self.node), |event| self.take(event));
        tokio::join!(ports, self.follow_networks(clients));
    }

    /// Each network that ports are on, for as long as they are.
    async fn follow_networks(&self, clients: &Clients) {
        let mut wanted = self.wanted.subscribe();
        let mut followed: HashMap<Key, AbortHandle> = HashMap::new();
        let mut watches = FuturesUnordered::new();
        loop {
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let keys = wanted.borrow_and_update().clone();
                    followed.retain(|key, watch| {
                        let still = keys.contains(key);
                        if !still {
                            watch.abort();
                        }
                        still
                    });
                    self.networks.write().retain(|key, _| keys.contains(key));
                    for key in keys {
                        if let hash_map::Entry::Vacant(place) = followed.entry(key) {
                            let (watch, handle) = abortable(self.follow_network(clients, place.key().clone()));
                            watches.push(watch);
                            place.insert(handle);
                        }
                    }
                    self.changed(Change::All);
                }
                Some(_) = watches.next() => {}
            }
        }
    }

    async fn follow_network(&self, clients: &Clients, key: Key) {
        self.networks.write().insert(key.clone(), Followed::default());
        let client = clients.tenant(&key.0);
        tokio::join!(
            follow::<Network>(client.clone(), format!("metadata.name={}", key.1), |event| {
                self.take_in(&key, |followed| followed.network.take(event, |network| network.metadata.name.clone()));
            }),
            follow::<Subnet>(client, format!("spec.network={}", key.1), |event| {
                self.take_in(&key, |followed| followed.subnets.take(event, |subnet| subnet.metadata.name.clone()));
            }),
        );
    }

    fn take(&self, event: watcher::Event<Port>) {
        let change = match &event {
            watcher::Event::Apply(port) | watcher::Event::Delete(port) => port.uid().map_or(Change::All, Change::Port),
            _ => Change::All,
        };
        let mut ports = self.ports.write();
        if !ports.take(event) {
            return;
        }
        let same = |wanted: &HashSet<Key>| {
            wanted.len() == ports.networks.len() && ports.networks.keys().all(|key| wanted.contains(key))
        };
        let wanted = (!same(&self.wanted.borrow())).then(|| ports.networks.keys().cloned().collect());
        drop(ports);
        if let Some(wanted) = wanted {
            self.wanted.send_replace(wanted);
        }
        self.changed(change);
    }

    fn take_in(&self, key: &Key, take: impl FnOnce(&mut Followed) -> bool) {
        // It may have been let go of just now.
        if self.networks.write().get_mut(key).is_some_and(take) {
            self.changed(Change::All);
        }
    }

    fn changed(&self, change: Change) {
        if !self.synced() && self.all_is_read() {
            self.synced.store(true, Ordering::Release);
        }
        self.generation.send_modify(|generation| *generation += 1);
        let _ = self.changes.send(change);
    }

    /// Whether the ports have been read once, with the networks that they were on then. A network that comes later holds up
    /// nobody but its own ports.
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    fn all_is_read(&self) -> bool {
        let (ports, networks) = (self.ports.read(), self.networks.read());
        let is_read = |key| networks.get(key).is_some_and(|of: &Followed| of.network.synced && of.subnets.synced);
        ports.all.synced && ports.networks.keys().all(is_read)
    }

    pub fn port_of_pod(&self, tenant: &TenantId, pod_uid: &str) -> Option<Arc<Port>> {
        let ports = self.ports.read();
        let name = ports.by_pod.get(&(tenant.clone(), pod_uid.to_owned()))?;
        ports.all.objects.get(&(tenant.clone(), name.clone())).cloned()
    }

    pub fn port(&self, tenant: &TenantId, name: &str) -> Option<Arc<Port>> {
        self.ports.read().all.objects.get(&(tenant.clone(), name.to_owned())).cloned()
    }

    pub fn network(&self, tenant: &TenantId, name: &str) -> Option<Arc<Network>> {
        self.networks.read().get(&(tenant.clone(), name.to_owned()))?.network.objects.get(name).cloned()
    }

    /// A subnet of the network.
    pub fn subnet(&self, tenant: &TenantId, network: &str, name: &str) -> Option<Arc<Subnet>> {
        self.networks.read().get(&(tenant.clone(), network.to_owned()))?.subnets.objects.get(name).cloned()
    }
}

fn key(port: &Port) -> Option<Key> {
    Some((tenant_of(port)?, port.metadata.name.clone()?))
}

/// Follows those that a field selector selects.
async fn follow<K>(client: Client, fields: String, apply: impl Fn(watcher::Event<K>))
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let which = watcher::Config::default().fields(&fields);
    let mut events =
        std::pin::pin!(hypernetes_client::readable(hypernetes_client::watch_with::<K>(client, &(), which)));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => apply(event),
            Err(error) => tracing::warn!(kind = %K::kind(&()), fields, %error, "watching"),
        }
    }
}

/// The pod that a port is for, if it is for one.
pub(crate) fn pod_uid(port: &Port) -> Option<&str> {
    let uid = match &port.spec.pod {
        Some(pod) => &pod.uid,
        None => &port.spec.device_id,
    };
    (!uid.is_empty()).then_some(uid)
}
