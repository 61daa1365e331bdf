//! PersistentVolumes: their phases, and what becomes of them when their claim is gone (upstream's `syncVolume`).

use std::time::Duration;

use async_trait::async_trait;
use hypernetes_api::{names::VOLUME_DRIVER, time::whole_seconds, types::volume::Volume};
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use serde_json::{Value, json};

use super::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, claim_key, claim_reference, finalizers, has_finalizer, is_for, phase_of,
    volume_of,
};
use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Severity, Subject, write_status},
};

/// Keeps a volume that is to go with its claim until what is behind it has gone (KEP-2644).
pub const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

pub fn start(wiring: &Wiring<'_>) {
    let informers = wiring.informers;
    let context = Context::new(informers, "persistentvolume-controller");
    let queue = wiring.queue();
    let volumes = informers.of::<PersistentVolume>();
    volumes.feed(&queue, |key, _| vec![key.clone()]);
    let of_claim = volumes.clone();
    informers.of::<PersistentVolumeClaim>().feed(&queue, move |key, claim| {
        let named = volume_of(claim).map(|name| Key::new(&key.tenant, "", name));
        let kept = of_claim
            .list(&key.tenant, "")
            .into_iter()
            .filter(|volume| claim_reference(volume).is_some_and(|reference| is_for(reference, claim)));
        named.into_iter().chain(kept.map(|volume| Key::new(&key.tenant, "", &volume.name_any()))).collect()
    });
    informers.of::<Volume>().feed(&queue, move |key, _| {
        let behind = volumes.list(&key.tenant, "").into_iter().filter(|volume| handle(volume) == Some(&key.name));
        behind.map(|volume| Key::new(&key.tenant, "", &volume.name_any())).collect()
    });
    wiring.drive(Volumes { context }, queue);
}

/// The status of a volume that comes into a phase now.
pub fn phase(name: &str) -> PersistentVolumeStatus {
    let now = Timestamp::now();
    PersistentVolumeStatus {
        phase: Some(name.into()),
        last_phase_transition_time: Some(Time(whole_seconds(now))),
        ..Default::default()
    }
}

/// The name of the Volume behind it, where our driver has it.
fn handle(volume: &PersistentVolume) -> Option<&String> {
    let source = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref())?;
    (source.driver == VOLUME_DRIVER).then_some(&source.volume_handle)
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Made for a claim by our driver, and to go with it.
fn goes_with_claim(volume: &PersistentVolume) -> bool {
    let ours = volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == VOLUME_DRIVER);
    ours && handle(volume).is_some() && policy(volume) == "Delete"
}

/// How a volume and the claim that it names stand to each other.
enum Claimed {
    /// It is kept for a claim that is not there, or for nobody.
    Free,
    /// The claim knows it, or will when it is bound.
    Bound,
    /// The claim is being bound.
    Soon,
    /// The claim has another volume.
    Elsewhere,
    /// The claim is gone.
    Released,
}

struct Volumes {
    context: Context,
}

#[async_trait]
impl Reconciler for Volumes {
    const NAME: &'static str = "persistent-volumes";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(volume) = self.context.informers.of::<PersistentVolume>().get(key) else { return Ok(None) };
        let volume = self.keep_finalizer(key, &volume).await?;
        match self.claimed(key, &volume).await? {
            Claimed::Free if volume.metadata.deletion_timestamp.is_some() => self.reclaim(key, &volume).await?,
            Claimed::Free => drop(self.set_phase(key, volume, "Available").await?),
            Claimed::Bound => drop(self.set_phase(key, volume, "Bound").await?),
            Claimed::Soon => {}
            Claimed::Elsewhere if goes_with_claim(&volume) => self.release(key, volume).await?,
            Claimed::Elsewhere => self.unbind(key, &volume).await?,
            Claimed::Released => self.release(key, volume).await?,
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<PersistentVolume>(key)
    }
}

impl Volumes {
    async fn claimed(&self, key: &Key, volume: &PersistentVolume) -> Result<Claimed, Error> {
        let Some(reference) = claim_reference(volume) else { return Ok(Claimed::Free) };
        if reference.uid.as_ref().is_none_or(String::is_empty) {
            return Ok(Claimed::Free);
        }
        let Some(claim) = self.claim(key, reference).await? else { return Ok(Claimed::Released) };
        Ok(match volume_of(&claim) {
            None => Claimed::Soon,
            Some(name) if name == key.name => Claimed::Bound,
            Some(_) => Claimed::Elsewhere,
        })
    }

    /// The claim of exactly this reference. That it is gone is believed of the API alone: data may go with it.
    async fn claim(&self, key: &Key, reference: &ObjectReference) -> Result<Option<PersistentVolumeClaim>, Error> {
        let at = claim_key(&key.tenant, reference);
        let cached = self.context.informers.of::<PersistentVolumeClaim>().get(&at);
        if let Some(claim) = cached.filter(|claim| is_for(reference, claim)) {
            return Ok(Some(PersistentVolumeClaim::clone(&claim)));
        }
        if at.name.is_empty() || at.namespace.is_empty() {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = self.context.namespaced(&at.tenant, &at.namespace);
        let live = api.get_opt(&at.name).await.during("looking for a volume's claim")?;
        Ok(live.filter(|claim| is_for(reference, claim)))
    }

    async fn set_phase(&self, key: &Key, volume: PersistentVolume, name: &str) -> Result<PersistentVolume, Error> {
        if phase_of(&volume) == name {
            return Ok(volume);
        }
        let api: Api<PersistentVolume> = self.context.cluster(&key.tenant);
        let old = volume.status.clone().unwrap_or_default();
        let written = write_status(&self.context, &api, &volume, &old, &phase(name)).await?;
        if let Some(written) = &written {
            self.context.informers.of::<PersistentVolume>().observe(&key.tenant, written.clone());
        }
        Ok(written.unwrap_or(volume))
    }

    async fn patch(
        &self,
        key: &Key,
        volume: &PersistentVolume,
        doing: &'static str,
        mut patch: Value,
    ) -> Result<PersistentVolume, Error> {
        patch["metadata"]["uid"] = json!(volume.metadata.uid);
        patch["metadata"]["resourceVersion"] = json!(volume.meta().resource_version);
        let api: Api<PersistentVolume> = self.context.cluster(&key.tenant);
        let written = self.context.merge(&api, &key.name, doing, patch).await?;
        self.context.informers.of::<PersistentVolume>().observe(&key.tenant, written.clone());
        Ok(written)
    }

    /// The policy may change at any time, and the finalizer with it; on what goes already none is put.
    async fn keep_finalizer(&self, key: &Key, volume: &PersistentVolume) -> Result<PersistentVolume, Error> {
        let (has, wanted) = (has_finalizer(volume, FINALIZER), goes_with_claim(volume));
        if has == wanted || (wanted && volume.metadata.deletion_timestamp.is_some()) {
            return Ok(volume.clone());
        }
        let patch = json!({"metadata": {"finalizers": finalizers(volume, FINALIZER, wanted)}});
        self.patch(key, volume, "changing a volume's finalizers", patch).await
    }

    /// The claim has taken another volume: what we bound is free again, what a user bound waits for the next claim.
    async fn unbind(&self, key: &Key, volume: &PersistentVolume) -> Result<(), Error> {
        let ours = volume.annotations().contains_key(BOUND_BY_CONTROLLER);
        let reference = if ours { Value::Null } else { json!({"uid": null, "resourceVersion": null}) };
        let patch = json!({
            "metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": reference},
        });
        let volume = self.patch(key, volume, "unbinding a volume", patch).await?;
        self.set_phase(key, volume, "Available").await.map(drop)
    }

    async fn release(&self, key: &Key, volume: PersistentVolume) -> Result<(), Error> {
        let volume = match phase_of(&volume) {
            "Failed" => volume,
            _ => self.set_phase(key, volume, "Released").await?,
        };
        self.reclaim(key, &volume).await
    }

    async fn reclaim(&self, key: &Key, volume: &PersistentVolume) -> Result<(), Error> {
        if policy(volume) == "Recycle" && phase_of(volume) == "Released" {
            let message = "No recycler plugin found for the volume!".to_owned();
            let subject = Subject::of(&key.tenant, volume);
            self.context.events.say(&subject, Severity::Warning, "VolumeFailedRecycle", message).await;
            return self.set_phase(key, volume.clone(), "Failed").await.map(drop);
        }
        // What others have provisioned, others delete.
        let Some(behind) = handle(volume).filter(|_| goes_with_claim(volume)) else { return Ok(()) };
        if !self.remove_behind(key, behind).await? {
            // When it is gone, its watch sends the volume here again.
            return Ok(());
        }
        if volume.metadata.deletion_timestamp.is_some() {
            let patch = json!({"metadata": {"finalizers": finalizers(volume, FINALIZER, false)}});
            return match self.patch(key, volume, "letting a volume go", patch).await {
                Err(error) if error.code() == Some(404) => Ok(()),
                other => other.map(drop),
            };
        }
        let api: Api<PersistentVolume> = self.context.cluster(&key.tenant);
        let preconditions = Some(Preconditions { uid: volume.uid(), resource_version: None });
        let parameters = DeleteParams { preconditions, ..Default::default() };
        match api.delete(&key.name, &parameters).await.during("deleting a released volume") {
            Err(error) if error.code() == Some(404) => Ok(()),
            other => other.map(drop),
        }
    }

    /// True when the Volume is gone.
    async fn remove_behind(&self, key: &Key, name: &str) -> Result<bool, Error> {
        let api: Api<Volume> = self.context.cluster(&key.tenant);
        let live = api.get_metadata_opt(name).await.during("looking for the Volume behind a volume")?;
        let Some(live) = live else { return Ok(true) };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        match api.delete(name, &DeleteParams::background()).await.during("deleting the Volume behind a volume") {
            // Gone at once; else it is marked, and the backend comes first.
            Ok(deleted) => Ok(deleted.is_right()),
            Err(error) if error.code() == Some(404) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
