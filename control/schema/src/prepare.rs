//! What the server itself sets or keeps before a write: status, generations (upstream's create and update strategies).

use crate::ObjectType;
use crate::defaults::qos_class;
use crate::walk::{child, put};
use serde_json::{Map, Value, json};

/// Kinds whose `status` is a subresource, so that writes of the main resource cannot touch it.
const STATUS_SUBRESOURCE: &[(&str, &str)] = &[
    ("", "Namespace"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("", "Pod"),
    ("", "ReplicationController"),
    ("", "ResourceQuota"),
    ("", "Service"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("batch", "CronJob"),
    ("batch", "Job"),
    ("autoscaling", "HorizontalPodAutoscaler"),
    ("policy", "PodDisruptionBudget"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "ServiceCIDR"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("storage.k8s.io", "VolumeAttachment"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("resource.k8s.io", "ResourceClaim"),
    ("identity.hypernetes.io", "Project"),
    ("network.hypernetes.io", "Network"),
    ("network.hypernetes.io", "Port"),
    ("volume.hypernetes.io", "Volume"),
    ("volume.hypernetes.io", "Attachment"),
];

/// Kinds that count the changes of their spec in `metadata.generation`.
const GENERATION: &[(&str, &str)] = &[
    ("", "Pod"),
    ("", "ReplicationController"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("batch", "CronJob"),
    ("batch", "Job"),
    ("policy", "PodDisruptionBudget"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
];

/// Fields of `metadata` that only the server sets: an update keeps the old ones.
const SERVER_METADATA: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

impl ObjectType {
    /// Whether `status` is written through a subresource of its own.
    pub fn has_status_subresource(&self) -> bool {
        listed(STATUS_SUBRESOURCE, self)
    }

    fn has_generation(&self) -> bool {
        self.is_own() || listed(GENERATION, self)
    }
}

fn listed(kinds: &[(&str, &str)], ty: &ObjectType) -> bool {
    kinds.contains(&(ty.group.as_str(), ty.kind.as_str()))
}

pub(crate) fn create(ty: &ObjectType, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    if ty.has_status_subresource() {
        object.remove("status");
        if let Some(status) = first_status(ty, object) {
            object.insert("status".into(), status);
        }
    }
    let metadata = child(object, "metadata");
    for field in SERVER_METADATA {
        // uid and creation time are set by the engine, which may have done so already.
        if field != "uid" && field != "creationTimestamp" {
            metadata.remove(field);
        }
    }
    if ty.has_generation() {
        metadata.insert("generation".into(), 1.into());
    }
}

/// The status that a new object is stored with.
fn first_status(ty: &ObjectType, object: &Map<String, Value>) -> Option<Value> {
    match (ty.group.as_str(), ty.kind.as_str()) {
        ("", "Pod") => {
            let class = object.get("spec").map_or("BestEffort", qos_class);
            Some(json!({"phase": "Pending", "qosClass": class}))
        }
        ("", "Namespace") => Some(json!({"phase": "Active"})),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => Some(json!({"phase": "Pending"})),
        ("", "Service") => Some(json!({"loadBalancer": {}})),
        ("apps", "ReplicaSet" | "StatefulSet") => Some(json!({"replicas": 0})),
        ("apps", "DaemonSet") => Some(json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        })),
        // An empty status is what other kinds start with; those who fill it do not need the field to be there.
        _ => None,
    }
}

pub(crate) fn update(ty: &ObjectType, object: &mut Value, old: &Value) {
    let Some(object) = object.as_object_mut() else { return };
    if ty.has_status_subresource() {
        put(object, "status", old.get("status").cloned());
    }
    keep_server_metadata(object, old);
    if ty.has_generation() && changed(object, old) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        child(object, "metadata").insert("generation".into(), (generation + 1).into());
    }
}

/// Whether anything but metadata and status differs.
fn changed(object: &Map<String, Value>, old: &Value) -> bool {
    let Some(old) = old.as_object() else { return true };
    let counts = |name: &&String| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind");
    object.keys().chain(old.keys()).filter(counts).any(|name| object.get(name) != old.get(name))
}

fn keep_server_metadata(object: &mut Map<String, Value>, old: &Value) {
    let old = old.get("metadata");
    let metadata = child(object, "metadata");
    for field in SERVER_METADATA {
        put(metadata, field, old.and_then(|old| old.get(field)).cloned());
    }
}

pub(crate) fn status_update(ty: &ObjectType, object: &mut Value, old: &Value) {
    let Some(new) = object.as_object_mut() else { return };
    let status = new.remove("status");
    let sent = new.remove("metadata").unwrap_or_default();
    let mut kept = old.as_object().cloned().unwrap_or_default();
    put(&mut kept, "status", status);
    // Metadata other than labels, annotations, finalizers and owners is the server's anyway. As upstream, these may change
    // through the status of a node or a pod's, and of others stay.
    let metadata = child(&mut kept, "metadata");
    let open: &[&str] = if ty.group.is_empty() && ty.kind == "Node" {
        &["resourceVersion", "managedFields", "labels", "annotations"]
    } else {
        &["resourceVersion", "managedFields"]
    };
    for field in open {
        put(metadata, field, sent.get(*field).cloned());
    }
    *new = kept;
}

/// Of an applied configuration: drops the part that belongs to the other endpoint (the status, or all but the status).
pub(crate) fn keep_only_own_part(ty: &ObjectType, subresource: &str, configuration: &mut Value) {
    let Some(object) = configuration.as_object_mut() else { return };
    match subresource {
        "" if ty.has_status_subresource() => {
            object.remove("status");
        }
        "status" => object.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_counts_changes_of_the_spec_alone() {
        let ty = ObjectType::builtin("apps", "v1", "Deployment").unwrap();
        let mut created = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
        ty.prepare_create(&mut created);
        assert_eq!(created, json!({"metadata": {"name": "d", "generation": 1}, "spec": {"replicas": 1}}));
        let mut labelled = created.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        labelled["metadata"]["generation"] = json!(77);
        ty.prepare_update(&mut labelled, &created);
        assert_eq!(labelled["metadata"]["generation"], 1);
        let mut scaled = created.clone();
        scaled["spec"]["replicas"] = json!(2);
        scaled["status"] = json!({"replicas": 9});
        ty.prepare_update(&mut scaled, &created);
        assert_eq!(scaled["metadata"]["generation"], 2);
        assert_eq!(scaled.get("status"), None);
    }

    #[test]
    fn status_writes_touch_nothing_else() {
        let ty = ObjectType::builtin("", "v1", "Pod").unwrap();
        let old = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n"}});
        let mut new =
            json!({"metadata": {"name": "p", "labels": {"x": "y"}}, "spec": {}, "status": {"phase": "Running"}});
        ty.prepare_status_update(&mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["metadata"], old["metadata"]);
        assert_eq!(new["status"]["phase"], "Running");
    }
}
