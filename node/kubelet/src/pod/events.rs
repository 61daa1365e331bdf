//! Events on pods, as users see them in `kubectl describe`.

use hypernetes_client::Api;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::{
    identity::PodId,
    node::{Shared, api},
};

/// Longest name of an object, and what the hash takes of it.
const MAX_NAME: usize = 253 - 17;

/// Says something of a pod. The same words again count up; failing to say it is only logged.
pub async fn tell(shared: &Shared, pod: &PodId, warning: bool, reason: &str, message: &str) {
    let events: Api<Event> = Api::namespaced(shared.config.clients.tenant(&pod.tenant), &pod.namespace);
    // One object for the same words on the same pod: its name says both.
    let short: String = pod.name.chars().take(MAX_NAME).collect();
    let event_name = format!("{}.{:016x}", short.trim_end_matches(['-', '.']), hash(&[&pod.uid, reason, message]));
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let message: String = shared.redact.clean(message).chars().take(1000).collect();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(event_name.clone()),
            namespace: Some(pod.namespace.to_string()),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.to_string()),
            namespace: Some(pod.namespace.to_string()),
            uid: Some(pod.uid.to_string()),
            ..Default::default()
        },
        reason: Some(reason.into()),
        message: Some(message),
        type_: Some(if warning { "Warning" } else { "Normal" }.into()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now.clone()),
        event_time: None::<MicroTime>,
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(shared.config.node_name.clone()) }),
        ..Default::default()
    };
    let outcome = api::within(async {
        match events.create(&PostParams::default(), &event).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let count = events.get_opt(&event_name).await.ok().flatten().and_then(|e| e.count).unwrap_or(1);
                let patch = json!({"count": count.saturating_add(1), "lastTimestamp": now});
                events.patch(&event_name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            other => other.map(drop),
        }
    });
    if let Err(error) = outcome.await {
        tracing::debug!(%error, reason, "an event was not recorded");
    }
}

fn hash(parts: &[&str]) -> u64 {
    // FNV-1a: stable from one run to the next, which the standard library's hasher is not promised to be.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
