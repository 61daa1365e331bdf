//! Pods that nobody else ends (upstream's `pod-garbage-collector`): those of nodes that are gone, and the oldest of too
//! many that have ended.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hypernetes_api::{TenantId, time::whole_seconds};
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, Preconditions},
};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Queue, Reconciler, Recorder, Subject},
};

pub fn start(wiring: &Wiring<'_>) {
    let context = Context::new(wiring.informers, "pod-garbage-collector");
    nodeless(wiring, context.clone());
    ended(wiring, context);
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Deletes this very pod at once.
async fn delete(context: &Context, key: &Key, pod: &Pod) -> Result<(), Error> {
    let api: Api<Pod> = context.namespaced(&key.tenant, &key.namespace);
    let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default().grace_period(0) };
    match api.delete(&key.name, &parameters).await.during("deleting a pod that nobody ends") {
        Err(error) if error.code() == Some(404) => Ok(()),
        other => other.map(drop),
    }
}

fn nodeless(wiring: &Wiring<'_>, context: Context) {
    let queue = wiring.queue();
    let (pods, nodes) = (wiring.informers.of::<Pod>(), wiring.informers.of::<Node>());
    pods.feed(&queue, |key, pod| node_of(pod).map(|_| key.clone()).into_iter().collect());
    let on_gone = queue.clone();
    nodes.subscribe(move |node, _, now| {
        if now.is_some() {
            return;
        }
        for (key, _) in pods.all().into_iter().filter(|(_, pod)| node_of(pod) == Some(&node.name)) {
            on_gone.add(key);
        }
    });
    wiring.drive(Nodeless { context, grace: wiring.limits.nodeless_grace, since: Mutex::default() }, queue);
}

/// Pods bound to nodes that do not exist.
struct Nodeless {
    context: Context,
    grace: Duration,
    /// Since when the nodes of which pods have been missed.
    since: Mutex<HashMap<Key, Instant>>,
}

#[async_trait]
impl Reconciler for Nodeless {
    const NAME: &'static str = "pods-of-gone-nodes";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let informers = &self.context.informers;
        let pod = informers.of::<Pod>().get(key);
        let is_there = |node: &str| informers.of::<Node>().get(&Key::new(&TenantId::system(), "", node)).is_some();
        let missing = pod.as_ref().and_then(|pod| Some((pod, node_of(pod).filter(|node| !is_there(node))?)));
        let Some((pod, node)) = missing else {
            self.since.lock().remove(key);
            return Ok(None);
        };
        let since = *self.since.lock().entry(key.clone()).or_insert_with(Instant::now);
        let left = self.grace.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // The cache may be behind.
        let nodes: Api<Node> = self.context.cluster(&TenantId::system());
        if nodes.get_metadata_opt(node).await.during("looking for a pod's node")?.is_some() {
            return Err(Error::Waiting(format!("the node {node} is not in the cache yet")));
        }
        tracing::info!(%key, node, "deleting a pod whose node is gone");
        if !has_ended(pod) {
            self.fail(key, pod).await?;
        }
        delete(&self.context, key, pod).await?;
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Pod>(key)
    }
}

impl Nodeless {
    /// Says first why it ends, as its owner (a Job) may want to know (KEP-3329).
    async fn fail(&self, key: &Key, pod: &Pod) -> Result<(), Error> {
        let now = Timestamp::now();
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"phase": "Failed", "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": whole_seconds(now),
            }]},
        });
        let api: Api<Pod> = self.context.namespaced(&key.tenant, &key.namespace);
        let written = api.patch_status(&key.name, &self.context.patching(), &Patch::Strategic(patch)).await;
        written.during("failing a pod whose node is gone").map(drop)
    }
}

fn ended(wiring: &Wiring<'_>, context: Context) {
    let queue: Queue<TenantId> = Queue::default();
    let most = wiring.limits.terminated_pods;
    let counts: Mutex<HashMap<TenantId, usize>> = Mutex::default();
    let full = queue.clone();
    wiring.informers.of::<Pod>().subscribe(move |key, before, now| {
        let (before, now) = (before.is_some_and(has_ended), now.is_some_and(has_ended));
        if before == now {
            return;
        }
        let mut counts = counts.lock();
        let count = counts.entry(key.tenant.clone()).or_default();
        *count = if now { *count + 1 } else { count.saturating_sub(1) };
        if *count > most {
            full.add(key.tenant.clone());
        } else if *count == 0 {
            counts.remove(&key.tenant);
        }
    });
    wiring.drive(Ended { context, most }, queue);
}

/// The pods of a tenant that have ended. Each tenant has the number that upstream gives a cluster.
struct Ended {
    context: Context,
    most: usize,
}

#[async_trait]
impl Reconciler for Ended {
    const NAME: &'static str = "ended-pods";
    type Key = TenantId;

    async fn reconcile(&self, tenant: &TenantId) -> Result<Option<Duration>, Error> {
        let mut pods: Vec<Arc<Pod>> = self.context.informers.of::<Pod>().list_tenant(tenant);
        pods.retain(|pod| has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
        let surplus = pods.len().saturating_sub(self.most);
        pods.sort_by_key(|pod| (pod.creation_timestamp().map(|time| time.0), pod.name_any()));
        for pod in pods.iter().take(surplus) {
            let key = Key::new(tenant, &pod.namespace().unwrap_or_default(), &pod.name_any());
            delete(&self.context, &key, pod).await?;
        }
        Ok(None)
    }

    /// Those that end are many, and none of them is to blame.
    fn told(&self, _: &TenantId) -> Option<(&Recorder, Subject)> {
        None
    }
}
