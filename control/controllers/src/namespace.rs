//! Deletion of namespaces: everything in them first, then the namespace.

use std::time::Duration;

use async_trait::async_trait;
use hypernetes_api::time::whole_seconds;
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
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
        let kinds = discovery::namespaced(&client).await?;
        let mut remains = Remains::default();
        for kind in &kinds {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.name, kind);
            self.empty(&api, kind, &mut remains).await?;
        }
        let api: Api<Namespace> = Api::all(client);
        let patch = json!({"status": {"phase": "Terminating", "conditions": conditions(&namespace, &remains)}});
        let written = api.patch_status(&key.name, &self.context.patching(), &Patch::Merge(patch)).await;
        let written = written.during("writing a namespace's status")?;
        if !remains.left.is_empty() || !remains.failures.is_empty() {
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
    /// Asks for the deletion of all objects of a kind, and notes those that stay for now.
    async fn empty(&self, api: &Api<DynamicObject>, kind: &ApiResource, remains: &mut Remains) -> Result<(), Error> {
        let list = api.list_metadata(&ListParams::default()).await.during("listing what is in a namespace")?;
        if list.items.is_empty() {
            return Ok(());
        }
        if list.items.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
            let deleted = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
            if let Err(error) = deleted {
                remains.failures.push(format!("{}: {error}", kind.plural));
            }
        }
        let list = api.list_metadata(&ListParams::default()).await.during("listing what is in a namespace")?;
        if !list.items.is_empty() {
            remains.left.push(format!("{}.{} has {} resource instances", kind.plural, kind.group, list.items.len()));
        }
        for name in list.items.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *remains.finalizers.entry(name.clone()).or_default() += 1;
        }
        Ok(())
    }
}

/// The five conditions that upstream sets, of which `kubectl describe ns` shows why a deletion takes its time.
fn conditions(namespace: &Namespace, remains: &Remains) -> Vec<Value> {
    let now = Timestamp::now();
    let now = whole_seconds(now).to_string();
    let finalizers: Vec<String> =
        remains.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let (left, holds) = (remains.left.join(", "), finalizers.join(", "));
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
            !remains.failures.is_empty(),
            ("ContentDeletionFailed", remains.failures.join(", ")),
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
