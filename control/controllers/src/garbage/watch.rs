//! Watches of all kinds, of whose objects only the metadata is asked for.

use std::{collections::HashSet, sync::Arc};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Resource, api::DynamicObject, core::PartialObjectMeta, runtime::watcher};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    FOREGROUND, ORPHAN,
    graph::{Deletion, Graph, Work},
    kinds::{Id, Identity, Kind, Kinds},
};
use crate::runtime::Queue;

/// What the watches tell, and whom.
#[derive(Clone)]
pub struct Follower {
    pub kinds: Arc<Kinds>,
    pub graph: Arc<Mutex<Graph>>,
    pub queue: Queue<Work>,
}

/// What of an object's metadata says how its deletion goes.
pub fn deletion(metadata: &ObjectMeta) -> Deletion {
    let has = |name: &str| metadata.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    match metadata.deletion_timestamp {
        Some(_) if has(ORPHAN) => Deletion::Orphan,
        Some(_) if has(FOREGROUND) => Deletion::Foreground,
        _ => Deletion::None,
    }
}

pub fn identify(kind: &Arc<Kind>, metadata: &ObjectMeta, tenant: hypernetes_api::TenantId) -> Identity {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    Identity {
        tenant,
        kind: kind.clone(),
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
        uid: text(&metadata.uid),
    }
}

impl Follower {
    /// Follows one kind of all tenants until dropped; says when the first list is complete.
    pub async fn follow(self, kind: Arc<Kind>, client: Client, synced: oneshot::Sender<()>) {
        let watch = hypernetes_client::watch::<PartialObjectMeta<DynamicObject>>(client, &kind.resource);
        let mut stream = std::pin::pin!(watch);
        let mut synced = Some(synced);
        let mut listed = HashSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => listed.extend(self.apply(&kind, &object)),
                Ok(watcher::Event::InitDone) => {
                    let work = self.graph.lock().unlisted(&kind, &std::mem::take(&mut listed));
                    self.add(work);
                    if let Some(synced) = synced.take() {
                        // Nobody waits when the controllers are about to stop.
                        let _ = synced.send(());
                    }
                }
                Ok(watcher::Event::Apply(object)) => drop(self.apply(&kind, &object)),
                Ok(watcher::Event::Delete(object)) => {
                    if let Some(tenant) = hypernetes_client::tenant_of(&object) {
                        let work = self.graph.lock().gone(&identify(&kind, object.meta(), tenant));
                        self.add(work);
                    }
                }
                Err(error) => tracing::debug!(?kind, %error, "watching for garbage"),
            }
        }
    }

    fn apply(&self, kind: &Arc<Kind>, object: &impl Resource) -> Option<Id> {
        let identity = identify(kind, object.meta(), hypernetes_client::tenant_of(object)?);
        let references = object.meta().owner_references.iter().flatten();
        let owners = references
            .filter_map(|reference| {
                let owner = self.kinds.owner(&identity, reference)?;
                Some((owner, reference.block_owner_deletion.unwrap_or(false)))
            })
            .collect();
        let (id, work) = self.graph.lock().observe(identity, owners, deletion(object.meta()));
        self.add(work);
        id
    }

    pub fn add(&self, work: Vec<Work>) {
        work.into_iter().for_each(|work| self.queue.add(work));
    }
}
