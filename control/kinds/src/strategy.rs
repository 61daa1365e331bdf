//! What the server itself sets or keeps before a write: status, generations (upstream's create and update strategies).

use hypernetes_schema::walk::{child, put};
use serde_json::{Map, Value};

use crate::{
    resource::{FieldPath, Resource},
    subresource::Behaviour,
};

/// Fields of `metadata` that only the server sets: an update keeps the old ones.
const SERVER_METADATA: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

impl Resource {
    /// Before a create: drops what only the server sets (the status where it has an endpoint of its own) and the namespace of
    /// what has none, sets the status that a new object has, and the first generation. (uid, creation time, names from `generateName` and resource versions are
    /// the engine's.)
    pub fn prepare_create(&self, object: &mut Value) {
        let Some(object) = object.as_object_mut() else { return };
        if self.has_status() {
            let status = self.strategy.first_status.map(|first| first(object));
            put(object, "status", status);
        }
        let metadata = child(object, "metadata");
        if !self.ty.namespaced {
            metadata.remove("namespace");
        }
        for field in SERVER_METADATA {
            // uid and creation time are set by the engine, which may have done so already.
            if field != "uid" && field != "creationTimestamp" {
                metadata.remove(field);
            }
        }
        if self.strategy.counts_changes {
            metadata.insert("generation".into(), 1.into());
        }
    }

    /// Of an object that is marked for deletion: what its status says of that, and who has to act first.
    pub fn mark_deleted(&self, object: &mut Value) {
        if let (Some(mark), Some(object)) = (self.strategy.deleted, object.as_object_mut()) {
            mark(object);
        }
    }

    /// Before a change of an object, which comes through a subresource or, with none, through its own endpoint: what is not
    /// written there stays as it was.
    pub fn prepare_change(&self, through: Option<&Behaviour>, object: &mut Value, old: &Value) {
        match through {
            None | Some(Behaviour::Scale(_)) => self.prepare_update(object, old),
            Some(Behaviour::Status) => self.prepare_status_update(object, old),
            Some(Behaviour::Approval) => self.prepare_approval_update(object, old),
            Some(Behaviour::Finalize) => self.prepare_whole_update(object, old),
            // What is bound is made of the old object, and has parts of spec and status set. The others change no object.
            Some(Behaviour::Bind | Behaviour::Evict | Behaviour::IssueToken | Behaviour::Connect(_)) => {}
        }
    }

    /// Before an update of the object itself: keeps what other endpoints and the server set, and counts the change.
    fn prepare_update(&self, object: &mut Value, old: &Value) {
        for field in self.strategy.kept {
            keep(object, old, field);
        }
        self.prepare_whole_update(object, old);
    }

    /// As [`Self::prepare_update`], of an endpoint whose own is what the object's does not change.
    fn prepare_whole_update(&self, object: &mut Value, old: &Value) {
        let Some(object) = object.as_object_mut() else { return };
        if !self.ty.namespaced {
            child(object, "metadata").remove("namespace");
        }
        if self.has_status() {
            put(object, "status", old.get("status").cloned());
            self.strategy.changed_status.inspect(|change| change(object));
        }
        keep_server_metadata(object, old);
        // Where a definition does not set the status apart, it is a part as any other.
        let status_counts = self.ty.is_defined() && !self.has_status();
        if self.strategy.counts_changes && changed(object, old, status_counts) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            child(object, "metadata").insert("generation".into(), (generation + 1).into());
        }
    }

    /// Before an update of the `status` endpoint: keeps all of `old` but the status, managed fields, and the metadata that may
    /// change by it. Other metadata is the server's, or, as upstream, stays.
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        let Some(new) = object.as_object_mut() else { return };
        let status = new.remove("status");
        let sent = new.remove("metadata").unwrap_or_default();
        let mut kept = old.as_object().cloned().unwrap_or_default();
        put(&mut kept, "status", status);
        let metadata = child(&mut kept, "metadata");
        for field in ["resourceVersion", "managedFields"].iter().chain(self.strategy.metadata_by_status) {
            put(metadata, field, sent.get(*field).cloned());
        }
        *new = kept;
    }

    /// Before an update of the `approval` endpoint: keeps all of `old` but the conditions of its status, and managed fields.
    fn prepare_approval_update(&self, object: &mut Value, old: &Value) {
        let conditions = object.pointer("/status/conditions").cloned();
        let Some(new) = object.as_object_mut() else { return };
        let mut status = old.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        put(&mut status, "conditions", conditions);
        put(new, "status", Some(status.into()));
        self.prepare_status_update(object, old);
    }

    /// Of an applied configuration: drops the part that belongs to the other endpoint (the status, or all but the status).
    pub fn keep_only_own_part(&self, through: Option<&Behaviour>, configuration: &mut Value) {
        let Some(object) = configuration.as_object_mut() else { return };
        match through {
            None if self.has_status() => {
                object.remove("status");
            }
            Some(Behaviour::Status | Behaviour::Approval) => {
                object.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            }
            None | Some(Behaviour::Finalize | Behaviour::Scale(_)) => {}
            Some(Behaviour::Bind | Behaviour::Evict | Behaviour::IssueToken | Behaviour::Connect(_)) => {}
        }
    }
}

/// Puts a field as it was into an object.
fn keep(object: &mut Value, old: &Value, path: FieldPath) {
    let (Some((last, way)), Some(object)) = (path.split_last(), object.as_object_mut()) else { return };
    let before = path.iter().try_fold(old, |value, name| value.get(name)).cloned();
    let way = way.iter().fold(object, |object, name| child(object, name));
    put(way, last, before);
}

/// Whether anything but metadata and, where it does not count, status differs.
fn changed(object: &Map<String, Value>, old: &Value, status_counts: bool) -> bool {
    let Some(old) = old.as_object() else { return true };
    let counts = |name: &&String| match name.as_str() {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => status_counts,
        _ => true,
    };
    object.keys().chain(old.keys()).filter(counts).any(|name| object.get(name) != old.get(name))
}

fn keep_server_metadata(object: &mut Map<String, Value>, old: &Value) {
    let old = old.get("metadata");
    let metadata = child(object, "metadata");
    for field in SERVER_METADATA {
        put(metadata, field, old.and_then(|old| old.get(field)).cloned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{apps, core};

    #[test]
    fn generation_counts_changes_of_the_spec_alone() {
        let resource = apps::deployment::resource();
        let mut created = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
        resource.prepare_create(&mut created);
        assert_eq!(created, json!({"metadata": {"name": "d", "generation": 1}, "spec": {"replicas": 1}, "status": {}}));
        let mut labelled = created.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        labelled["metadata"]["generation"] = json!(77);
        resource.prepare_update(&mut labelled, &created);
        assert_eq!(labelled["metadata"]["generation"], 1);
        let mut scaled = created.clone();
        scaled["spec"]["replicas"] = json!(2);
        scaled["status"] = json!({"replicas": 9});
        resource.prepare_update(&mut scaled, &created);
        assert_eq!(scaled["metadata"]["generation"], 2);
        assert_eq!(scaled["status"], json!({}));
    }

    #[test]
    fn status_writes_touch_nothing_else() {
        let resource = core::pod::resource();
        let old = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n"}});
        let mut new =
            json!({"metadata": {"name": "p", "labels": {"x": "y"}}, "spec": {}, "status": {"phase": "Running"}});
        resource.prepare_status_update(&mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["metadata"], old["metadata"]);
        assert_eq!(new["status"]["phase"], "Running");
    }
}
