//! What is taken on each node: by the pods of all tenants, and by those that have just been placed there.

use std::{collections::HashMap, sync::Arc};

use hypernetes_runtime::Key;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use hypernetes_schema::requests::{self, Amounts};

struct Place {
    uid: String,
    node: String,
    amounts: Amounts,
    /// The API does not say so yet.
    assumed: bool,
}

#[derive(Default)]
struct State {
    taken: HashMap<String, Amounts>,
    places: HashMap<Key, Place>,
}

impl State {
    fn put(&mut self, key: &Key, place: Place) {
        self.remove(key);
        requests::add(self.taken.entry(place.node.clone()).or_default(), &place.amounts);
        self.places.insert(key.clone(), place);
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(place) = self.places.remove(key) else { return false };
        if let Some(taken) = self.taken.get_mut(&place.node) {
            requests::subtract(taken, &place.amounts);
            // The place of the pod itself is always counted, so this is an empty node.
            if taken.get(requests::PODS).copied().unwrap_or(0) <= 0 {
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
                state.put(key, Place { uid, node, amounts: requests::taken(pod), assumed: false });
                false
            }
            // Placed by us, and the watch does not know it yet: a pod never leaves its node.
            None if state.places.get(key).is_some_and(|place| place.uid == uid) => false,
            None => state.remove(key),
        }
    }

    /// Counts a pod to a node before the API says so, until what is returned is dropped without being
    /// [kept](Assumed::keep): also when binding it panics or is given up.
    pub fn assume(&self, key: &Key, pod: &Pod, node: &str) -> Assumed {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let assumed = Assumed { ledger: self.clone(), key: key.clone(), uid: uid.clone(), kept: false };
        self.0.lock().put(key, Place { uid, node: node.into(), amounts: requests::taken(pod), assumed: true });
        assumed
    }

    pub fn is_placed(&self, key: &Key, pod: &Pod) -> bool {
        let state = self.0.lock();
        state.places.get(key).is_some_and(|place| Some(&place.uid) == pod.metadata.uid.as_ref())
    }

    /// What is left on a node of what it has.
    pub fn free(&self, node: &str, allocatable: &Amounts) -> Amounts {
        let mut free = allocatable.clone();
        if let Some(taken) = self.0.lock().taken.get(node) {
            requests::subtract(&mut free, taken);
        }
        free
    }
}

/// A placement that the API does not know of yet.
#[must_use]
pub struct Assumed {
    ledger: Ledger,
    key: Key,
    uid: String,
    kept: bool,
}

impl Assumed {
    /// The API has taken it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        let mut state = self.ledger.0.lock();
        if !self.kept && state.places.get(&self.key).is_some_and(|place| place.uid == self.uid && place.assumed) {
            state.remove(&self.key);
        }
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
        let all = Amounts::from([(requests::CPU.to_owned(), 4000)]);
        let left = || ledger.free("n", &all)[requests::CPU];
        let key = |tenant: &str| Key::new(&tenant.parse::<TenantId>().unwrap(), "default", "p");
        let (acme, globex) = (key("acme"), key("globex"));
        ledger.follow(&acme, Some(&pod("1", Some("n"), "Running")));
        ledger.assume(&globex, &pod("2", None, "Pending"), "n").keep();
        assert_eq!(left(), 2000);
        drop(ledger.assume(&key("initech"), &pod("9", None, "Pending"), "n"));
        assert_eq!(left(), 2000, "a binding that failed takes no room");
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
