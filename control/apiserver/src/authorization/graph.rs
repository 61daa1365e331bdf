//! Which node may read what: from the pods that are bound to it to what those refer to.
//!
//! An index that follows the store's changes; nothing is looked through for a question. It is as new as the store is when
//! it is asked, so that a node which has just heard of a pod is not told that it has none.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hypernetes_api::{AllTenants, ApiError, TenantId, names};
use hypernetes_store::{Entry, Key, Prefix, ResourceId, Store};
use serde_json::Value;

use crate::{
    follow::{Following, Known},
    stored_form,
};

/// What pods refer to, by the plural of its resource. Namespaces are those that the pods are in, networks those that their
/// ports are on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub tenant: String,
    pub plural: &'static str,
    pub namespace: String,
    pub name: String,
}

pub const SECRETS: &str = "secrets";
pub const CONFIG_MAPS: &str = "configmaps";
pub const CLAIMS: &str = "persistentvolumeclaims";
pub const ACCOUNTS: &str = "serviceaccounts";
pub const NAMESPACES: &str = "namespaces";
pub const NETWORKS: &str = "networks";
const PODS: &str = "pods";
const PORTS: &str = "ports";
const VOLUMES: &str = "persistentvolumes";
/// The pods' tenants: Projects of the operator's cluster.
pub const PROJECTS: &str = "projects";

/// The index. Empty until it is first asked.
pub struct Graph(Following<Index>);

#[derive(Default)]
pub struct Index {
    pods: HashMap<Key, Bound>,
    ports: HashMap<Key, Bound>,
    /// By node: how many of its pods and ports refer to a thing.
    reach: HashMap<String, HashMap<Reference, u32>>,
    volumes: HashMap<Key, PersistentVolume>,
    /// PersistentVolumes by tenant and the Volume that they stand for.
    by_volume: HashMap<(String, String), BTreeSet<Key>>,
}

/// A pod or a port that has a node.
struct Bound {
    node: String,
    uid: String,
    references: BTreeSet<Reference>,
}

struct PersistentVolume {
    /// Namespace and name.
    claim: Option<(String, String)>,
    volume: Option<String>,
}

impl Graph {
    pub fn new(store: Arc<Store>, all: &AllTenants) -> Self {
        let prefix = |group, plural| Prefix::all_tenants(&ResourceId::new(group, plural), all);
        let ports = prefix("network.hypernetes.io", PORTS);
        Self(Following::new(store, vec![prefix("", PODS), prefix("", VOLUMES), ports]))
    }

    /// Whether a pod of the node refers to it.
    pub async fn reaches(&self, node: &str, reference: &Reference) -> Result<bool, ApiError> {
        self.0.ask(|index| index.reaches(node, reference)).await
    }

    /// Whether the pod is bound to the node, and still the one with the uid, if one is given.
    pub async fn has_pod(&self, node: &str, pod: &Key, uid: Option<&str>) -> Result<bool, ApiError> {
        let is = |bound: &Bound| bound.node == node && uid.is_none_or(|uid| uid == bound.uid);
        self.0.ask(|index| index.pods.get(pod).is_some_and(is)).await
    }

    /// Whether a pod of the node uses the PersistentVolume, through its claim.
    pub async fn reaches_persistent_volume(&self, node: &str, volume: &Key) -> Result<bool, ApiError> {
        self.0.ask(|index| index.reaches_persistent(node, volume)).await
    }

    /// Whether a pod of the node uses the Volume, through a PersistentVolume that stands for it.
    pub async fn reaches_volume(&self, node: &str, tenant: &TenantId, volume: &str) -> Result<bool, ApiError> {
        self.0
            .ask(|index| {
                let of = index.by_volume.get(&(tenant.to_string(), volume.to_owned()));
                of.into_iter().flatten().any(|key| index.reaches_persistent(node, key))
            })
            .await
    }
}

impl Known for Index {
    fn changed(&mut self, key: &Key, now: Option<&Entry>) {
        match key.plural() {
            PODS => self.pod_changed(key, now),
            PORTS => self.port_changed(key, now),
            _ => self.volume_changed(key, now),
        }
    }
}

impl Index {
    fn reaches(&self, node: &str, reference: &Reference) -> bool {
        self.reach.get(node).is_some_and(|things| things.contains_key(reference))
    }

    fn reaches_persistent(&self, node: &str, volume: &Key) -> bool {
        let claim = self.volumes.get(volume).and_then(|volume| volume.claim.as_ref());
        claim.is_some_and(|(namespace, name)| {
            let (tenant, namespace, name) = (volume.tenant().to_owned(), namespace.clone(), name.clone());
            self.reaches(node, &Reference { tenant, plural: CLAIMS, namespace, name })
        })
    }

    fn pod_changed(&mut self, key: &Key, now: Option<&Entry>) {
        // What a bound pod refers to stays what it is, and most changes are of its status.
        if now.is_some() && self.pods.contains_key(key) {
            return;
        }
        let gone = self.pods.remove(key);
        self.let_go(gone);
        if let Some(pod) = now.and_then(bound_pod) {
            self.reach(&pod);
            self.pods.insert(key.clone(), pod);
        }
    }

    /// Whoever gives a port its node writes that behind its making, and a port may change its network.
    fn port_changed(&mut self, key: &Key, now: Option<&Entry>) {
        let gone = self.ports.remove(key);
        self.let_go(gone);
        if let Some(port) = now.and_then(bound_port) {
            self.reach(&port);
            self.ports.insert(key.clone(), port);
        }
    }

    fn volume_changed(&mut self, key: &Key, now: Option<&Entry>) {
        self.remove_volume(key);
        if let Some(entry) = now {
            self.put_volume(entry);
        }
    }

    fn reach(&mut self, bound: &Bound) {
        let things = self.reach.entry(bound.node.clone()).or_default();
        for thing in &bound.references {
            *things.entry(thing.clone()).or_default() += 1;
        }
    }

    fn let_go(&mut self, bound: Option<Bound>) {
        let Some(bound) = bound else { return };
        let Some(things) = self.reach.get_mut(&bound.node) else { return };
        for thing in &bound.references {
            if let Some(count) = things.get_mut(thing) {
                *count -= 1;
                if *count == 0 {
                    things.remove(thing);
                }
            }
        }
        if things.is_empty() {
            self.reach.remove(&bound.node);
        }
    }

    fn put_volume(&mut self, entry: &Entry) {
        let Ok(object) = stored_form::decode(entry) else { return };
        let spec = &object["spec"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let claim = &spec["claimRef"];
        let claim = text(&claim["namespace"]).zip(text(&claim["name"]));
        let ours = spec["csi"]["driver"] == names::VOLUME_DRIVER;
        let volume = text(&spec["csi"]["volumeHandle"]).filter(|_| ours);
        if let Some(volume) = &volume {
            let of = (entry.key.tenant().to_owned(), volume.clone());
            self.by_volume.entry(of).or_default().insert(entry.key.clone());
        }
        self.volumes.insert(entry.key.clone(), PersistentVolume { claim, volume });
    }

    fn remove_volume(&mut self, key: &Key) {
        let Some(volume) = self.volumes.remove(key).and_then(|volume| volume.volume) else { return };
        let of = (key.tenant().to_owned(), volume);
        if let Some(keys) = self.by_volume.get_mut(&of) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_volume.remove(&of);
            }
        }
    }
}

/// What cannot be read has no node and refers to nothing.
fn bound_pod(entry: &Entry) -> Option<Bound> {
    let pod = stored_form::decode(entry).ok()?;
    let node = node(&pod["spec"]["nodeName"])?;
    let mut references = references(&pod);
    references.insert((NAMESPACES, entry.key.namespace().to_owned()));
    references.insert((PROJECTS, entry.key.tenant().to_owned()));
    let references = references.iter().map(|(plural, name)| reference(&entry.key, plural, name)).collect();
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Some(Bound { node, uid, references })
}

fn bound_port(entry: &Entry) -> Option<Bound> {
    let port = stored_form::decode(entry).ok()?;
    let node = node(&port["status"]["host"])?;
    let network = port["spec"]["network"].as_str().filter(|name| !name.is_empty());
    let references = network.iter().map(|name| reference(&entry.key, NETWORKS, name)).collect();
    let uid = port["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Some(Bound { node, uid, references })
}

fn node(name: &Value) -> Option<String> {
    name.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// `of` refers to it.
fn reference(of: &Key, plural: &'static str, name: &str) -> Reference {
    let (tenant, namespace) = match plural {
        PROJECTS => (TenantId::system().to_string(), ""),
        NAMESPACES | NETWORKS => (of.tenant().to_owned(), ""),
        _ => (of.tenant().to_owned(), of.namespace()),
    };
    Reference { tenant, plural, namespace: namespace.into(), name: name.into() }
}

/// Everything of its namespace that a pod's kubelet has to read.
fn references(pod: &Value) -> BTreeSet<(&'static str, String)> {
    let mut found = BTreeSet::new();
    let mut add = |plural: &'static str, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            found.insert((plural, name.to_owned()));
        }
    };
    let spec = &pod["spec"];
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    match &spec["serviceAccountName"] {
        Value::String(name) if !name.is_empty() => add(ACCOUNTS, &spec["serviceAccountName"]),
        _ => add(ACCOUNTS, &"default".into()),
    }
    for secret in list(spec, "imagePullSecrets") {
        add(SECRETS, &secret["name"]);
    }
    for volume in list(spec, "volumes") {
        add(SECRETS, &volume["secret"]["secretName"]);
        add(SECRETS, &volume["csi"]["nodePublishSecretRef"]["name"]);
        add(CONFIG_MAPS, &volume["configMap"]["name"]);
        add(CLAIMS, &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object()
            && let (Some(pod), Some(volume)) = (pod["metadata"]["name"].as_str(), volume["name"].as_str())
        {
            add(CLAIMS, &format!("{pod}-{volume}").into());
        }
        for source in list(&volume["projected"], "sources") {
            add(SECRETS, &source["secret"]["name"]);
            add(CONFIG_MAPS, &source["configMap"]["name"]);
        }
    }
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(spec, kind) {
            for source in list(&container, "envFrom") {
                add(SECRETS, &source["secretRef"]["name"]);
                add(CONFIG_MAPS, &source["configMapRef"]["name"]);
            }
            for variable in list(&container, "env") {
                add(SECRETS, &variable["valueFrom"]["secretKeyRef"]["name"]);
                add(CONFIG_MAPS, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            }
        }
    }
    found
}

/// The resources that a [`Reference`] can be to, by their plurals.
pub fn plural(resource: &str) -> Option<&'static str> {
    [SECRETS, CONFIG_MAPS, CLAIMS, ACCOUNTS, NAMESPACES].into_iter().find(|plural| *plural == resource)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_of_a_name_is_looked_at() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s1"}}, {"name": "b", "configMap": {"name": "m1"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "c1"}}, {"name": "d", "ephemeral": {}},
                {"name": "e", "projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "m2"}}]}},
                {"name": "f", "csi": {"nodePublishSecretRef": {"name": "s3"}}}, {"name": "g", "emptyDir": {}},
            ],
            "containers": [{"env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "s4"}}}],
                "envFrom": [{"configMapRef": {"name": "m3"}}]}],
            "initContainers": [{"env": [{"name": "x", "valueFrom": {"configMapKeyRef": {"name": "m4"}}}],
                "envFrom": [{"secretRef": {"name": "s5"}}]}],
            "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "s6"}}]}],
        }});
        let of = |plural: &str| -> BTreeSet<String> {
            references(&pod).into_iter().filter(|(kind, _)| *kind == plural).map(|(_, name)| name).collect()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(of(SECRETS), set(&["pull", "s1", "s2", "s3", "s4", "s5", "s6"]));
        assert_eq!(of(CONFIG_MAPS), set(&["m1", "m2", "m3", "m4"]));
        assert_eq!(of(CLAIMS), set(&["c1", "p-d"]));
        assert_eq!(of(ACCOUNTS), set(&["sa"]));
        for odd in [json!({}), json!([]), json!({"spec": {"volumes": 5, "containers": [[], 1, {"env": {}}]}})] {
            assert_eq!(references(&odd).len(), 1, "{odd}");
        }
    }
}
