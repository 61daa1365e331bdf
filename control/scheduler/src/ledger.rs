//! What is taken on each node: by the pods of all tenants, and by those that have just been placed there.

use std::{collections::HashMap, sync::Arc};

use hypernetes_controllers::runtime::Key;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::resources::{self, Amounts};

struct Place {
    uid: String,
    node: String,
    amounts: Amounts,
}

#[derive(Default)]
struct State {
    taken: HashMap<String, Amounts>,
    places: HashMap<Key, Place>,
}

impl State {
    fn put(&mut self, key: &Key, place: Place) {
        self.remove(key);
        resources::add(self.taken.entry(place.node.clone()).or_default(), &place.amounts);
        self.places.insert(key.clone(), place);
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(place) = self.places.remove(key) else { return false };
        if let Some(taken) = self.taken.get_mut(&place.node) {
            resources::subtract(taken, &place.amounts);
            // The place of the pod itself is always counted, so this is an empty node.
            if taken.get(resources::PODS).copied().unwrap_or(0) <= 0 {
                self.taken.remove(&place.node);
            }
        }
        true
    }
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<State>>);

impl Ledger {
    /// Takes in a change of a pod; true when room has come free.
    pub fn follow(&self, key: &Key, now: Option<&Pod>) -> bool {
        let mut state = self.0.lock();
        let Some(pod) = now else { return state.remove(key) };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return state.remove(key);
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            Some(node) => {
                state.put(key, Place { uid, node, amounts: resources::requests(pod) });
                false
            }
            // Placed by us, and the watch does not know it yet: a pod never leaves its node.
            None if state.places.get(key).is_some_and(|place| place.uid == uid) => false,
            None => state.remove(key),
        }
    }

    /// Counts a pod to a node before the API says so.
    pub fn assume(&self, key: &Key, pod: &Pod, node: &str) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.0.lock().put(key, Place { uid, node: node.into(), amounts: resources::requests(pod) });
    }

    /// The placement failed.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    pub fn is_placed(&self, key: &Key, pod: &Pod) -> bool {
        let state = self.0.lock();
        state.places.get(key).is_some_and(|place| Some(&place.uid) == pod.metadata.uid.as_ref())
    }

    /// What is left on a node of what it has.
    pub fn free(&self, node: &str, allocatable: &Amounts) -> Amounts {
        let mut free = allocatable.clone();
        if let Some(taken) = self.0.lock().taken.get(node) {
            resources::subtract(&mut free, taken);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_api::TenantId;
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, node: Option<&str>, phase: &str) -> Pod {
        let mut pod = json!({"metadata": {"name": "p", "uid": uid}, "status": {"phase": phase},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn tenants_share_a_node_and_an_assumed_pod_counts_once() {
        let ledger = Ledger::default();
        let all = Amounts::from([(resources::CPU.to_owned(), 4000)]);
        let left = || ledger.free("n", &all)[resources::CPU];
        let key = |tenant: &str| Key::new(&tenant.parse::<TenantId>().unwrap(), "default", "p");
        let (acme, globex) = (key("acme"), key("globex"));
        ledger.follow(&acme, Some(&pod("1", Some("n"), "Running")));
        ledger.assume(&globex, &pod("2", None, "Pending"), "n");
        assert_eq!(left(), 2000);
        // An event from before the binding changes nothing, the one of the binding neither.
        ledger.follow(&globex, Some(&pod("2", None, "Pending")));
        ledger.follow(&globex, Some(&pod("2", Some("n"), "Pending")));
        assert_eq!(left(), 2000);
        assert!(ledger.follow(&acme, Some(&pod("1", Some("n"), "Succeeded"))));
        assert_eq!(left(), 3000);
        // A new pod of the same name is another one.
        assert!(ledger.follow(&globex, Some(&pod("3", None, "Pending"))));
        assert_eq!(left(), 4000);
    }
}
