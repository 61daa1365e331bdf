//! `FlowSchema`: whether the level that one names is there, which its condition `Dangling` says. Of those that nobody has written over it
//! is known from the start.

use std::time::Duration;

use async_trait::async_trait;
use hypernetes_api::{TenantId, time::whole_seconds};
use hypernetes_client::Api;
use hypernetes_kinds::flowcontrol;
use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use kube::api::Patch;
use serde_json::json;

use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject},
};

const DANGLING: &str = "Dangling";

pub fn start(wiring: &Wiring<'_>) {
    let queue = wiring.queue();
    let schemas = wiring.informers.of::<FlowSchema>();
    schemas.feed(&queue, |key, _| vec![key.clone()]);
    let naming = queue.clone();
    wiring.informers.of::<PriorityLevelConfiguration>().subscribe(move |key, before, now| {
        // What it says is nothing to those who name it.
        if before.is_some() == now.is_some() || is_always_there(&key.name) {
            return;
        }
        for schema in schemas.list_tenant(&key.tenant).iter().filter(|schema| level(schema) == key.name) {
            naming.add(Key::new(&key.tenant, "", schema.metadata.name.as_deref().unwrap_or_default()));
        }
    });
    wiring.drive(Schemas { context: Context::new(wiring.informers, "flow-schema-status") }, queue);
}

fn level(schema: &FlowSchema) -> &str {
    schema.spec.as_ref().map_or("", |spec| &spec.priority_level_configuration.name)
}

/// What is deleted of these is there anew.
fn is_always_there(level: &str) -> bool {
    flowcontrol::bootstrap().iter().any(|one| one["kind"] == "PriorityLevelConfiguration" && one["name"] == level)
}

struct Schemas {
    context: Context,
}

#[async_trait]
impl Reconciler for Schemas {
    const NAME: &'static str = "flow-schema-status";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(schema) = self.context.informers.of::<FlowSchema>().get(key) else { return Ok(None) };
        let level = level(&schema);
        let (status, reason, message) = flowcontrol::dangling(level, self.is_there(&key.tenant, level));
        let mut conditions = schema.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let old = conditions.find(|condition| condition.type_.as_deref() == Some(DANGLING));
        if old.is_some_and(|old| old.status.as_deref() == Some(status) && old.message.as_ref() == Some(&message)) {
            return Ok(None);
        }
        let same = old.filter(|old| old.status.as_deref() == Some(status));
        let since = same.and_then(|old| old.last_transition_time.as_ref()).map(|time| time.0);
        let since = since.unwrap_or_else(|| whole_seconds(Timestamp::now()));
        let condition = json!({"type": DANGLING, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since.to_string()});
        let patch = json!({
            "apiVersion": format!("{}/v1", flowcontrol::GROUP),
            "kind": "FlowSchema",
            "metadata": {"name": key.name, "uid": schema.metadata.uid},
            "status": {"conditions": [condition]},
        });
        let api: Api<FlowSchema> = self.context.cluster(&key.tenant);
        match api.patch_status(&key.name, &self.context.patching().force(), &Patch::Apply(patch)).await {
            // It is gone, or another one.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            other => other.during("writing whether a level is there").map(|_| None),
        }
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<FlowSchema>(key)
    }
}

impl Schemas {
    fn is_there(&self, tenant: &TenantId, level: &str) -> bool {
        let key = Key::new(tenant, "", level);
        is_always_there(level) || self.context.informers.of::<PriorityLevelConfiguration>().get(&key).is_some()
    }
}
