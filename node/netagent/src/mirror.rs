//! The tenants' Ports, Networks and Subnets, followed by watches.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use futures::StreamExt;
use hypernetes_api::{
    AllTenants, TenantId,
    types::network::{Network, Port, Subnet},
};
use hypernetes_client::{Clients, tenant_of};
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
    ports: RwLock<Kind<Port>>,
    /// By tenant and uid of the pod: uid of the Port.
    by_pod: RwLock<HashMap<(TenantId, String), String>>,
    networks: RwLock<Kind<Network>>,
    subnets: RwLock<Kind<Subnet>>,
    /// Counts changes, for whoever waits for one.
    pub generation: watch::Sender<u64>,
    changes: mpsc::UnboundedSender<Change>,
}

/// Objects by their keys.
struct Kind<K> {
    objects: HashMap<Key, Arc<K>>,
    /// While a list is being read.
    next: HashMap<Key, Arc<K>>,
    synced: bool,
}

type Key = (TenantId, String);

impl<K> Default for Kind<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), next: HashMap::new(), synced: false }
    }
}

impl Mirror {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        let mirror = Self {
            ports: RwLock::default(),
            by_pod: RwLock::default(),
            networks: RwLock::default(),
            subnets: RwLock::default(),
            generation: watch::Sender::new(0),
            changes,
        };
        (mirror, receiver)
    }

    /// Follows all kinds until the future is dropped.
    pub async fn follow(&self, clients: &Clients, all: &AllTenants) {
        let client = clients.all_tenants(all);
        tokio::join!(
            follow::<Network>(client.clone(), |event| self.apply(&self.networks, event, |_| None)),
            follow::<Subnet>(client.clone(), |event| self.apply(&self.subnets, event, |_| None)),
            follow::<Port>(client, |event| {
                self.apply(&self.ports, event, |port: &Port| port.uid().map(Change::Port));
            }),
        );
    }

    fn apply<K>(&self, kind: &RwLock<Kind<K>>, event: watcher::Event<K>, change: impl Fn(&K) -> Option<Change>)
    where
        K: kube::Resource<DynamicType = ()> + IndexByPod,
    {
        let change = match event {
            watcher::Event::Init => {
                kind.write().next.clear();
                return;
            }
            watcher::Event::InitApply(object) => {
                if let Some(key) = key(&object) {
                    kind.write().next.insert(key, Arc::new(object));
                }
                return;
            }
            watcher::Event::InitDone => {
                let mut kind = kind.write();
                kind.objects = std::mem::take(&mut kind.next);
                kind.synced = true;
                K::reindex(&mut self.by_pod.write(), &kind.objects);
                Change::All
            }
            watcher::Event::Apply(object) => {
                let Some(key) = key(&object) else { return };
                let change = change(&object).unwrap_or(Change::All);
                object.index(&key.0, &mut self.by_pod.write());
                kind.write().objects.insert(key, Arc::new(object));
                change
            }
            watcher::Event::Delete(object) => {
                let Some(key) = key(&object) else { return };
                object.unindex(&key.0, &mut self.by_pod.write());
                kind.write().objects.remove(&key);
                change(&object).unwrap_or(Change::All)
            }
        };
        self.generation.send_modify(|generation| *generation += 1);
        let _ = self.changes.send(change);
    }

    /// Whether everything has been read once.
    pub fn synced(&self) -> bool {
        self.ports.read().synced && self.networks.read().synced && self.subnets.read().synced
    }

    pub fn port_of_pod(&self, tenant: &TenantId, pod_uid: &str) -> Option<Arc<Port>> {
        let name = self.by_pod.read().get(&(tenant.clone(), pod_uid.to_owned())).cloned()?;
        self.port(tenant, &name)
    }

    pub fn port(&self, tenant: &TenantId, name: &str) -> Option<Arc<Port>> {
        self.ports.read().objects.get(&(tenant.clone(), name.to_owned())).cloned()
    }

    pub fn network(&self, tenant: &TenantId, name: &str) -> Option<Arc<Network>> {
        self.networks.read().objects.get(&(tenant.clone(), name.to_owned())).cloned()
    }

    pub fn subnet(&self, tenant: &TenantId, name: &str) -> Option<Arc<Subnet>> {
        self.subnets.read().objects.get(&(tenant.clone(), name.to_owned())).cloned()
    }
}

fn key<K: kube::Resource<DynamicType = ()>>(object: &K) -> Option<Key> {
    Some((tenant_of(object)?, object.meta().name.clone()?))
}

async fn follow<K>(client: Client, apply: impl Fn(watcher::Event<K>))
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = std::pin::pin!(hypernetes_client::watch_readable::<K>(client, &()));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => apply(event),
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watching"),
        }
    }
}

type PodIndex = HashMap<(TenantId, String), String>;

/// Ports are found by their pods; the other kinds are not.
trait IndexByPod: Sized {
    fn index(&self, _: &TenantId, _: &mut PodIndex) {}
    fn unindex(&self, _: &TenantId, _: &mut PodIndex) {}
    fn reindex(_: &mut PodIndex, _: &HashMap<Key, Arc<Self>>) {}
}

impl IndexByPod for Network {}
impl IndexByPod for Subnet {}
impl IndexByPod for Port {
    fn index(&self, tenant: &TenantId, index: &mut PodIndex) {
        if let (Some(uid), Some(name)) = (pod_uid(self), &self.metadata.name) {
            index.insert((tenant.clone(), uid.to_owned()), name.clone());
        }
    }

    fn unindex(&self, tenant: &TenantId, index: &mut PodIndex) {
        if let Some(uid) = pod_uid(self) {
            let key = (tenant.clone(), uid.to_owned());
            if index.get(&key) == self.metadata.name.as_ref() {
                index.remove(&key);
            }
        }
    }

    fn reindex(index: &mut PodIndex, ports: &HashMap<Key, Arc<Self>>) {
        index.clear();
        for ((tenant, _), port) in ports {
            port.index(tenant, index);
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
