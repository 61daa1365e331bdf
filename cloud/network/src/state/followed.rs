//! What each kind of object changes in the state, and what has to be looked at then.

use std::sync::Arc;

use hypernetes_api::{
    TenantId, names,
    types::network::{Network, Port, Subnet, port_of_pod},
};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Resource, ResourceExt};

use super::{Inner, is_accepted, version};
use crate::{
    address_book::{AddressBook, PodRecord},
    queue::{Key, Queue},
};

/// A kind of object that the state is made of.
pub(crate) trait Followed: Resource<DynamicType = ()> + Sized {
    fn id(&self) -> String {
        self.name_any()
    }
    fn ids(tenant: &AddressBook) -> Box<dyn Iterator<Item = String> + '_>;
    fn apply(self, inner: &mut Inner, tenant: &TenantId, queue: &Queue);
    fn remove(inner: &mut Inner, tenant: &TenantId, id: &str, queue: &Queue);
}

fn is_newer<K: Resource>(new: &K, old: Option<&Arc<K>>) -> bool {
    old.is_none_or(|old| version(new) > version(&**old))
}

/// The pod whose port it is: it may be gone.
pub(super) fn wake_pod_of(queue: &Queue, tenant: &TenantId, port: &Port) {
    if let Some(pod) = &port.spec.pod
        && port.metadata.name.as_deref() == Some(&port_of_pod(&pod.uid))
    {
        queue.add(Key::Pod(tenant.clone(), pod.uid.clone()));
    }
}

/// Pods without a port get another chance, and their addresses now, in the order of their age.
pub(super) fn wake_pods(tenant: &mut AddressBook, id: &TenantId, queue: &Queue, which: impl Fn(&PodRecord) -> bool) {
    let without = |pod: &&PodRecord| !pod.finished && !tenant.ports.contains_key(&pod.port()) && which(pod);
    let mut pods: Vec<PodRecord> = tenant.pods.values().filter(without).cloned().collect();
    pods.sort_by(|a, b| (&a.created, &a.namespace, &a.name).cmp(&(&b.created, &b.namespace, &b.name)));
    for pod in pods {
        let _ = tenant.place_pod(&pod);
        queue.add(Key::Pod(id.clone(), pod.uid));
    }
}

/// Ports that have no address yet get another chance.
fn wake_ports(tenant: &AddressBook, id: &TenantId, queue: &Queue, network: &str) {
    for port in tenant.ports_of(network).filter(|port| !is_accepted(port)) {
        queue.add(Key::Port(id.clone(), port.name_any()));
    }
}

impl Followed for Network {
    fn ids(tenant: &AddressBook) -> Box<dyn Iterator<Item = String> + '_> {
        Box::new(tenant.networks.keys().cloned())
    }

    fn apply(self, inner: &mut Inner, id: &TenantId, queue: &Queue) {
        let acts = inner.acts(queue);
        let tenant = inner.tenants.entry(id.clone()).or_default();
        let name = self.name_any();
        if !is_newer(&self, tenant.networks.get(&name)) {
            return;
        }
        if let (Some(uid), Some(status)) = (self.uid(), &self.status) {
            inner.segments.claim(&uid, status.segment_id);
        }
        let old = tenant.networks.insert(name.clone(), Arc::new(self));
        if acts {
            if old.is_none() {
                wake_pods(tenant, id, queue, |_| true);
                wake_ports(tenant, id, queue, &name);
            }
            queue.add(Key::Network(id.clone(), name));
        }
    }

    fn remove(inner: &mut Inner, id: &TenantId, name: &str, _: &Queue) {
        let Some(tenant) = inner.tenants.get_mut(id) else { return };
        if let Some(uid) = tenant.networks.remove(name).and_then(|network| network.uid()) {
            inner.segments.release(&uid);
        }
        tenant.forget_network(name);
    }
}

impl Followed for Subnet {
    fn ids(tenant: &AddressBook) -> Box<dyn Iterator<Item = String> + '_> {
        Box::new(tenant.subnets.keys().cloned())
    }

    fn apply(self, inner: &mut Inner, id: &TenantId, queue: &Queue) {
        let acts = inner.acts(queue);
        let tenant = inner.tenants.entry(id.clone()).or_default();
        let (name, network) = (self.name_any(), self.spec.network.clone());
        if !is_newer(&self, tenant.subnets.get(&name)) {
            return;
        }
        let (spec, leaving) = (self.spec.clone(), self.metadata.deletion_timestamp.is_some());
        let old = tenant.subnets.insert(name.clone(), Arc::new(self));
        let same =
            old.as_ref().is_some_and(|old| old.spec == spec && old.metadata.deletion_timestamp.is_some() == leaving);
        if !same {
            tenant.renew(&network);
            if let Some(old) = old.filter(|old| old.spec.network != network) {
                tenant.renew(&old.spec.network);
            }
        }
        if acts {
            if !same {
                wake_pods(tenant, id, queue, |_| true);
                wake_ports(tenant, id, queue, &network);
            }
            queue.add(Key::Subnet(id.clone(), name));
        }
    }

    fn remove(inner: &mut Inner, id: &TenantId, name: &str, queue: &Queue) {
        let Some(tenant) = inner.tenants.get_mut(id) else { return };
        if let Some(old) = tenant.subnets.remove(name) {
            tenant.renew(&old.spec.network);
            queue.add(Key::Network(id.clone(), old.spec.network.clone()));
        }
    }
}

impl Followed for Port {
    fn ids(tenant: &AddressBook) -> Box<dyn Iterator<Item = String> + '_> {
        Box::new(tenant.ports.keys().cloned())
    }

    fn apply(self, inner: &mut Inner, id: &TenantId, queue: &Queue) {
        let acts = inner.acts(queue);
        let tenant = inner.tenants.entry(id.clone()).or_default();
        let name = self.name_any();
        if !is_newer(&self, tenant.ports.get(&name)) {
            return;
        }
        let port = Arc::new(self);
        let old = tenant.ports.insert(name.clone(), Arc::clone(&port));
        // Another port of the same name: what the first had is free before the second is noted.
        let old = old.filter(|old| {
            let same = old.uid() == port.uid();
            if !same {
                tenant.release(&name);
            }
            same
        });
        tenant.note_port(&port, old.as_deref());
        if acts {
            queue.add(Key::Port(id.clone(), name));
            wake_pod_of(queue, id, &port);
        }
    }

    fn remove(inner: &mut Inner, id: &TenantId, name: &str, queue: &Queue) {
        let acts = inner.acts(queue);
        let Some(tenant) = inner.tenants.get_mut(id) else { return };
        let Some(old) = tenant.ports.remove(name) else { return };
        tenant.release(name);
        if !acts {
            return;
        }
        // What waited for an address may have it now; what waited for the port to go may go, too.
        queue.add(Key::Network(id.clone(), old.spec.network.clone()));
        for fixed in &old.spec.fixed_ips {
            queue.add(Key::Subnet(id.clone(), fixed.subnet.clone()));
        }
        wake_ports(tenant, id, queue, &old.spec.network);
        wake_pods(tenant, id, queue, |_| true);
        wake_pod_of(queue, id, &old);
    }
}

impl Followed for Namespace {
    fn ids(tenant: &AddressBook) -> Box<dyn Iterator<Item = String> + '_> {
        Box::new(tenant.namespaces.keys().cloned())
    }

    fn apply(self, inner: &mut Inner, id: &TenantId, queue: &Queue) {
        let acts = inner.acts(queue);
        let tenant = inner.tenants.entry(id.clone()).or_default();
        let name = self.name_any();
        let network = self.annotations().get(names::NETWORK_ANNOTATION).filter(|network| !network.is_empty()).cloned();
        let old = tenant.namespaces.insert(name.clone(), network.clone());
        if acts && old != Some(network) {
            wake_pods(tenant, id, queue, |pod| pod.namespace == name);
        }
    }

    fn remove(inner: &mut Inner, id: &TenantId, name: &str, _: &Queue) {
        if let Some(tenant) = inner.tenants.get_mut(id) {
            tenant.namespaces.remove(name);
        }
    }
}

impl Followed for Pod {
    fn id(&self) -> String {
        self.uid().unwrap_or_default()
    }

    fn ids(tenant: &AddressBook) -> Box<dyn Iterator<Item = String> + '_> {
        Box::new(tenant.pods.keys().cloned())
    }

    fn apply(self, inner: &mut Inner, id: &TenantId, queue: &Queue) {
        let acts = inner.acts(queue);
        let tenant = inner.tenants.entry(id.clone()).or_default();
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref());
        let record = PodRecord {
            namespace: self.namespace().unwrap_or_default(),
            name: self.name_any(),
            uid: self.id(),
            node: self.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            network: self.annotations().get(names::NETWORK_ANNOTATION).filter(|name| !name.is_empty()).cloned(),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            created: self.creation_timestamp().map(|time| time.0.to_string()).unwrap_or_default(),
        };
        if tenant.pods.get(&record.uid) == Some(&record) {
            return;
        }
        if acts && !record.finished && !tenant.ports.contains_key(&record.port()) {
            // In the order of the events: the same manifest gives the same addresses. The worker asks again, and
            // says why if it is refused.
            let _ = tenant.place_pod(&record);
        }
        let uid = record.uid.clone();
        tenant.pods.insert(uid.clone(), record);
        if acts {
            queue.add(Key::Pod(id.clone(), uid));
        }
    }

    fn remove(inner: &mut Inner, id: &TenantId, uid: &str, queue: &Queue) {
        if let Some(tenant) = inner.tenants.get_mut(id)
            && tenant.pods.remove(uid).is_some()
        {
            queue.add(Key::Pod(id.clone(), uid.to_owned()));
        }
    }
}
