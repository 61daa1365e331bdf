//! Which API servers there are: those whose Lease is there ([`server_of`]). One that is not renewed for its time is deleted here. As of
//! nodes, time is counted from when a change was seen here: hosts' clocks may differ.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hypernetes_api::TenantId;
use hypernetes_client::Api;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Preconditions};
use parking_lot::Mutex;

use crate::{
    Wiring,
    runtime::{Context, During, Error, Informers, Key, Reconciler, Recorder, Subject, server_of},
};

/// Where the leases of servers are.
const NAMESPACE: &str = "kube-system";

/// When each server was last heard of.
type Heard = Arc<Mutex<HashMap<Key, Instant>>>;

pub fn start(wiring: &Wiring<'_>) {
    let context = Context::new(wiring.informers, "kube-apiserver");
    let (queue, heard) = (wiring.queue(), Heard::default());
    {
        let (queue, heard) = (queue.clone(), heard.clone());
        wiring.informers.of::<Lease>().subscribe(move |key, before, now| match now {
            Some(lease) if server_of(&key.tenant, lease).is_some() => {
                if before.map(|before| &before.spec) != Some(&lease.spec) {
                    heard.lock().insert(key.clone(), Instant::now());
                }
                queue.add(key.clone());
            }
            _ => drop(heard.lock().remove(key)),
        });
    }
    wiring.drive(Silent { context, heard }, queue);
}

/// Where all servers listen, `own` among them whatever is known of it.
pub fn addresses(informers: &Informers, own: SocketAddr) -> BTreeSet<SocketAddr> {
    let system = TenantId::system();
    let leases = informers.of::<Lease>().list(&system, NAMESPACE);
    leases.iter().filter_map(|lease| server_of(&system, lease)).chain([own]).collect()
}

/// Deletes the leases of servers that say nothing any more.
struct Silent {
    context: Context,
    heard: Heard,
}

#[async_trait]
impl Reconciler for Silent {
    const NAME: &'static str = "api-servers";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(lease) = self.context.informers.of::<Lease>().get(key) else { return Ok(None) };
        let Some(server) = server_of(&key.tenant, &lease) else { return Ok(None) };
        let seconds = lease.spec.as_ref().and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok());
        let lasts = Duration::from_secs(seconds.unwrap_or(0));
        let silent = self.heard.lock().get(key).map_or(Duration::ZERO, Instant::elapsed);
        if let Some(left) = lasts.checked_sub(silent).filter(|left| !left.is_zero()) {
            return Ok(Some(left));
        }
        tracing::warn!(%server, "an API server says nothing any more");
        let api: Api<Lease> = self.context.namespaced(&key.tenant, &key.namespace);
        let (uid, resource_version) = (lease.metadata.uid.clone(), lease.metadata.resource_version.clone());
        let still = DeleteParams::default().preconditions(Preconditions { uid, resource_version });
        match api.delete(&key.name, &still).await {
            // It has gone, or said something, meanwhile.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            other => other.during("deleting the lease of a server that is gone").map(|_| None),
        }
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Lease>(key)
    }
}
