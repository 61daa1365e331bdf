//! Finalizers that keep claims while pods use them, and volumes while claims are bound to them
//! (KEP "storage object in use protection"; upstream's `pvcprotection` and `pvprotection`).

use std::time::Duration;

use async_trait::async_trait;
use hypernetes_client::Api;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use serde_json::{Value, json};

use super::{claims_of, finalizers, has_finalizer, phase_of};
use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject},
};

pub const CLAIM: &str = "kubernetes.io/pvc-protection";
pub const VOLUME: &str = "kubernetes.io/pv-protection";

pub fn start(wiring: &Wiring<'_>) {
    let informers = wiring.informers;
    let context = Context::new(informers, "pvc-protection-controller");
    let queue = wiring.queue();
    informers.of::<PersistentVolumeClaim>().feed(&queue, |key, _| vec![key.clone()]);
    informers.of::<Pod>().feed(&queue, |key, pod| claims_of(pod).iter().map(|name| key.sibling(name)).collect());
    wiring.drive(Claims { context }, queue);

    let context = Context::new(informers, "pv-protection-controller");
    let queue = wiring.queue();
    informers.of::<PersistentVolume>().feed(&queue, |key, _| vec![key.clone()]);
    wiring.drive(Volumes { context }, queue);
}

/// A pod that is on no node yet will not get there with a claim that goes.
fn uses(pod: &Pod, claim: &str) -> bool {
    let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|node| !node.is_empty());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    placed && !matches!(phase, Some("Succeeded" | "Failed")) && claims_of(pod).iter().any(|name| name == claim)
}

struct Claims {
    context: Context,
}

#[async_trait]
impl Reconciler for Claims {
    const NAME: &'static str = "claim-protection";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let informers = &self.context.informers;
        let claims = informers.of::<PersistentVolumeClaim>();
        let Some(claim) = claims.get(key) else { return Ok(None) };
        let (has, goes) = (has_finalizer(&*claim, CLAIM), claim.metadata.deletion_timestamp.is_some());
        if has != goes {
            return Ok(None);
        }
        if goes {
            let cached = informers.of::<Pod>().list(&key.tenant, &key.namespace);
            if cached.iter().any(|pod| uses(pod, &key.name)) {
                return Ok(None);
            }
            // A pod that the cache does not know yet would lose its data.
            let pods: Api<Pod> = self.context.namespaced(&key.tenant, &key.namespace);
            let live = pods.list(&ListParams::default()).await.during("looking for users of a claim")?;
            if live.items.iter().any(|pod| uses(pod, &key.name)) {
                return Err(Error::Waiting(format!("a pod that uses {key} is not in the cache yet")));
            }
        }
        let api: Api<PersistentVolumeClaim> = self.context.namespaced(&key.tenant, &key.namespace);
        let patch = patch(&*claim, CLAIM, !goes);
        let written = self.context.merge(&api, &key.name, "protecting a claim", patch).await?;
        if !goes {
            claims.observe(&key.tenant, written);
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<PersistentVolumeClaim>(key)
    }
}

struct Volumes {
    context: Context,
}

#[async_trait]
impl Reconciler for Volumes {
    const NAME: &'static str = "volume-protection";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let volumes = self.context.informers.of::<PersistentVolume>();
        let Some(volume) = volumes.get(key) else { return Ok(None) };
        let (has, goes) = (has_finalizer(&*volume, VOLUME), volume.metadata.deletion_timestamp.is_some());
        if has != goes || (goes && phase_of(&volume) == "Bound") {
            return Ok(None);
        }
        let api: Api<PersistentVolume> = self.context.cluster(&key.tenant);
        let patch = patch(&*volume, VOLUME, !goes);
        let written = self.context.merge(&api, &key.name, "protecting a volume", patch).await?;
        if !goes {
            volumes.observe(&key.tenant, written);
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<PersistentVolume>(key)
    }
}

fn patch<K: kube::Resource>(object: &K, finalizer: &str, wanted: bool) -> Value {
    let meta = object.meta();
    json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers(object, finalizer, wanted),
    }})
}
