//! Watches of all kinds, of whose objects only that is read which says who owns them and how they go.
//!
//! Nobody waits for garbage to be collected, and there is much to hear of: what comes while nothing is to be done is heard of
//! at once, and what comes next together, a moment later.

use std::{borrow::Cow, collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt};
use hypernetes_client::shared::{self, Item, Parsing, Which};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::{Client, Resource, core::DynamicResourceScope, discovery::ApiResource, runtime::watcher};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use tokio::sync::oneshot;

use super::{
    FOREGROUND, ORPHAN,
    graph::{Deletion, Graph, Work},
    kinds::{Id, Identity, Kind, Kinds},
};
use crate::{resource_quota::Counting, runtime::Queue};

/// How long what comes is gathered.
const GATHER: Duration = Duration::from_millis(20);

/// An object of any kind, as far as garbage collection goes.
#[derive(Debug, Clone)]
struct Relations(ObjectMeta);

impl<'de> Deserialize<'de> for Relations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            annotations: Option<std::collections::BTreeMap<String, String>>,
            deletion_timestamp: Option<Time>,
            finalizers: Option<Vec<String>>,
            name: Option<String>,
            namespace: Option<String>,
            owner_references: Option<Vec<OwnerReference>>,
            resource_version: Option<String>,
            uid: Option<String>,
        }
        let read = Object::deserialize(deserializer)?.metadata;
        Ok(Self(ObjectMeta {
            annotations: read.annotations,
            deletion_timestamp: read.deletion_timestamp,
            finalizers: read.finalizers,
            name: read.name,
            namespace: read.namespace,
            owner_references: read.owner_references,
            resource_version: read.resource_version,
            uid: read.uid,
            ..ObjectMeta::default()
        }))
    }
}

impl Resource for Relations {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0
    }
}

/// The next of a stream: at once if it is there, else with those that come until it is looked for again.
async fn gathered<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
    if let Some(next) = stream.next().now_or_never() {
        return next;
    }
    // Nobody is woken meanwhile.
    tokio::time::sleep(GATHER).await;
    stream.next().await
}

/// What the watches tell, and whom.
#[derive(Clone)]
pub struct Follower {
    pub kinds: Arc<Kinds>,
    pub graph: Arc<Mutex<Graph>>,
    pub queue: Queue<Work>,
    pub counting: Counting,
}

/// Whether an object can take less of a quota and stay. Pods are many and change often: who counts them looks at what has changed.
fn changes_in_what_it_takes(kind: &Kind) -> bool {
    kind.resource.group.is_empty() && matches!(kind.resource.kind.as_str(), "Service" | "PersistentVolumeClaim")
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
        // Nobody else reads so little, and it is not kept.
        let which = Which { parsing: Parsing::Own(shared::tidy), ..Which::default() };
        let mut stream = std::pin::pin!(shared::follow::<Relations>(client, &kind.resource, which));
        let mut synced = Some(synced);
        let mut listed = HashSet::new();
        while let Some(event) = gathered(&mut stream).await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(item)) => listed.extend(self.apply(&kind, &item)),
                Ok(watcher::Event::InitDone) => {
                    let work = self.graph.lock().unlisted(&kind, &std::mem::take(&mut listed));
                    self.add(work);
                    self.counting.listed_anew(&kind.resource.group, &kind.resource.plural);
                    if let Some(synced) = synced.take() {
                        // Nobody waits when the controllers are about to stop.
                        let _ = synced.send(());
                    }
                }
                Ok(watcher::Event::Apply(item)) => {
                    drop(self.apply(&kind, &item));
                    if changes_in_what_it_takes(&kind) {
                        self.count(&kind, &item);
                    }
                }
                Ok(watcher::Event::Delete(item)) => {
                    self.count(&kind, &item);
                    let work = self.graph.lock().gone(&identify(&kind, item.meta(), item.tenant.clone()));
                    self.add(work);
                }
                Err(error) => tracing::debug!(?kind, %error, "watching for garbage"),
            }
        }
    }

    /// Tells of an object that may take less of its namespace's quotas than before.
    fn count(&self, kind: &Kind, item: &Item<Relations>) {
        if let Some(namespace) = item.meta().namespace.as_deref() {
            self.counting.changed(&item.tenant, namespace, &kind.resource.group, &kind.resource.plural);
        }
    }

    fn apply(&self, kind: &Arc<Kind>, item: &Item<Relations>) -> Option<Id> {
        let identity = identify(kind, item.meta(), item.tenant.clone());
        let references = item.meta().owner_references.iter().flatten();
        let owners = references
            .filter_map(|reference| {
                let owner = self.kinds.owner(&identity, reference)?;
                Some((owner, reference.block_owner_deletion.unwrap_or(false)))
            })
            .collect();
        let (id, work) = self.graph.lock().observe(identity, owners, deletion(item.meta()));
        self.add(work);
        id
    }

    pub fn add(&self, work: Vec<Work>) {
        work.into_iter().for_each(|work| self.queue.add(work));
    }
}
