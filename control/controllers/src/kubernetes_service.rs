//! The Service `kubernetes` in `default` of every logical cluster, by which pods know the API server, and what is behind it:
//! Endpoints and an EndpointSlice of the same name, with the addresses of all servers. As kube-apiserver makes them (facts of 1.36.2):
//! what has been deleted of them comes again, and ports, type and addresses are put back; what else a tenant writes there stays. As with
//! upstream's, servers listen on one port: those on another than this one's are left out.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use async_trait::async_trait;
use hypernetes_api::names;
use hypernetes_client::Api;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Endpoints, Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::DeleteParams;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Wiring, api_servers,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject, server_of},
};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// `server`: where this server listens.
pub fn start(wiring: &Wiring<'_>, server: SocketAddr) {
    let informers = wiring.informers;
    let queue = wiring.queue();
    let its_namespace = |key: &Key| match key.namespace.as_str() {
        NAMESPACE => vec![Key::new(&key.tenant, "", NAMESPACE)],
        _ => Vec::new(),
    };
    informers
        .of::<Namespace>()
        .feed(&queue, |key, _| if key.name == NAMESPACE { vec![key.clone()] } else { Vec::new() });
    informers.named::<Service>(NAME).feed(&queue, move |key, _| its_namespace(key));
    informers.named::<Endpoints>(NAME).feed(&queue, move |key, _| its_namespace(key));
    informers.named::<EndpointSlice>(NAME).feed(&queue, move |key, _| its_namespace(key));
    {
        let (queue, namespaces) = (queue.clone(), informers.of::<Namespace>());
        informers.of::<Lease>().subscribe(move |key, before, now| {
            let server = |lease: Option<&Lease>| lease.and_then(|lease| server_of(&key.tenant, lease));
            if server(before) != server(now) {
                let all = namespaces.all().into_iter().map(|(key, _)| key);
                all.filter(|key| key.name == NAMESPACE).for_each(|key| queue.add(key));
            }
        });
    }
    wiring.drive(ApiServers { context: Context::new(informers, "kube-apiserver"), server }, queue);
}

/// Brings the objects of one logical cluster, known by its namespace, to where they should be.
struct ApiServers {
    context: Context,
    server: SocketAddr,
}

#[async_trait]
impl Reconciler for ApiServers {
    const NAME: &'static str = "kubernetes-service";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<std::time::Duration>, Error> {
        let namespace = self.context.informers.of::<Namespace>().get(key);
        if namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            return Ok(None);
        }
        let place = Key::new(&key.tenant, NAMESPACE, NAME);
        // Beside each other: each is a write, and waits for the disk.
        tokio::try_join!(self.service(&place), self.endpoints(&place), self.slice(&place))?;
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Namespace>(key)
    }
}

/// Whether an object has all that is wanted of it, as JSON has it.
fn has(object: &impl Serialize, wanted: &Value) -> Result<bool, Error> {
    fn within(have: &Value, wanted: &Value) -> bool {
        match (have, wanted) {
            (Value::Object(have), Value::Object(wanted)) => {
                wanted.iter().all(|(name, wanted)| have.get(name).is_some_and(|have| within(have, wanted)))
            }
            (have, wanted) => have == wanted,
        }
    }
    Ok(within(&serde_json::to_value(object)?, wanted))
}

impl ApiServers {
    async fn service(&self, place: &Key) -> Result<(), Error> {
        let api: Api<Service> = self.context.namespaced(&place.tenant, NAMESPACE);
        let port = json!({"name": "https", "protocol": "TCP", "port": 443, "targetPort": self.server.port()});
        let kept = json!({"spec": {"type": "ClusterIP", "ports": [port]}});
        let services = self.context.informers.named::<Service>(NAME);
        match services.get(place) {
            None => {
                let address = names::KUBERNETES_ADDRESS;
                let service = json!({
                    "metadata": {"name": NAME, "labels": {"component": "apiserver", "provider": "kubernetes"}},
                    "spec": {
                        "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [port],
                    },
                });
                self.context.ensure(&services, &place.tenant, &api, "making the service of the API", service).await?;
            }
            Some(service) if !has(&*service, &kept)? => {
                self.context.merge(&api, NAME, "restoring the service of the API", kept).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    async fn endpoints(&self, place: &Key) -> Result<(), Error> {
        let api: Api<Endpoints> = self.context.namespaced(&place.tenant, NAMESPACE);
        let ports = json!([{"name": "https", "port": self.server.port(), "protocol": "TCP"}]);
        let addresses: Vec<Value> = self.addresses().into_iter().map(|ip| json!({"ip": ip})).collect();
        let subsets = match addresses.is_empty() {
            true => json!([]),
            false => json!([{"addresses": addresses, "ports": ports}]),
        };
        let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
        let all = self.context.informers.named::<Endpoints>(NAME);
        match all.get(place) {
            None => {
                let endpoints = json!({"metadata": {"name": NAME, "labels": labels}, "subsets": subsets});
                self.context.ensure(&all, &place.tenant, &api, "making the endpoints of the API", endpoints).await?;
            }
            Some(endpoints) => {
                let right = endpoints.subsets.as_deref().unwrap_or_default();
                if serde_json::to_value(right)? != subsets || !has(&endpoints.metadata.labels, &labels)? {
                    let kept = json!({"metadata": {"labels": labels}, "subsets": subsets});
                    self.context.merge(&api, NAME, "restoring the endpoints of the API", kept).await?;
                }
            }
        }
        Ok(())
    }

    async fn slice(&self, place: &Key) -> Result<(), Error> {
        let api: Api<EndpointSlice> = self.context.namespaced(&place.tenant, NAMESPACE);
        let family = if self.server.is_ipv6() { "IPv6" } else { "IPv4" };
        let addresses = self.addresses().into_iter().filter(|ip| ip.is_ipv6() == self.server.is_ipv6());
        let endpoints: Vec<Value> =
            addresses.map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        let kept = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": NAME}},
            "endpoints": endpoints,
            "ports": [{"name": "https", "port": self.server.port(), "protocol": "TCP"}],
        });
        let slices = self.context.informers.named::<EndpointSlice>(NAME);
        match slices.get(place) {
            None => {
                let mut slice = kept;
                slice["metadata"]["name"] = NAME.into();
                slice["addressType"] = family.into();
                self.context
                    .ensure(&slices, &place.tenant, &api, "making the endpoint slice of the API", slice)
                    .await?;
            }
            // Of which family it is, is for life.
            Some(slice) if slice.address_type != family => {
                api.delete(NAME, &DeleteParams::default())
                    .await
                    .during("deleting an endpoint slice of another family")?;
            }
            Some(slice) if !has(&*slice, &kept)? => {
                self.context.merge(&api, NAME, "restoring the endpoint slice of the API", kept).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The servers' addresses, in order, as far as they can be reached from elsewhere.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let servers = api_servers::addresses(&self.context.informers, self.server);
        let alike = servers.into_iter().filter(|server| server.port() == self.server.port());
        alike.map(|server| server.ip()).filter(is_reachable).collect()
    }
}

/// No endpoint may have another address.
fn is_reachable(ip: &IpAddr) -> bool {
    let link = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !link && !ip.is_loopback() && !ip.is_unspecified()
}
