//! Deployment: moves pods from one template to the next through ReplicaSets, within bounds.

mod revision;
mod rolling;
mod status;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentCondition, ReplicaSet},
    core::v1::Pod,
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use self::rolling::{Bounds, Share, Size};
use crate::{
    Wiring,
    runtime::{
        Context, During, Error, Key, Reconciler, Recorder, Severity, Subject, claim, controller_of, make, matches,
        owner_reference, write_status,
    },
    template,
};

pub fn start(wiring: &Wiring<'_>) {
    let informers = wiring.informers;
    let context = Context::new(informers, "deployment-controller");
    let queue = wiring.queue();
    let (deployments, sets) = (informers.of::<Deployment>(), informers.of::<ReplicaSet>());
    deployments.feed(&queue, |key, _| vec![key.clone()]);
    sets.feed(&queue, move |key, set| match controller_of(set) {
        Some(owner) if owner.kind == "Deployment" => vec![key.sibling(&owner.name)],
        Some(_) => vec![],
        None => deployments
            .list(&key.tenant, &key.namespace)
            .iter()
            .filter(|d| d.spec.as_ref().is_some_and(|spec| matches(&spec.selector, set.metadata.labels.as_ref())))
            .map(|deployment| key.sibling(&deployment.name_any()))
            .collect(),
    });
    // A Recreate waits for the last old pod to be gone, of which no ReplicaSet's status tells.
    informers.of::<Pod>().feed(&queue, move |key, pod| {
        let set = controller_of(pod).filter(|owner| owner.kind == "ReplicaSet");
        let set = set.and_then(|owner| sets.get(&key.sibling(&owner.name)));
        let owner = set.as_ref().and_then(|set| controller_of(&**set)).map(|owner| key.sibling(&owner.name));
        owner.filter(|_| pod.metadata.deletion_timestamp.is_some()).into_iter().collect()
    });
    wiring.drive(Deployments { context }, queue);
}

/// Sets of our own in the way of the next one, before it is taken that none would be as it was made.
const MOST_COLLISIONS: i32 = 10;

struct Deployments {
    context: Context,
}

/// One look at a deployment.
struct Rollout<'a> {
    context: &'a Context,
    key: &'a Key,
    deployment: Arc<Deployment>,
    bounds: Bounds,
    new: Option<ReplicaSet>,
    /// Oldest first.
    old: Vec<ReplicaSet>,
    conditions: Vec<DeploymentCondition>,
}

#[async_trait]
impl Reconciler for Deployments {
    const NAME: &'static str = "deployment";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(deployment) = self.context.informers.of::<Deployment>().get(key) else { return Ok(None) };
        let Some(spec) = &deployment.spec else { return Ok(None) };
        if let Some(why) = template::objection(&*deployment, &spec.selector, Some(&spec.template)) {
            let subject = Subject::of(&key.tenant, &*deployment);
            self.context.events.say(&subject, Severity::Warning, template::REASON, why).await;
            return Ok(None);
        }
        let sets: Vec<Arc<ReplicaSet>> = claim(&self.context, &key.tenant, &*deployment, &spec.selector).await?;
        let sets = sets.iter().map(|set| ReplicaSet::clone(set)).collect();
        let (new, old) = revision::split(&deployment, sets);
        let conditions = deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let rollout = Rollout {
            context: &self.context,
            key,
            bounds: Bounds::of(&deployment),
            deployment: deployment.clone(),
            new,
            old,
            conditions,
        };
        rollout.run().await
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Deployment>(key)
    }
}

impl Rollout<'_> {
    async fn run(mut self) -> Result<Option<Duration>, Error> {
        let deployment = self.deployment.clone();
        if deployment.metadata.deletion_timestamp.is_some() {
            return self.write_status().await;
        }
        let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
        self.note_pause(paused);
        if paused || self.is_scaled() {
            if self.new.is_some() {
                self.mark_new(false).await?;
            }
            self.scale_in_proportion().await?;
            if paused {
                self.forget_history().await?;
            }
            return self.write_status().await;
        }
        if self.bounds.rolling {
            self.ensure_new().await?;
            let old = rolling::total(self.old.iter().map(|set| Size::of(set).wanted));
            let new = self.new_size().wanted;
            let wanted = rolling::grow(self.bounds, old, new);
            if wanted != new {
                self.scale_new(wanted).await?;
                return self.write_status().await;
            }
            let sizes: Vec<Size> = self.old.iter().map(Size::of).collect();
            for (at, size) in rolling::shrink(self.bounds, self.new_size(), &sizes).into_iter().enumerate() {
                self.scale_old(at, size).await?;
            }
        } else {
            let shrinking = self.old.iter().any(|set| Size::of(set).wanted > 0);
            for at in 0..self.old.len() {
                self.scale_old(at, 0).await?;
            }
            if shrinking || self.old_pods_left() {
                return self.write_status().await;
            }
            self.ensure_new().await?;
            self.scale_new(self.bounds.replicas).await?;
        }
        if deployment.status.as_ref().is_some_and(|have| status::is_complete(&deployment, have)) {
            self.forget_history().await?;
        }
        self.write_status().await
    }

    fn new_size(&self) -> Size {
        self.new.as_ref().map_or(Size { wanted: 0, available: 0 }, Size::of)
    }

    fn note_pause(&mut self, paused: bool) {
        if status::deadline(&self.deployment).is_none() {
            return;
        }
        let reason = status::find(&self.conditions, status::PROGRESSING).and_then(|now| now.reason.clone());
        let was = reason.as_deref() == Some("DeploymentPaused");
        // A rollout that has timed out says so also when it is paused.
        if paused && !was && reason.as_deref() != Some("ProgressDeadlineExceeded") {
            let message = "Deployment is paused".to_owned();
            status::set(&mut self.conditions, status::PROGRESSING, "Unknown", "DeploymentPaused", message);
        } else if !paused && was {
            let message = "Deployment is resumed".to_owned();
            status::set(&mut self.conditions, status::PROGRESSING, "Unknown", "DeploymentResumed", message);
        }
    }

    /// Whether the wanted number has changed since the sets were last scaled.
    fn is_scaled(&self) -> bool {
        let wanted = i64::from(self.bounds.replicas);
        let active = self.old.iter().chain(&self.new).filter(|set| Size::of(set).wanted > 0);
        active.into_iter().any(|set| revision::annotation(set, revision::DESIRED).is_some_and(|was| was != wanted))
    }

    fn old_pods_left(&self) -> bool {
        let pods = self.context.informers.of::<Pod>().list(&self.key.tenant, &self.key.namespace);
        let of_old = |pod: &Pod| {
            controller_of(pod)
                .is_some_and(|owner| self.old.iter().any(|set| set.metadata.uid.as_ref() == Some(&owner.uid)))
        };
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        pods.iter().any(|pod| of_old(pod) && !ended(pod))
            || self.old.iter().any(|set| set.status.as_ref().is_some_and(|status| status.replicas > 0))
    }

    fn sets(&self) -> Api<ReplicaSet> {
        self.context.namespaced(&self.key.tenant, &self.key.namespace)
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(revision::revision_of).max().unwrap_or(0).saturating_add(1)
    }

    async fn ensure_new(&mut self) -> Result<(), Error> {
        match self.new {
            Some(_) => self.mark_new(true).await,
            None => self.make_new().await,
        }
    }

    /// Gives the new set the revision and the annotations that it is to have, and the deployment the same revision.
    async fn mark_new(&mut self, renumber: bool) -> Result<(), Error> {
        let Some(set) = &self.new else { return Ok(()) };
        let next = if renumber { self.next_revision() } else { 0 };
        let wanted = revision::annotations(&self.deployment, Some(set), next);
        let seconds = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let have = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        if set.metadata.annotations.as_ref() != Some(&wanted) || seconds != have {
            let patch = json!({
                "metadata": {"annotations": wanted, "resourceVersion": set.metadata.resource_version},
                "spec": {"minReadySeconds": seconds},
            });
            let set = self.context.merge(&self.sets(), &set.name_any(), "marking a replica set", patch).await?;
            self.context.informers.of::<ReplicaSet>().observe(&self.key.tenant, set.clone());
            self.new = Some(set);
        }
        if status::deadline(&self.deployment).is_some()
            && status::find(&self.conditions, status::PROGRESSING).is_none()
            && let Some(set) = &self.new
        {
            let message = format!("Found new replica set {:?}", set.name_any());
            status::set(&mut self.conditions, status::PROGRESSING, "True", "FoundNewReplicaSet", message);
        }
        let revision = self.new.as_ref().map(revision::revision_of).unwrap_or(next);
        self.mark_deployment(revision).await
    }

    async fn mark_deployment(&mut self, revision: i64) -> Result<(), Error> {
        if revision::annotation(&*self.deployment, revision::REVISION) == Some(revision) {
            return Ok(());
        }
        let api: Api<Deployment> = self.context.namespaced(&self.key.tenant, &self.key.namespace);
        let meta = &self.deployment.metadata;
        let patch = json!({"metadata": {
            "annotations": {revision::REVISION: revision.to_string()},
            "uid": meta.uid, "resourceVersion": meta.resource_version,
        }});
        let written = self.context.merge(&api, &self.key.name, "writing a revision", patch).await?;
        self.context.informers.of::<Deployment>().observe(&self.key.tenant, written.clone());
        self.deployment = Arc::new(written);
        Ok(())
    }

    async fn make_new(&mut self) -> Result<(), Error> {
        let deployment = self.deployment.clone();
        let Some(spec) = &deployment.spec else { return Ok(()) };
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let hash = revision::template_hash(&spec.template, collisions);
        let name = format!("{}-{hash}", self.key.name);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(revision::HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(revision::HASH_LABEL.into(), hash);
        let old = rolling::total(self.old.iter().map(|set| Size::of(set).wanted));
        let replicas = rolling::grow(self.bounds, old, 0);
        let next = self.next_revision();
        let mut annotations = revision::annotations(&deployment, None, next);
        annotations.insert(revision::DESIRED.into(), self.bounds.replicas.to_string());
        annotations.insert(revision::MOST.into(), self.bounds.most().to_string());
        let set = json!({
            "metadata": {
                "name": name, "labels": labels, "annotations": annotations,
                "ownerReferences": [owner_reference(&*deployment)],
            },
            "spec": {
                "replicas": replicas, "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
                "selector": selector, "template": template,
            },
        });
        let (owner, what) = ((&self.key.tenant, &*deployment), ("creating a replica set", set));
        match make(self.context, &self.sets(), owner, &spec.selector, what).await {
            Ok(made) => self.new = Some(made),
            Err(error) if error.code() == Some(409) => return self.collide(&name, collisions).await,
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {}", error.message());
                self.say(Severity::Warning, "ReplicaSetCreateError", message.clone()).await;
                let conditions = &mut self.conditions;
                status::set(conditions, status::PROGRESSING, "False", "ReplicaSetCreateError", message);
                self.write_status().await?;
                return Err(error);
            }
        }
        if replicas > 0 {
            self.say(
                Severity::Normal,
                "ScalingReplicaSet",
                format!("Scaled up replica set {name} from 0 to {replicas}"),
            )
            .await;
        }
        if status::deadline(&deployment).is_some() {
            let message = format!("Created new replica set {name:?}");
            status::set(&mut self.conditions, status::PROGRESSING, "True", "NewReplicaSetCreated", message);
        }
        self.mark_deployment(next).await
    }

    /// The name is taken: by our own set that the cache does not have yet, or by another one, and then the next hash is
    /// tried.
    async fn collide(&mut self, name: &str, collisions: i32) -> Result<(), Error> {
        let other = self.sets().get(name).await.during("reading a replica set")?;
        let ours = controller_of(&other).is_some_and(|owner| Some(&owner.uid) == self.deployment.metadata.uid.as_ref());
        let same = revision::same_template(&self.deployment, &other);
        if ours && !same && collisions >= MOST_COLLISIONS {
            let message = format!("replica set {name} was made for this template, and has another one");
            self.say(Severity::Warning, "ReplicaSetCreateError", message.clone()).await;
            return Err(Error::Waiting(message));
        }
        if !ours || !same {
            let api: Api<Deployment> = self.context.namespaced(&self.key.tenant, &self.key.namespace);
            let old = self.deployment.status.clone().unwrap_or_default();
            let new = k8s_openapi::api::apps::v1::DeploymentStatus {
                collision_count: Some(collisions.saturating_add(1)),
                ..old.clone()
            };
            write_status(self.context, &api, &*self.deployment, &old, &new).await?;
        }
        Err(Error::Waiting(format!("the name {name} of the new replica set was taken")))
    }

    async fn say(&self, severity: Severity, reason: &'static str, message: String) {
        let subject = Subject::of(&self.key.tenant, &*self.deployment);
        self.context.events.say(&subject, severity, reason, message).await;
    }

    async fn scale_new(&mut self, size: i32) -> Result<(), Error> {
        if let Some(set) = self.new.take() {
            self.new = Some(self.scale(set, size).await?);
        }
        Ok(())
    }

    async fn scale_old(&mut self, at: usize, size: i32) -> Result<(), Error> {
        let set = self.old[at].clone();
        self.old[at] = self.scale(set, size).await?;
        Ok(())
    }

    async fn scale(&self, set: ReplicaSet, size: i32) -> Result<ReplicaSet, Error> {
        let was = Size::of(&set).wanted;
        let (desired, most) = (self.bounds.replicas.to_string(), self.bounds.most().to_string());
        let have = |name: &str| set.annotations().get(name);
        let noted = have(revision::DESIRED) == Some(&desired) && have(revision::MOST) == Some(&most);
        if was == size && (noted || size == 0) {
            return Ok(set);
        }
        let name = set.name_any();
        let patch = json!({
            "metadata": {
                "annotations": {revision::DESIRED: desired, revision::MOST: most},
                "resourceVersion": set.metadata.resource_version,
            },
            "spec": {"replicas": size},
        });
        let written = self.context.merge(&self.sets(), &name, "scaling a replica set", patch).await?;
        self.context.informers.of::<ReplicaSet>().observe(&self.key.tenant, written.clone());
        if was != size {
            let direction = if size > was { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {was} to {size}");
            self.say(Severity::Normal, "ScalingReplicaSet", message).await;
        }
        Ok(written)
    }

    /// The wanted number has changed: all sets that have pods get their part of it.
    async fn scale_in_proportion(&mut self) -> Result<(), Error> {
        let active: Vec<usize> = (0..self.old.len()).filter(|at| Size::of(&self.old[*at]).wanted > 0).collect();
        let new_active = self.new_size().wanted > 0;
        // One set alone, or none: it is simply of the wanted size.
        match (active.as_slice(), new_active) {
            ([], _) => {
                let replicas = self.bounds.replicas;
                if self.new.is_none()
                    && let Some(last) = self.old.len().checked_sub(1)
                {
                    return self.scale_old(last, replicas).await;
                }
                return self.scale_new(replicas).await;
            }
            ([one], false) => return self.scale_old(*one, self.bounds.replicas).await,
            _ => {}
        }
        let saturated = self.new.as_ref().is_some_and(|set| {
            let size = Size::of(set);
            size.wanted == self.bounds.replicas
                && size.available == self.bounds.replicas
                && revision::annotation(set, revision::DESIRED) == Some(i64::from(self.bounds.replicas))
        });
        if saturated {
            for at in active {
                self.scale_old(at, 0).await?;
            }
            return Ok(());
        }
        if !self.bounds.rolling {
            return Ok(());
        }
        // `None` is the new one.
        let mut parts: Vec<Option<usize>> = active.into_iter().map(Some).chain(new_active.then_some(None)).collect();
        let set = |part: &Option<usize>| part.map_or(self.new.as_ref(), |at| self.old.get(at));
        let wanted = |part: &Option<usize>| set(part).map_or(0, |set| Size::of(set).wanted);
        parts.sort_by_key(|part| std::cmp::Reverse(wanted(part)));
        let fallback = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let shares: Vec<Share> = parts
            .iter()
            .map(|part| {
                let most = set(part).and_then(|set| revision::annotation(set, revision::MOST));
                Share { wanted: wanted(part), most: most.and_then(|most| most.try_into().ok()).unwrap_or(fallback) }
            })
            .collect();
        for (part, size) in parts.iter().zip(rolling::spread(self.bounds, &shares)) {
            match part {
                Some(at) => self.scale_old(*at, size).await?,
                None => self.scale_new(size).await?,
            }
        }
        Ok(())
    }

    /// Deletes the oldest empty sets beyond the history limit.
    async fn forget_history(&mut self) -> Result<(), Error> {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut sets: Vec<&ReplicaSet> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        sets.sort_by_key(|set| revision::revision_of(set));
        let surplus = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for set in sets.into_iter().take(surplus) {
            let status = set.status.clone().unwrap_or_default();
            let observed = status.observed_generation >= set.metadata.generation;
            if status.replicas == 0 && Size::of(set).wanted == 0 && observed {
                let deleted = self.sets().delete(&set.name_any(), &DeleteParams::background()).await;
                match deleted.during("deleting an old replica set") {
                    Err(error) if error.code() == Some(404) => {}
                    other => drop(other?),
                }
            }
        }
        Ok(())
    }

    async fn write_status(&self) -> Result<Option<Duration>, Error> {
        let (deployment, now) = (&self.deployment, Timestamp::now());
        let mut new = status::calculate(deployment, self.new.as_ref(), &self.old, self.conditions.clone());
        let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
        if !paused {
            status::judge_progress(deployment, self.new.as_ref(), &self.old, &mut new, now);
        }
        let old = deployment.status.clone().unwrap_or_default();
        let api: Api<Deployment> = self.context.namespaced(&self.key.tenant, &self.key.namespace);
        if let Some(written) = write_status(self.context, &api, &**deployment, &old, &new).await? {
            self.context.informers.of::<Deployment>().observe(&self.key.tenant, written);
        }
        Ok(status::overdue_after(deployment, &new, now))
    }
}
