//! A definition goes after its objects have gone.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use hypernetes_client::Api;
use hypernetes_kinds::CLEANUP;
use kube::{
    api::{DeleteParams, DynamicObject, ListParams, Patch},
    discovery::ApiResource,
};
use serde_json::json;

use super::{
    definition::{Condition, Definition},
    names::set,
};
use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject},
};

const TERMINATING: &str = "Terminating";
/// How soon objects that do not go at once are looked for again.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) fn start(wiring: &Wiring<'_>) {
    let queue = wiring.queue();
    wiring
        .informers
        .of::<Definition>()
        .feed(&queue, |key, definition| definition.metadata.deletion_timestamp.iter().map(|_| key.clone()).collect());
    wiring.drive(Cleanup { context: Context::new(wiring.informers, "customresourcedefinition-finalizer") }, queue);
}

struct Cleanup {
    context: Context,
}

#[async_trait]
impl Reconciler for Cleanup {
    const NAME: &'static str = "customresourcedefinition-finalizer";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(definition) = self.context.informers.of::<Definition>().get(key) else { return Ok(None) };
        let finalizers = definition.metadata.finalizers.clone().unwrap_or_default();
        if definition.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|one| one == CLEANUP) {
            return Ok(None);
        }
        let left = match definition.kind() {
            Some(kind) => self.empty(key, &definition, &kind).await?,
            // It never was served: there are none.
            None => 0,
        };
        let mut conditions = definition.status.conditions.clone();
        if left > 0 {
            let message = "CustomResource deletion is in progress";
            set(&mut conditions, TERMINATING, true, "InstanceDeletionInProgress", message);
            self.write(key, &definition, &conditions).await?;
            return Ok(Some(AGAIN));
        }
        set(&mut conditions, TERMINATING, false, "InstanceDeletionCompleted", "removed all instances");
        if !self.write(key, &definition, &conditions).await? {
            return Ok(None);
        }
        let kept: Vec<&String> = finalizers.iter().filter(|one| *one != CLEANUP).collect();
        match self
            .api(key)
            .patch(&key.name, &self.context.patching(), &Patch::Merge(json!({"metadata": {"finalizers": kept}})))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other.during("letting go of a definition")?),
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Definition>(key)
    }
}

impl Cleanup {
    fn api(&self, key: &Key) -> Api<DynamicObject> {
        Api::all_with(self.context.client(&key.tenant), &ApiResource::erase::<Definition>(&()))
    }

    /// Whether they could be written: else it changed, or is gone, and this is called again.
    async fn write(&self, key: &Key, definition: &Definition, conditions: &[Condition]) -> Result<bool, Error> {
        if conditions == definition.status.conditions {
            return Ok(true);
        }
        let patch = json!({
            "metadata": {"resourceVersion": definition.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        match self.api(key).patch_status(&key.name, &self.context.patching(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            other => other.during("writing how a definition goes").map(|_| true),
        }
    }

    /// Asks for the deletion of all objects of a kind. Gives how many there are still.
    async fn empty(&self, key: &Key, definition: &Definition, kind: &ApiResource) -> Result<usize, Error> {
        let client = self.context.client(&key.tenant);
        let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), kind);
        let list = everywhere.list_metadata(&ListParams::default()).await.during("listing a definition's objects")?;
        let staying = list.items.iter().filter(|object| object.metadata.deletion_timestamp.is_none());
        let namespaces: BTreeSet<String> =
            staying.map(|object| object.metadata.namespace.clone().unwrap_or_default()).collect();
        for namespace in namespaces {
            let api: Api<DynamicObject> = match definition.is_namespaced() {
                true => Api::namespaced_with(client.clone(), &namespace, kind),
                false => everywhere.clone(),
            };
            let deleted = api.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
            drop(deleted.during("deleting a definition's objects")?);
        }
        let list = everywhere.list_metadata(&ListParams::default()).await.during("listing a definition's objects")?;
        Ok(list.items.len())
    }
}
