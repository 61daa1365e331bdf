//! What is done about one object that may be garbage, or that waits for its dependents.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hypernetes_client::Api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use super::{
    FOREGROUND, ORPHAN,
    graph::{Deletion, Work},
    kinds::{Id, Kinds},
    watch::{self, Follower},
};
use crate::runtime::{Context, During, Error, Reconciler, Recorder, Subject};

pub struct Collector {
    pub context: Context,
    pub follower: Follower,
}

#[async_trait]
impl Reconciler for Collector {
    const NAME: &'static str = "garbage";
    type Key = Work;

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, Error> {
        match work {
            Work::Verify(id) => self.verify(id).await?,
            Work::Attend(id) => self.attend(id).await?,
        }
        Ok(None)
    }

    fn told(&self, work: &Work) -> Option<(&Recorder, Subject)> {
        let (Work::Verify(id) | Work::Attend(id)) = work;
        let subject = Subject {
            tenant: id.tenant.clone(),
            api_version: id.kind.resource.api_version.clone(),
            kind: id.kind.resource.kind.clone(),
            namespace: id.namespace.to_string(),
            name: id.name.to_string(),
            uid: id.uid.to_string(),
        };
        Some((&self.context.events, subject))
    }
}

/// The references of an object, by how their owners are.
#[derive(Default)]
struct Owners {
    solid: usize,
    /// Uids of those that are gone.
    dangling: Vec<String>,
    /// Uids of those that wait for their dependents to go.
    waiting: Vec<String>,
}

impl Collector {
    fn api(&self, id: &Id) -> Api<DynamicObject> {
        let client = self.context.client(&id.tenant);
        match &*id.namespace {
            "" => Api::all_with(client, &id.kind.resource),
            namespace => Api::namespaced_with(client, namespace, &id.kind.resource),
        }
    }

    /// `None`: this very object is not there.
    async fn get(&self, id: &Id) -> Result<Option<ObjectMeta>, Error> {
        let found = self.api(id).get_metadata_opt(&id.name).await.during("looking at an object's metadata")?;
        Ok(found.map(|object| object.metadata).filter(|metadata| metadata.uid.as_deref() == Some(&*id.uid)))
    }

    async fn verify(&self, id: &Id) -> Result<(), Error> {
        if !self.follower.graph.lock().is_unknown(id) {
            return Ok(());
        }
        match self.get(id).await? {
            Some(_) => self.follower.graph.lock().verified(id),
            None => self.forget(id),
        }
        Ok(())
    }

    fn forget(&self, id: &Id) {
        let work = self.follower.graph.lock().gone(id);
        self.follower.add(work);
    }

    async fn attend(&self, id: &Id) -> Result<(), Error> {
        let Some(mut live) = self.get(id).await? else {
            self.forget(id);
            return Ok(());
        };
        match watch::deletion(&live) {
            Deletion::Orphan => return self.orphan(id, &live).await,
            Deletion::Foreground => return self.finish(id, &live).await,
            // It goes already.
            Deletion::None if live.deletion_timestamp.is_some() => return Ok(()),
            Deletion::None => {}
        }
        let references = live.owner_references.as_deref().unwrap_or_default();
        if references.is_empty() {
            return Ok(());
        }
        let owners = self.classify(id, references).await?;
        if owners.solid > 0 {
            let lost = |reference: &OwnerReference| {
                owners.dangling.contains(&reference.uid) || owners.waiting.contains(&reference.uid)
            };
            if references.iter().any(lost) {
                let kept: Vec<_> = references.iter().filter(|reference| !lost(reference)).collect();
                self.set_owners(id, &live, json!(kept)).await?;
            }
            return Ok(());
        }
        let dependents = self.follower.graph.lock().dependents(id);
        let policy = if !owners.waiting.is_empty() && !dependents.is_empty() {
            if let Some(changed) = self.break_circle(id, &live, &dependents).await? {
                live = changed;
            }
            PropagationPolicy::Foreground
        } else {
            let has = |name: &str| live.finalizers.iter().flatten().any(|finalizer| finalizer == name);
            match (has(ORPHAN), has(FOREGROUND)) {
                (true, _) => PropagationPolicy::Orphan,
                (_, true) => PropagationPolicy::Foreground,
                _ => PropagationPolicy::Background,
            }
        };
        self.delete(id, live, policy).await
    }

    /// Asks for each owner anew, as upstream does: nothing is deleted on hearsay.
    async fn classify(&self, id: &Id, references: &[OwnerReference]) -> Result<Owners, Error> {
        let mut owners = Owners::default();
        for reference in references {
            let Some(owner) = self.follower.kinds.owner(id, reference) else {
                owners.solid += 1;
                continue;
            };
            match self.get(&Arc::new(owner)).await? {
                None => owners.dangling.push(reference.uid.clone()),
                Some(live) if watch::deletion(&live) == Deletion::Foreground => {
                    owners.waiting.push(reference.uid.clone());
                }
                Some(_) => owners.solid += 1,
            }
        }
        Ok(owners)
    }

    /// Of a version that has changed meanwhile, the deletion is refused: a new owner may have come.
    async fn delete(&self, id: &Id, live: ObjectMeta, policy: PropagationPolicy) -> Result<(), Error> {
        let preconditions = Preconditions { uid: live.uid, resource_version: live.resource_version };
        let parameters =
            DeleteParams { propagation_policy: Some(policy), preconditions: Some(preconditions), ..Default::default() };
        match self.api(id).delete(&id.name, &parameters).await.during("deleting what has lost its owners") {
            Err(error) if error.code() == Some(404) => Ok(()),
            other => other.map(drop),
        }
    }

    /// A dependent that waits for its own dependents, of which this object's owner is one perhaps, must not be waited
    /// for by this object's owner: then each would wait for the other.
    async fn break_circle(&self, id: &Id, live: &ObjectMeta, dependents: &[Id]) -> Result<Option<ObjectMeta>, Error> {
        let circular = {
            let graph = self.follower.graph.lock();
            dependents.iter().any(|dependent| graph.waits_for_dependents(dependent))
        };
        let mut references = live.owner_references.clone().unwrap_or_default();
        if !circular || references.iter().all(|reference| reference.block_owner_deletion != Some(true)) {
            return Ok(None);
        }
        references.iter_mut().for_each(|reference| reference.block_owner_deletion = Some(false));
        self.set_owners(id, live, json!(references)).await.map(Some)
    }

    /// Deletion in the foreground: ends when no dependent is left that blocks it.
    async fn finish(&self, id: &Id, live: &ObjectMeta) -> Result<(), Error> {
        let blocking = self.follower.graph.lock().blocking(id);
        if !blocking.is_empty() {
            // When one of them has gone, the graph sends this owner here again.
            self.follower.add(blocking.into_iter().map(Work::Attend).collect());
            return Ok(());
        }
        let blocks = |reference: &OwnerReference| reference.block_owner_deletion == Some(true);
        if !self.listed_dependents(id, blocks).await?.is_empty() {
            return Err(Error::Waiting("the watch has not told of all dependents yet".into()));
        }
        self.remove_finalizer(id, live, FOREGROUND).await
    }

    /// Takes the owner out of all its dependents, and then lets it go.
    async fn orphan(&self, id: &Id, live: &ObjectMeta) -> Result<(), Error> {
        for (dependent, metadata) in self.listed_dependents(id, |_| true).await? {
            let references = metadata.owner_references.iter().flatten();
            let kept: Vec<_> = references.filter(|reference| *reference.uid != *id.uid).collect();
            match self.set_owners(&dependent, &metadata, json!(kept)).await {
                Err(error) if error.code() == Some(404) => {}
                other => drop(other?),
            }
        }
        self.remove_finalizer(id, live, ORPHAN).await
    }

    /// All dependents as the API lists them now, of the kinds that it has now. The watches of other kinds may be behind that of
    /// the owner's, and an owner that went too early would take its dependents with it; there is no second chance.
    async fn listed_dependents(
        &self,
        id: &Id,
        wanted: impl Fn(&OwnerReference) -> bool,
    ) -> Result<Vec<(Id, ObjectMeta)>, Error> {
        let client = self.context.client(&id.tenant);
        let mut found = Vec::new();
        for kind in Kinds::served(&client).await? {
            let api: Api<DynamicObject> = match &*id.namespace {
                "" => Api::all_with(client.clone(), &kind.resource),
                namespace if kind.namespaced => Api::namespaced_with(client.clone(), namespace, &kind.resource),
                _ => continue,
            };
            let list = api.list_metadata(&ListParams::default()).await.during("listing dependents")?;
            for object in list.items {
                let mut references = object.metadata.owner_references.iter().flatten();
                if references.any(|reference| *reference.uid == *id.uid && wanted(reference)) {
                    let dependent = watch::identify(&kind, &object.metadata, id.tenant.clone());
                    found.push((Arc::new(dependent), object.metadata));
                }
            }
        }
        Ok(found)
    }

    async fn set_owners(&self, id: &Id, live: &ObjectMeta, references: Value) -> Result<ObjectMeta, Error> {
        self.patch(id, live, "ownerReferences", references).await
    }

    async fn remove_finalizer(&self, id: &Id, live: &ObjectMeta, name: &str) -> Result<(), Error> {
        let kept: Vec<_> = live.finalizers.iter().flatten().filter(|finalizer| *finalizer != name).collect();
        match self.patch(id, live, "finalizers", json!(kept)).await {
            // It had no other, and somebody else was faster.
            Err(error) if error.code() == Some(404) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn patch(&self, id: &Id, live: &ObjectMeta, field: &str, value: Value) -> Result<ObjectMeta, Error> {
        let patch = json!({"metadata": {
            "uid": live.uid, "resourceVersion": live.resource_version, field: value,
        }});
        let patched = self.api(id).patch_metadata(&id.name, &self.context.patching(), &Patch::Merge(patch)).await;
        patched.during("changing owners or finalizers").map(|object| object.metadata)
    }
}
