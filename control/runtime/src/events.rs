//! Events: what happened to an object, for people. The same thing again counts the earlier event up.

use std::{collections::HashMap, sync::Arc};

use hypernetes_api::TenantId;
use hypernetes_client::{Api, Clients};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;

/// Events that are remembered to be counted up.
const REMEMBERED: usize = 2048;
/// Bytes of a message: upstream's limit of an event's note.
const LONGEST_MESSAGE: usize = 1024;
/// Bytes of an object's name that become a part of its event's.
const LONGEST_NAME: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub tenant: TenantId,
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Subject {
    pub fn of<K: Resource<DynamicType = ()>>(tenant: &TenantId, object: &K) -> Self {
        Self {
            tenant: tenant.clone(),
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }
    }
}

type Same = (Subject, &'static str, String);

/// Writes events. Cheap to clone. What cannot be written is lost: events are never worth a failure.
#[derive(Clone)]
pub struct Recorder {
    clients: Clients,
    component: &'static str,
    known: Arc<Mutex<HashMap<Same, (String, i32)>>>,
}

impl Recorder {
    pub fn new(clients: Clients, component: &'static str) -> Self {
        Self { clients, component, known: Arc::default() }
    }

    pub async fn say(&self, subject: &Subject, severity: Severity, reason: &'static str, mut message: String) {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        let namespace = if subject.namespace.is_empty() { "default" } else { &subject.namespace };
        let api: Api<Event> = Api::namespaced(self.clients.tenant(&subject.tenant), namespace);
        let now = hypernetes_api::time::now();
        let same = (subject.clone(), reason, message.clone());
        let earlier = {
            let mut known = self.known.lock();
            known.get_mut(&same).map(|(name, count)| {
                *count += 1;
                (name.clone(), *count)
            })
        };
        if let Some((name, count)) = earlier {
            let patch = Patch::Merge(json!({"count": count, "lastTimestamp": now}));
            let counted = api.patch(&name, &PatchParams::default(), &patch).await;
            if counted.is_ok() {
                return;
            }
        }
        let about = &subject.name[..subject.name.floor_char_boundary(LONGEST_NAME)];
        let name = format!("{about}.{:x}", Timestamp::now().as_nanosecond());
        let severity = format!("{severity:?}");
        let event = serde_json::from_value::<Event>(json!({
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": subject.api_version, "kind": subject.kind, "namespace": subject.namespace,
                "name": subject.name, "uid": subject.uid,
            },
            "type": severity, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": self.component}, "reportingComponent": self.component, "reportingInstance": "",
        }));
        let Ok(event) = event else { return };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                let mut known = self.known.lock();
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(same, (name, 1));
            }
            Err(error) => tracing::debug!(%error, reason, "an event was not written"),
        }
    }
}
