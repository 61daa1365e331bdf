//! Events on pods, as users see them in `kubectl describe`.

use hypernetes_api::TenantId;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::worker::Shared;

/// Says something of a pod. The same words again count up; failing to say it is only logged.
pub async fn tell(shared: &Shared, tenant: &TenantId, pod: &Pod, warning: bool, reason: &str, message: &str) {
    let metadata = &pod.metadata;
    let (Some(name), Some(namespace)) = (metadata.name.clone(), metadata.namespace.clone()) else { return };
    let uid = metadata.uid.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(shared.config.clients.tenant(tenant), &namespace);
    // One object for the same words on the same pod: its name says both.
    let event_name = format!("{}.{:016x}", name, hash(&[&uid, reason, message]));
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let message: String = message.chars().take(1000).collect();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(event_name.clone()),
            namespace: Some(namespace.clone()),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(name),
            namespace: Some(namespace),
            uid: Some(uid),
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
    let outcome = match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let count = api.get_opt(&event_name).await.ok().flatten().and_then(|e| e.count).unwrap_or(1) + 1;
            let patch = json!({"count": count, "lastTimestamp": now});
            api.patch(&event_name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        other => other.map(drop),
    };
    if let Err(error) = outcome {
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
