//! As many pods of a template as are wanted: `ReplicaSet` and `ReplicationController`, which differ in their form alone
//! ([`Replicated`]).

pub mod ranking;
mod replica_set;
mod replication_controller;

use std::{
    borrow::Cow,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hypernetes_api::time::whole_seconds;
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, Time},
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    Wiring,
    runtime::{
        Context, During, Error, Key, Object, Reconciler, Recorder, Severity, Subject, claim, controller_of, make,
        matches, owner_reference, write_status,
    },
    template,
};

/// Pods made or deleted in one go; the rest follow in the next, which the changed pods start.
const BURST: usize = 500;
/// And for no longer than this at once, lest a slow server make it look as if it did not end.
const SLICE: Duration = Duration::from_secs(15);
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// A kind that keeps a number of pods.
trait Replicated: Object + Serialize + Resource<Scope = NamespaceResourceScope> {
    const CONTROLLER: &'static str;
    /// Who writes, and says what was done.
    const COMPONENT: &'static str;
    /// Whether its status has `terminatingReplicas`.
    const COUNTS_TERMINATING: bool;

    fn wanted(&self) -> Option<Wanted<'_>>;

    /// As a ReplicaSet has it: of every kind it has the same fields.
    fn status(&self) -> ReplicaSetStatus;
}

struct Wanted<'a> {
    replicas: i32,
    min_ready_seconds: i32,
    selector: Cow<'a, LabelSelector>,
    template: Option<&'a PodTemplateSpec>,
}

pub fn start(wiring: &Wiring<'_>) {
    follow::<ReplicaSet>(wiring);
    follow::<ReplicationController>(wiring);
}

fn follow<K: Replicated>(wiring: &Wiring<'_>) {
    let informers = wiring.informers;
    let context = Context::new(informers, K::COMPONENT);
    let queue = wiring.queue();
    let sets = informers.of::<K>();
    sets.feed(&queue, |key, _| vec![key.clone()]);
    informers.of::<Pod>().feed(&queue, move |key, pod| match controller_of(pod) {
        Some(owner) if owner.kind == K::kind(&()) => vec![key.sibling(&owner.name)],
        Some(_) => vec![],
        // An orphan: whoever selects it may take it in.
        None => sets
            .list(&key.tenant, &key.namespace)
            .iter()
            .filter(|set| set.wanted().is_some_and(|wanted| matches(&wanted.selector, pod.metadata.labels.as_ref())))
            .map(|set| key.sibling(&set.name_any()))
            .collect(),
    });
    wiring.drive(Replicas::<K> { context, of: PhantomData }, queue);
}

struct Replicas<K> {
    context: Context,
    of: PhantomData<fn() -> K>,
}

#[async_trait]
impl<K: Replicated> Reconciler for Replicas<K> {
    const NAME: &'static str = K::CONTROLLER;
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let sets = self.context.informers.of::<K>();
        let Some(set) = sets.get(key) else { return Ok(None) };
        let Some(wanted) = set.wanted() else { return Ok(None) };
        if let Some(why) = template::objection(&*set, &wanted.selector, wanted.template) {
            let subject = Subject::of(&key.tenant, &*set);
            self.context.events.say(&subject, Severity::Warning, template::REASON, why).await;
            return Ok(None);
        }
        let mut pods: Vec<Arc<Pod>> = claim(&self.context, &key.tenant, &*set, &wanted.selector).await?;
        let terminating = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
        pods.retain(|pod| ranking::is_active(pod));
        let managed = match set.meta().deletion_timestamp {
            None => self.manage(key, &*set, &wanted, &pods).await,
            Some(_) => Ok(()),
        };
        let status = status(&*set, &wanted, &pods, terminating, managed.as_ref().err());
        let api: Api<K> = self.context.namespaced(&key.tenant, &key.namespace);
        if let Some(written) = write_status(&self.context, &api, &*set, &set.status(), &status).await? {
            sets.observe(&key.tenant, written);
        }
        managed?;
        let waits = wanted.min_ready_seconds > 0 && status.available_replicas != status.ready_replicas;
        Ok(waits.then(|| Duration::from_secs(1)))
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<K>(key)
    }
}

impl<K: Replicated> Replicas<K> {
    /// Makes what is missing, deletes what is too much.
    async fn manage(&self, key: &Key, set: &K, wanted: &Wanted<'_>, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let Wanted { selector, template, .. } = wanted;
        let wanted = usize::try_from(wanted.replicas).unwrap_or(0);
        let api: Api<Pod> = self.context.namespaced(&key.tenant, &key.namespace);
        let cache = self.context.informers.of::<Pod>();
        let subject = Subject::of(&key.tenant, set);
        let events = &self.context.events;
        let have = pods.len();
        if have < wanted {
            let template = template.cloned().unwrap_or_default();
            let meta = template.metadata.unwrap_or_default();
            let mut pod = json!({
                "metadata": {
                    "generateName": format!("{}-", key.name),
                    "labels": meta.labels, "annotations": meta.annotations, "finalizers": meta.finalizers,
                    "ownerReferences": [owner_reference(set)],
                },
                "spec": template.spec,
            });
            drop_nulls(&mut pod["metadata"]);
            let began = Instant::now();
            for _ in 0..(wanted - have).min(BURST) {
                if began.elapsed() > SLICE {
                    break;
                }
                let what = ("creating a pod", pod.clone());
                match make(&self.context, &api, (&key.tenant, set), selector, what).await {
                    Ok(made) => {
                        let message = format!("Created pod: {}", made.name_any());
                        events.say(&subject, Severity::Normal, "SuccessfulCreate", message).await;
                    }
                    Err(error) => {
                        let message = format!("Error creating: {}", error.message());
                        events.say(&subject, Severity::Warning, "FailedCreate", message).await;
                        return Err(error);
                    }
                }
            }
        }
        let surplus = have.saturating_sub(wanted).min(BURST);
        if surplus > 0 {
            for pod in ranking::victims(pods.to_vec(), surplus) {
                let name = pod.name_any();
                let parameters =
                    DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
                match api.delete(&name, &parameters).await.during("deleting a pod") {
                    Ok(gone) => {
                        if let Some(marked) = gone.left() {
                            cache.observe(&key.tenant, marked);
                        }
                        let message = format!("Deleted pod: {name}");
                        events.say(&subject, Severity::Normal, "SuccessfulDelete", message).await;
                    }
                    Err(error) if error.code() == Some(404) => {}
                    Err(error) => {
                        let message = format!("Error deleting: {}", error.message());
                        events.say(&subject, Severity::Warning, "FailedDelete", message).await;
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

fn drop_nulls(value: &mut serde_json::Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
}

fn status<K: Replicated>(
    set: &K,
    wanted: &Wanted<'_>,
    pods: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&Error>,
) -> ReplicaSetStatus {
    let old = set.status();
    let now = Timestamp::now();
    let template_labels =
        wanted.template.and_then(|template| template.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels
            .into_iter()
            .flatten()
            .all(|(key, value)| labels.is_some_and(|have| have.get(key) == Some(value)))
    };
    let count = |counts: &dyn Fn(&Pod) -> bool| pods.iter().filter(|pod| counts(pod)).count() as i32;
    // Upstream leaves zeroes out.
    let shown = |count: i32| (count != 0).then_some(count);
    let mut conditions = old.conditions.unwrap_or_default();
    let failed_before = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        Some(error) if !failed_before => {
            let reason = match (pods.len() as i32).cmp(&wanted.replicas) {
                std::cmp::Ordering::Less => "FailedCreate",
                _ => "FailedDelete",
            };
            conditions.push(ReplicaSetCondition {
                type_: REPLICA_FAILURE.into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(error.message()),
                last_transition_time: Some(Time(whole_seconds(now))),
            });
        }
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(_) => {}
    }
    ReplicaSetStatus {
        replicas: pods.len() as i32,
        fully_labeled_replicas: shown(count(&labelled)),
        ready_replicas: shown(count(&|pod| ranking::ready_since(pod).is_some())),
        available_replicas: shown(count(&|pod| ranking::is_available(pod, wanted.min_ready_seconds, now))),
        terminating_replicas: K::COUNTS_TERMINATING.then_some(terminating as i32),
        observed_generation: set.meta().generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
