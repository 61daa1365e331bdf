//! Nodes that say nothing any more: marked `Unknown` and tainted, so that no pod comes to them; and back when they are.
//!
//! The kubelet renews its Lease in `kube-node-lease` (KEP-589) and writes its Node's status. As upstream, time is
//! counted from when a change was seen here: hosts' clocks may differ.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hypernetes_api::{TenantId, time::whole_seconds};
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, NodeCondition, Taint},
};
use kube::{ResourceExt, api::Patch};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Severity, Subject},
};

const LEASES: &str = "kube-node-lease";
const READY: &str = "Ready";
/// Conditions that nobody knows of a node that says nothing.
const CONDITIONS: [&str; 4] = [READY, "MemoryPressure", "DiskPressure", "PIDPressure"];
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECTS: [&str; 2] = ["NoSchedule", "NoExecute"];

/// When each node was last heard of.
type Heard = Arc<Mutex<HashMap<String, Instant>>>;

pub fn start(wiring: &Wiring<'_>) {
    let context = Context::new(wiring.informers, "node-controller");
    let queue = wiring.queue();
    let heard = Heard::default();
    {
        let (queue, heard) = (queue.clone(), heard.clone());
        wiring.informers.of::<Node>().subscribe(move |key, before, now| {
            let Some(now) = now else {
                heard.lock().remove(&key.name);
                return;
            };
            if heartbeat(before) != heartbeat(Some(now)) || before.is_none() {
                heard.lock().insert(key.name.clone(), Instant::now());
            }
            queue.add(key.clone());
        });
    }
    {
        let (queue, heard) = (queue.clone(), heard.clone());
        wiring.informers.of::<Lease>().subscribe(move |key, before, now| {
            if key.namespace == LEASES && key.tenant.is_system() && renewed(before) != renewed(now) {
                if let Some(last) = heard.lock().get_mut(&key.name) {
                    *last = Instant::now();
                }
                queue.add(Key::new(&key.tenant, "", &key.name));
            }
        });
    }
    wiring.drive(Nodes { context, heard, grace: wiring.limits.node_grace }, queue);
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().find(|condition| condition.type_ == kind)
}

/// What a kubelet's write of its node's status changes; our own leaves it.
fn heartbeat(node: Option<&Node>) -> Option<Timestamp> {
    condition(node?, READY)?.last_heartbeat_time.as_ref().map(|time| time.0)
}

fn renewed(lease: Option<&Lease>) -> Option<Timestamp> {
    lease?.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)
}

struct Nodes {
    context: Context,
    heard: Heard,
    grace: Duration,
}

#[async_trait]
impl Reconciler for Nodes {
    const NAME: &'static str = "node-lifecycle";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let nodes = self.context.informers.of::<Node>();
        let Some(mut node) = nodes.get(key) else { return Ok(None) };
        let last = self.heard.lock().get(&key.name).copied();
        let silent = last.map_or(Duration::ZERO, |last| last.elapsed());
        if silent >= self.grace && condition(&node, READY).is_some_and(|ready| ready.status != "Unknown") {
            node = self.mark_unknown(key, &node).await?;
        }
        self.taint(key, &node).await?;
        let left = self.grace.saturating_sub(silent);
        // A node that is silent comes again when it says something.
        Ok((!left.is_zero()).then_some(left))
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Node>(key)
    }
}

impl Nodes {
    async fn mark_unknown(&self, key: &Key, node: &Node) -> Result<Arc<Node>, Error> {
        let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let now = Timestamp::now();
        let now = whole_seconds(now);
        for condition in conditions.iter_mut().filter(|condition| CONDITIONS.contains(&condition.type_.as_str())) {
            if condition.status != "Unknown" {
                condition.last_transition_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
            }
            condition.status = "Unknown".into();
            condition.reason = Some("NodeStatusUnknown".into());
            condition.message = Some("Kubelet stopped posting node status.".into());
        }
        let patch = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let api: Api<Node> = self.context.cluster(&TenantId::system());
        let written = api.patch_status(&key.name, &self.context.patching(), &Patch::Merge(patch)).await;
        let written = written.during("marking a silent node")?;
        let message = format!("Node {} status is now: NodeNotReady", key.name);
        let subject = Subject::of(&key.tenant, node);
        self.context.events.say(&subject, Severity::Normal, "NodeNotReady", message).await;
        tracing::warn!(node = key.name, "the node says nothing any more");
        self.context.informers.of::<Node>().observe(&key.tenant, written.clone());
        Ok(Arc::new(written))
    }

    /// Puts the taints that the `Ready` condition asks for, and takes off those that it does not.
    async fn taint(&self, key: &Key, node: &Node) -> Result<(), Error> {
        let wanted = match condition(node, READY).map(|ready| ready.status.as_str()) {
            Some("Unknown") => Some(UNREACHABLE),
            Some("False") => Some(NOT_READY),
            _ => None,
        };
        let have = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let taints = tainted(&have, wanted);
        if taints == have {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let api: Api<Node> = self.context.cluster(&TenantId::system());
        let written = self.context.merge(&api, &node.name_any(), "tainting a node", patch).await?;
        self.context.informers.of::<Node>().observe(&key.tenant, written);
        Ok(())
    }
}

/// Taints of others stay, and ours that stay keep the time at which they came.
fn tainted(have: &[Taint], wanted: Option<&str>) -> Vec<Taint> {
    let ours = |taint: &&Taint| [UNREACHABLE, NOT_READY].contains(&taint.key.as_str());
    let mut taints: Vec<Taint> =
        have.iter().filter(|taint| !ours(taint) || Some(taint.key.as_str()) == wanted).cloned().collect();
    let now = Timestamp::now();
    let now = whole_seconds(now);
    for (key, effect) in wanted.into_iter().flat_map(|key| EFFECTS.map(|effect| (key, effect))) {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
            taints.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    taints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_of_others_stay() {
        let other = Taint { key: "gpu".into(), effect: "NoSchedule".into(), ..Default::default() };
        let unreachable = tainted(std::slice::from_ref(&other), Some(UNREACHABLE));
        let keys = |taints: &[Taint]| taints.iter().map(|taint| taint.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&unreachable), ["gpu", UNREACHABLE, UNREACHABLE]);
        assert_eq!(tainted(&unreachable, Some(UNREACHABLE)), unreachable);
        assert_eq!(keys(&tainted(&unreachable, Some(NOT_READY))), ["gpu", NOT_READY, NOT_READY]);
        assert_eq!(tainted(&unreachable, None), [other]);
    }
}
