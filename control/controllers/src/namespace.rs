//! Deletion of namespaces: the pods in them first, then everything else, then the namespace.

use std::time::Duration;

use async_trait::async_trait;
use hypernetes_api::time::whole_seconds;
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch},
    discovery::ApiResource,
};
use serde_json::{Value, json};

use crate::{
    Wiring, discovery,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Subject},
};

/// The namespace's own finalizer, which is ours to remove.
const FINALIZER: &str = "kubernetes";
/// How soon a namespace that is not empty is looked at again.
const AGAIN: Duration = Duration::from_millis(500);

pub fn start(wiring: &Wiring<'_>) {
    let context = Context::new(wiring.informers, "namespace-controller");
    let queue = wiring.queue();
    wiring
        .informers
        .of::<Namespace>()
        .feed(&queue, |key, namespace| namespace.metadata.deletion_timestamp.iter().map(|_| key.clone()).collect());
    wiring.drive(Namespaces { context }, queue);
}

struct Namespaces {
    context: Context,
}

/// What was found in a namespace that is being deleted.
#[derive(Default)]
struct Remains {
    /// `pods. has 1 resource instances`, and so on.
    left: Vec<String>,
    /// `example.com/hold in 1 resource instances`
    finalizers: std::collections::BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Remains {
    fn are_none(&self) -> bool {
        self.left.is_empty() && self.failures.is_empty()
    }
}

fn is_pods(kind: &ApiResource) -> bool {
    kind.group.is_empty() && kind.kind == "Pod"
}

#[async_trait]
impl Reconciler for Namespaces {
    const NAME: &'static str = "namespace";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.context.informers.of::<Namespace>().get(key) else { return Ok(None) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|name| name == FINALIZER) {
            return Ok(None);
        }
        let client = self.context.client(&key.tenant);
        let remains = self.empty(&client, &key.name).await?;
        let api: Api<Namespace> = Api::all(client);
        let patch = json!({"status": {"phase": "Terminating", "conditions": conditions(&namespace, &remains)}});
        let written = api.patch_status(&key.name, &self.context.patching(), &Patch::Merge(patch)).await;
        let written = written.during("writing a namespace's status")?;
        if !remains.are_none() {
            return Ok(Some(AGAIN));
        }
        let mut finalized = written;
        let spec = finalized.spec.get_or_insert_default();
        spec.finalizers.get_or_insert_default().retain(|name| name != FINALIZER);
        let done = api.replace_subresource("finalize", &key.name, &self.context.posting(), &finalized).await;
        done.during("finalizing a namespace")?;
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Namespace>(key)
    }
}

impl Namespaces {
    /// Asks for the deletion of everything: of what else there is when no pod is left, for as long as they run they may need it, and
    /// be held by it (a network policy).
    async fn empty(&self, client: &Client, namespace: &str) -> Result<Remains, Error> {
        let mut kinds = discovery::namespaced(client).await?;
        kinds.sort_by_cached_key(|kind| (!is_pods(kind), kind.plural.clone(), kind.group.clone()));
        let mut remains = Remains::default();
        for kind in &kinds {
            let api = Api::namespaced_with(client.clone(), namespace, kind);
            if let Err(error) = self.empty_of(&api, kind, &mut remains).await {
                remains.failures.push(format!("{}.{}: {error}", kind.plural, kind.group));
            }
            if is_pods(kind) && !remains.are_none() {
                break;
            }
        }
        Ok(remains)
    }

    /// Asks for the deletion of all objects of a kind, and notes those that stay for now.
    async fn empty_of(&self, api: &Api<DynamicObject>, kind: &ApiResource, remains: &mut Remains) -> Result<(), Error> {
        let list = async || api.list_metadata(&ListParams::default()).await.during("listing what is in a namespace");
        let before = list().await?.items;
        if before.is_empty() {
            return Ok(());
        }
        let mut outcome = Ok(());
        if before.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
            let deleted = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
            outcome = deleted.during("deleting what is in a namespace").map(drop);
        }
        let left = list().await?.items;
        if !left.is_empty() {
            remains.left.push(format!("{}.{} has {} resource instances", kind.plural, kind.group, left.len()));
        }
        for name in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *remains.finalizers.entry(name.clone()).or_default() += 1;
        }
        outcome
    }
}

/// The five conditions that upstream sets, of which `kubectl describe ns` shows why a deletion takes its time.
fn conditions(namespace: &Namespace, remains: &Remains) -> Vec<Value> {
    let now = Timestamp::now();
    let now = whole_seconds(now).to_string();
    let finalizers: Vec<String> =
        remains.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let (left, holds) = (remains.left.join(", "), finalizers.join(", "));
    let (failed, why) = (remains.failures.len(), remains.failures.join(", "));
    let row = |type_: &str, problem: bool, bad: (&str, String), good: (&str, &str)| {
        let status = if problem { "True" } else { "False" };
        let (reason, message) = if problem { bad } else { (good.0, good.1.to_owned()) };
        let old = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        let old = old.into_iter().flatten().find(|old| old.type_ == type_ && old.status == status);
        let since =
            old.and_then(|old| old.last_transition_time.as_ref()).map_or(now.clone(), |time| time.0.to_string());
        json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
    };
    vec![
        row(
            "NamespaceDeletionDiscoveryFailure",
            false,
            ("", String::new()),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        row(
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("", String::new()),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        row(
            "NamespaceDeletionContentFailure",
            failed > 0,
            ("ContentDeletionFailed", format!("Failed to delete all resource types, {failed} remaining: {why}")),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        row(
            "NamespaceContentRemaining",
            !remains.left.is_empty(),
            ("SomeResourcesRemain", format!("Some resources are remaining: {left}")),
            ("ContentRemoved", "All content successfully removed"),
        ),
        row(
            "NamespaceFinalizersRemaining",
            !remains.finalizers.is_empty(),
            ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {holds}")),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}
