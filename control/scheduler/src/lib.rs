//! The scheduler: gives each pending pod of every tenant a node.
//!
//! Nodes are filtered by readiness, taints, selectors and required affinity, resources and volumes, and the best of
//! those left is taken. Not here yet: affinity between pods, topology spread, preemption, and order by priority.
#![forbid(unsafe_code)]

mod claims;
mod filter;
mod ledger;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use hypernetes_api::TenantId;
use hypernetes_client::Api;
use hypernetes_runtime::{
    Context, During, Error, Informers, Key, Queue, Reconciler, Recorder, Severity, Subject, drive,
};
use hypernetes_schema::requests::{self, Amounts};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{ResourceExt, api::Patch, core::Status};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{claims::Claims, ledger::Ledger};

const SCHEDULER_NAME: &str = "default-scheduler";
/// A pod that fits nowhere is tried again after this long, though nothing that we know of has changed.
const AGAIN: Duration = Duration::from_secs(60);

/// Places pods until `stop`.
pub async fn run(informers: Informers, stop: CancellationToken) {
    let (queue, ledger, waiting) = (Queue::<Key>::default(), Ledger::default(), Waiting::default());
    let wake = {
        let (queue, waiting) = (queue.clone(), waiting.clone());
        move || waiting.all().into_iter().for_each(|key| queue.add(key))
    };
    // Claims and volumes are one tenant's, and nobody else's pods wait for them.
    let wake_tenant = {
        let (queue, waiting) = (queue.clone(), waiting.clone());
        move |tenant: &TenantId| waiting.of(tenant).into_iter().for_each(|key| queue.add(key))
    };
    {
        let (queue, ledger, wake) = (queue.clone(), ledger.clone(), wake.clone());
        informers.of::<Pod>().subscribe(move |key, before, now| {
            if ledger.follow(key, now) {
                wake();
            }
            // Our own notes on a pod's status are no reason to look at it again.
            let spec = |pod: Option<&Pod>| pod.and_then(|pod| pod.spec.clone());
            if now.is_some_and(is_pending) && spec(before) != spec(now) {
                queue.add(key.clone());
            }
        });
    }
    {
        let wake = wake.clone();
        informers.of::<Node>().subscribe(move |_, before, now| {
            if offer(before) != offer(now) {
                wake();
            }
        });
    }
    let woken = wake_tenant.clone();
    informers.of::<PersistentVolumeClaim>().subscribe(move |key, _, _| woken(&key.tenant));
    informers.of::<PersistentVolume>().subscribe(move |key, _, _| wake_tenant(&key.tenant));
    informers.of::<StorageClass>().subscribe(move |_, _, _| wake());

    let tasks = TaskTracker::new();
    let scheduler = Scheduler { context: Context::new(&informers, SCHEDULER_NAME), ledger, waiting };
    // One worker: each placement sees the one before it. Whose is next, the queue says: tenants have their turns.
    drive(&tasks, &informers, scheduler, queue, 1, &stop);
    tasks.close();
    tasks.wait().await;
}

/// Pods that found no node, of each tenant: what happens to one's claims costs nothing where others have many that wait.
/// Those that are woken have their turns with everybody's new ones, a tenant after the other ([`Queue`]).
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<HashMap<TenantId, HashSet<Key>>>>);

impl Waiting {
    fn note(&self, key: &Key) {
        self.0.lock().entry(key.tenant.clone()).or_default().insert(key.clone());
    }

    fn forget(&self, key: &Key) {
        let mut waiting = self.0.lock();
        if let Some(pods) = waiting.get_mut(&key.tenant) {
            pods.remove(key);
            if pods.is_empty() {
                waiting.remove(&key.tenant);
            }
        }
    }

    /// Takes out a tenant's.
    fn of(&self, tenant: &TenantId) -> HashSet<Key> {
        self.0.lock().remove(tenant).unwrap_or_default()
    }

    /// Takes out everybody's.
    fn all(&self) -> Vec<Key> {
        std::mem::take(&mut *self.0.lock()).into_values().flatten().collect()
    }
}

/// What of a node decides who can run on it.
fn offer(node: Option<&Node>) -> Option<(bool, serde_json::Value)> {
    let node = node?;
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    Some((filter::is_ready(node), json!([node.metadata.labels, node.spec, allocatable])))
}

fn is_pending(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    spec.node_name.is_none()
        && spec.scheduler_name.as_deref().is_none_or(|name| name == SCHEDULER_NAME)
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

struct Scheduler {
    context: Context,
    ledger: Ledger,
    waiting: Waiting,
}

#[async_trait]
impl Reconciler for Scheduler {
    const NAME: &'static str = "scheduler";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let informers = &self.context.informers;
        let Some(pod) = informers.of::<Pod>().get(key) else { return Ok(None) };
        if !is_pending(&pod) || self.ledger.is_placed(key, &pod) {
            return Ok(None);
        }
        // Noted before the look, so that what changes meanwhile wakes it.
        self.waiting.note(key);
        let nodes: Vec<Arc<Node>> = informers.of::<Node>().all().into_iter().map(|(_, node)| node).collect();
        let claims = match claims::of_pod(informers, key, &pod) {
            Ok(claims) => claims,
            Err(why) => {
                let message = format!("0/{} nodes are available: {why}.", nodes.len());
                return self.refuse(key, &pod, message).await;
            }
        };
        // A node would not run it.
        if let Some(why) = hypernetes_controllers::refused_today(&*pod) {
            return self.refuse(key, &pod, format!("0/{} nodes are available: {why}.", nodes.len())).await;
        }
        let wanted = match requests::requests(&pod) {
            Ok(wanted) => wanted,
            Err(refusal) => {
                let message = format!("0/{} nodes are available: {refusal}.", nodes.len());
                return self.refuse(key, &pod, message).await;
            }
        };
        let node = match self.choose(&pod, &wanted, &nodes, &claims) {
            Ok(node) => node,
            Err(message) => {
                self.release(key, &claims).await?;
                return self.refuse(key, &pod, message).await;
            }
        };
        if !claims.delayed.is_empty() {
            return self.select_node(key, &claims, &node).await;
        }
        self.waiting.forget(key);
        self.bind(key, &pod, &node).await?;
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Pod>(key)
    }
}

impl Scheduler {
    /// The best node.
    ///
    /// # Errors
    /// Why there is none.
    fn choose(&self, pod: &Pod, wanted: &Amounts, nodes: &[Arc<Node>], claims: &Claims) -> Result<String, String> {
        let volumes: Vec<&PersistentVolume> = claims.volumes.iter().map(|volume| &**volume).collect();
        // The node that delayed claims were told of stays chosen while it fits.
        let selected = claims.delayed.iter().find_map(|claim| claim.annotations().get(claims::SELECTED_NODE));
        let mut best: Option<(bool, i64, String)> = None;
        let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
        for node in nodes {
            let name = node.name_any();
            let all = requests::allocatable(node);
            let free = self.ledger.free(&name, &all);
            let reasons = filter::reasons(pod, node, &free, wanted, &volumes);
            if reasons.is_empty() {
                let score = filter::score(pod, node, &all, &free, wanted);
                let candidate = (selected == Some(&name), score, name);
                best = best.max(Some(candidate));
            }
            for reason in reasons {
                *refusals.entry(reason).or_default() += 1;
            }
        }
        best.map(|(_, _, name)| name).ok_or_else(|| filter::summary(nodes.len(), &refusals))
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> Result<(), Error> {
        let assumed = self.ledger.assume(key, pod, node);
        let api: Api<Pod> = self.context.namespaced(&key.tenant, &key.namespace);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let posting = self.context.posting();
        let bound = api.create_subresource::<_, Status>("binding", &key.name, &posting, &binding).await;
        bound.during("binding a pod")?;
        assumed.keep();
        let message = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
        let subject = Subject::of(&key.tenant, pod);
        self.context.events.say(&subject, Severity::Normal, "Scheduled", message).await;
        Ok(())
    }

    /// Tells the delayed claims the node; when they are bound, the pod comes again.
    async fn select_node(&self, key: &Key, claims: &Claims, node: &str) -> Result<Option<Duration>, Error> {
        for claim in &claims.delayed {
            if claim.annotations().get(claims::SELECTED_NODE).map(String::as_str) != Some(node) {
                self.annotate(key, claim, json!(node)).await?;
            }
        }
        Ok(Some(AGAIN))
    }

    /// The node that the claims were told of does not fit any more, and no other one does.
    async fn release(&self, key: &Key, claims: &Claims) -> Result<(), Error> {
        for claim in claims.delayed.iter().filter(|claim| claim.annotations().contains_key(claims::SELECTED_NODE)) {
            self.annotate(key, claim, serde_json::Value::Null).await?;
        }
        Ok(())
    }

    async fn annotate(&self, key: &Key, claim: &PersistentVolumeClaim, node: serde_json::Value) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> = self.context.namespaced(&key.tenant, &key.namespace);
        let patch = json!({"metadata": {"uid": claim.metadata.uid, "annotations": {claims::SELECTED_NODE: node}}});
        let written = self.context.merge(&api, &claim.name_any(), "telling a claim its node", patch).await?;
        self.context.informers.of::<PersistentVolumeClaim>().observe(&key.tenant, written);
        Ok(())
    }

    /// Says why the pod waits: in its condition, and once more in an event.
    async fn refuse(&self, key: &Key, pod: &Pod, message: String) -> Result<Option<Duration>, Error> {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let old = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
        let same = old.is_some_and(|old| old.status == "False" && old.message.as_deref() == Some(&message));
        if !same {
            let api: Api<Pod> = self.context.namespaced(&key.tenant, &key.namespace);
            let now = jiff::Timestamp::now();
            let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.as_ref());
            let since = since.map_or(hypernetes_api::time::whole_seconds(now), |time| time.0);
            let patch = Patch::Strategic(json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                    "lastProbeTime": null, "lastTransitionTime": since,
                }]},
            }));
            let written = api.patch_status(&key.name, &self.context.patching(), &patch).await;
            let written = written.during("saying why a pod waits")?;
            self.context.informers.of::<Pod>().observe(&key.tenant, written);
        }
        let subject = Subject::of(&key.tenant, pod);
        self.context.events.say(&subject, Severity::Warning, "FailedScheduling", message).await;
        Ok(Some(AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenants_news_wake_its_own_pods() {
        let [acme, globex] = ["acme", "globex"].map(|tenant| tenant.parse::<TenantId>().unwrap());
        let waiting = Waiting::default();
        let key = |tenant: &TenantId, name: &str| Key::new(tenant, "default", name);
        for name in ["a", "b"] {
            waiting.note(&key(&acme, name));
            waiting.note(&key(&globex, name));
        }
        waiting.forget(&key(&acme, "a"));
        assert_eq!(waiting.of(&acme), HashSet::from([key(&acme, "b")]));
        assert!(waiting.of(&acme).is_empty());
        waiting.note(&key(&acme, "c"));
        let mut all = waiting.all();
        all.sort();
        assert_eq!(all, [key(&acme, "c"), key(&globex, "a"), key(&globex, "b")]);
        assert!(waiting.all().is_empty() && waiting.0.lock().is_empty());
    }
}
