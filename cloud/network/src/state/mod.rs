//! All tenants' networks, subnets, ports and pods as the watches tell them, with the books of their addresses.
//!
//! Invariant: every change of an object and of the books happens under one lock, in the order of the events, so that
//! no address is given to two ports by this server.

mod followed;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use hypernetes_api::{TenantId, types::network::Port};
use hypernetes_client::shared;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::Resource;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::{
    address_book::AddressBook,
    queue::{Key, Queue},
    segments::Segments,
};

/// Networks, subnets, ports, namespaces, pods.
const KINDS: u32 = 5;
/// How long a request waits for the first lists, or for the outcome of what it began.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) use followed::Followed;
use followed::{wake_pod_of, wake_pods};

pub(crate) struct State {
    inner: Mutex<Inner>,
    pub queue: Queue,
    /// Counts changes, for whoever waits for one.
    generation: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub tenants: BTreeMap<TenantId, AddressBook>,
    pub segments: Segments,
    /// Kinds that have been read once.
    listed: u32,
    /// By kind: the last version that its watch told of.
    seen: HashMap<String, u64>,
}

impl Inner {
    pub fn synced(&self) -> bool {
        self.listed == KINDS
    }

    /// The last version that the kind's watch told of.
    pub fn seen<K: Followed>(&self) -> Option<u64> {
        self.seen.get(&*K::kind(&())).copied()
    }

    fn saw<K: Followed>(&mut self, version: u64) {
        let seen = self.seen.entry(K::kind(&()).into_owned()).or_default();
        *seen = version.max(*seen);
    }

    /// Whether this server acts on what it is told, and knows all there is.
    fn acts(&self, queue: &Queue) -> bool {
        self.synced() && queue.is_open()
    }

    /// Work on all there is: the oldest pods first, so that addresses do not depend on names.
    fn begin(&mut self, queue: &Queue) {
        for (tenant, has) in &mut self.tenants {
            for name in has.networks.keys() {
                queue.add(Key::Network(tenant.clone(), name.clone()));
            }
            for name in has.subnets.keys() {
                queue.add(Key::Subnet(tenant.clone(), name.clone()));
            }
            for (name, port) in &has.ports {
                queue.add(Key::Port(tenant.clone(), name.clone()));
                wake_pod_of(queue, tenant, port);
            }
            wake_pods(has, tenant, queue, |_| true);
        }
    }
}

impl State {
    pub fn new() -> Self {
        Self { inner: Mutex::default(), queue: Queue::default(), generation: watch::Sender::new(0) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Acts on one tenant; one that is not known has nothing.
    pub fn with<T>(&self, tenant: &TenantId, act: impl FnOnce(&mut AddressBook) -> T) -> T {
        act(self.lock().tenants.entry(tenant.clone()).or_default())
    }

    /// Waits until the condition holds. False: it took too long.
    pub async fn wait(&self, condition: impl Fn(&Inner) -> bool) -> bool {
        let mut changes = self.generation.subscribe();
        let holds = async {
            while !condition(&self.lock()) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, holds).await.is_ok()
    }

    /// Has those who wait look again.
    pub fn tell(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Takes over what a watch tells. A version that is older than what is known changes nothing.
    pub fn apply<K: Followed>(&self, tenant: &TenantId, object: K) {
        self.take(tenant, object, false);
    }

    /// Takes over the answer to a write, before the watch tells of it: who wrote reads what was written.
    pub fn wrote<K: Followed>(&self, tenant: &TenantId, object: K) {
        self.take(tenant, object, true);
    }

    /// A watch has come to this version.
    pub fn saw<K: Followed>(&self, version: u64) {
        self.lock().saw::<K>(version);
    }

    fn take<K: Followed>(&self, tenant: &TenantId, mut object: K, written: bool) {
        last_written(object.meta_mut());
        let version = version(&object);
        // Who waits until a version has been seen finds what it is of: both are under one lock.
        let mut inner = self.lock();
        // The watch may have told of this version already, and of the object's end.
        if written && version <= inner.seen::<K>() {
            return;
        }
        if let Some(version) = version.filter(|_| !written) {
            inner.saw::<K>(version);
        }
        object.apply(&mut inner, tenant, &self.queue);
        drop(inner);
        self.tell();
    }

    pub fn remove<K: Followed>(&self, tenant: &TenantId, id: &str) {
        let mut inner = self.lock();
        K::remove(&mut inner, tenant, id, &self.queue);
        if inner.tenants.get(tenant).is_some_and(AddressBook::is_empty) {
            inner.tenants.remove(tenant);
        }
        drop(inner);
        self.tell();
    }

    pub fn ids<K: Followed>(&self) -> BTreeSet<(TenantId, String)> {
        let inner = self.lock();
        inner.tenants.iter().flat_map(|(tenant, has)| K::ids(has).map(move |id| (tenant.clone(), id))).collect()
    }

    /// A kind has been read for the first time. With the last of them, work begins.
    pub fn listed(&self) {
        let mut inner = self.lock();
        inner.listed += 1;
        if inner.acts(&self.queue) {
            inner.begin(&self.queue);
        }
        drop(inner);
        self.tell();
    }

    /// This server acts from now on.
    pub fn act(&self) -> hypernetes_runtime::Queue<Key> {
        let mut inner = self.lock();
        let queue = self.queue.open();
        if inner.synced() {
            inner.begin(&self.queue);
        }
        queue
    }

    /// Another one does. What was given to ports that do not exist is that one's to give.
    pub fn rest(&self) {
        let mut inner = self.lock();
        self.queue.close();
        inner.tenants.values_mut().for_each(AddressBook::drop_reservations);
    }
}

/// Takes away what nobody asks for of what is kept here: all that managed fields say but when the last of them was written.
pub(crate) fn last_written(meta: &mut ObjectMeta) {
    let written = meta.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref()).max().cloned();
    shared::tidy(meta);
    meta.managed_fields = written.map(|time| vec![ManagedFieldsEntry { time: Some(time), ..Default::default() }]);
}

/// Whether its addresses were found to be its own.
pub(crate) fn is_accepted(port: &Port) -> bool {
    matches!(port.status.as_ref().map(|status| status.phase.as_str()), Some("Down" | "Active"))
}

/// Versions are numbers that grow; another object of the same name has a greater one.
pub(crate) fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use hypernetes_api::types::network::{Network, NetworkSpec};

    use super::*;

    #[test]
    fn of_what_has_been_seen_all_is_there() {
        const ALL: u64 = 5000;
        let (state, tenant) = (State::new(), "acme".parse::<TenantId>().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..=ALL {
                    let mut network = Network::new(&format!("n{version}"), NetworkSpec::default());
                    network.metadata.resource_version = Some(version.to_string());
                    state.apply(&tenant, network);
                }
            });
            let mut seen = 0;
            while seen < ALL {
                let inner = state.lock();
                seen = inner.seen::<Network>().unwrap_or(0);
                let there = inner.tenants.get(&tenant).map_or(0, |has| has.networks.len());
                assert_eq!(there as u64, seen);
            }
        });
    }
}
