//! The provisioner of our own driver: a `Volume` for a claim, and a PersistentVolume for that (what
//! kubernetes-csi/external-provisioner is for other drivers).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hypernetes_api::{
    names::VOLUME_DRIVER,
    types::volume::{Volume, VolumeStatus},
};
use hypernetes_client::Api;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
};
use serde_json::json;

use super::{
    PROVISIONED_BY, PROVISIONERS, SELECTED_NODE, class, class_of, persistent, protection, size, volume_of,
    waits_for_consumer,
};
use crate::{
    Wiring,
    runtime::{Context, During, Error, Key, Reconciler, Recorder, Severity, Subject},
};

/// On a Volume: a PersistentVolume has been made of it, which from then on says what becomes of it.
const HANDED_OVER: &str = "volume.hypernetes.io/persistent-volume";

pub fn start(wiring: &Wiring<'_>) {
    let informers = wiring.informers;
    let context = Context::new(informers, VOLUME_DRIVER);

    let queue = wiring.queue();
    let claims = informers.of::<PersistentVolumeClaim>();
    claims.feed(&queue, |key, _| vec![key.clone()]);
    // A Volume that comes to nothing is a reason to tell the claim's user.
    informers.of::<Volume>().feed(&queue, |key, volume| claim_of(key, volume).into_iter().collect());
    wiring.drive(Claims { context: context.clone() }, queue);

    let queue = wiring.queue();
    informers.of::<Volume>().feed(&queue, |key, _| vec![key.clone()]);
    informers.of::<PersistentVolume>().feed(&queue, |key, _| vec![key.clone()]);
    claims.feed(&queue, |key, claim| vec![Key::new(&key.tenant, "", &name_for(claim))]);
    wiring.drive(Volumes { context }, queue);
}

/// The name of the Volume, and of the PersistentVolume, that is made for a claim.
fn name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

/// The claim that a Volume was made for.
fn claim_of(key: &Key, volume: &Volume) -> Option<Key> {
    volume.spec.claim.as_ref().map(|claim| Key::new(&key.tenant, &claim.namespace, &claim.name))
}

/// What is bound already, or to one that the user has named, is not provisioned.
fn is_open(claim: &PersistentVolumeClaim) -> bool {
    volume_of(claim).is_none() && claim.metadata.deletion_timestamp.is_none()
}

/// Why no volume can be made for a claim, ever.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Size(#[from] size::SizeError),
    #[error("claim Selector is not supported")]
    Selector,
    #[error("volumes with contents (dataSource) are not supported")]
    Source,
    /// The volume becomes a disk of one virtual machine.
    #[error("access mode {0} is not supported: want ReadWriteOnce or ReadWriteOncePod")]
    Access(String),
}

fn size_of(claim: &PersistentVolumeClaim) -> Result<u64, Refusal> {
    let size = size::to_provision(claim)?;
    let Some(spec) = &claim.spec else { return Ok(size) };
    if spec.selector.is_some() {
        return Err(Refusal::Selector);
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(Refusal::Source);
    }
    let single = ["ReadWriteOnce", "ReadWriteOncePod"];
    match spec.access_modes.iter().flatten().find(|mode| !single.contains(&mode.as_str())) {
        Some(other) => Err(Refusal::Access(other.chars().take(80).collect())),
        None => Ok(size),
    }
}

/// From claims to Volumes.
struct Claims {
    context: Context,
}

#[async_trait]
impl Reconciler for Claims {
    const NAME: &'static str = "provisioner";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(claim) = self.context.informers.of::<PersistentVolumeClaim>().get(key) else { return Ok(None) };
        let asked =
            PROVISIONERS.iter().any(|name| claim.annotations().get(*name).is_some_and(|by| by == VOLUME_DRIVER));
        if !asked || !is_open(&claim) {
            return Ok(None);
        }
        let Some(class) = class(&self.context.informers, class_of(&claim)) else { return Ok(None) };
        let early = waits_for_consumer(&class) && !claim.annotations().contains_key(SELECTED_NODE);
        if class.provisioner != VOLUME_DRIVER || early {
            return Ok(None);
        }
        match self.volume(key, &claim, &class).await {
            Ok(None) => {}
            Ok(Some(problem)) => self.fail(key, &claim, &class, problem).await,
            Err(error) => {
                // Others write, too, and that is no news to the user.
                if !error.is_passing() {
                    self.fail(key, &claim, &class, error.message()).await;
                }
                return Err(error);
            }
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<PersistentVolumeClaim>(key)
    }
}

impl Claims {
    /// Makes the claim's Volume; what is wrong with it or with the claim.
    async fn volume(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<Option<String>, Error> {
        let size = match size_of(claim) {
            Ok(size) => size,
            Err(refusal) => return Ok(Some(refusal.to_string())),
        };
        let name = name_for(claim);
        let have = self.context.informers.of::<Volume>().get(&Key::new(&key.tenant, "", &name));
        let Some(have) = have else {
            return self.make(key, claim, class, &name, size).await;
        };
        Ok(problem(claim, &have))
    }

    async fn make(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        name: &str,
        size: u64,
    ) -> Result<Option<String>, Error> {
        let message =
            format!("External provisioner is provisioning volume for claim \"{}/{}\"", key.namespace, key.name);
        let subject = Subject::of(&key.tenant, claim);
        self.context.events.say(&subject, Severity::Normal, "Provisioning", message).await;
        let volume = json!({
            "apiVersion": "volume.hypernetes.io/v1alpha1", "kind": "Volume",
            "metadata": {"name": name},
            "spec": {
                "displayName": name, "description": format!("Claim {}/{}", key.namespace, key.name),
                "sizeBytes": size, "volumeType": class.name_any(),
                "claim": {"namespace": key.namespace, "name": key.name, "uid": claim.metadata.uid},
            },
        });
        let api: Api<Volume> = self.context.cluster(&key.tenant);
        let volumes = self.context.informers.of::<Volume>();
        if self.context.ensure(&volumes, &key.tenant, &api, "making a Volume", volume).await? {
            return Ok(None);
        }
        let have = api.get_opt(name).await.during("looking at a Volume that was there")?;
        Ok(have.and_then(|have| problem(claim, &have)))
    }

    async fn fail(&self, key: &Key, claim: &PersistentVolumeClaim, class: &StorageClass, why: String) {
        let message = format!("failed to provision volume with StorageClass {:?}: {why}", class.name_any());
        let subject = Subject::of(&key.tenant, claim);
        self.context.events.say(&subject, Severity::Warning, "ProvisioningFailed", message).await;
    }
}

/// What is wrong with the Volume that is to be a claim's.
fn problem(claim: &PersistentVolumeClaim, volume: &Volume) -> Option<String> {
    if !is_made_for(volume, claim) {
        return Some(format!("a Volume {} is there, and not this claim's", volume.name_any()));
    }
    let VolumeStatus { phase, message, .. } = volume.status.clone()?;
    (phase == "Error").then_some(message)
}

fn is_made_for(volume: &Volume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.claim.as_ref();
    reference.is_some_and(|reference| Some(&reference.uid) == claim.metadata.uid.as_ref())
}

/// From Volumes to PersistentVolumes.
struct Volumes {
    context: Context,
}

#[async_trait]
impl Reconciler for Volumes {
    const NAME: &'static str = "provisioned-volumes";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let informers = &self.context.informers;
        let Some(volume) = informers.of::<Volume>().get(key) else { return Ok(None) };
        let Some(claim_key) = claim_of(key, &volume) else { return Ok(None) };
        if volume.metadata.deletion_timestamp.is_some() || informers.of::<PersistentVolume>().get(key).is_some() {
            return Ok(None);
        }
        let claim = informers.of::<PersistentVolumeClaim>().get(&claim_key);
        match claim.filter(|claim| is_made_for(&volume, claim) && name_for(claim) == key.name) {
            Some(claim) if is_open(&claim) => self.hand_over(key, &volume, &claim_key, &claim).await?,
            Some(_) => {}
            None => self.drop_unused(key, &volume, &claim_key).await?,
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<Volume>(key)
    }
}

impl Volumes {
    async fn hand_over(
        &self,
        key: &Key,
        volume: &Arc<Volume>,
        claim_key: &Key,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Error> {
        let phase = volume.status.as_ref().map(|status| status.phase.as_str());
        let Some(class) = class(&self.context.informers, class_of(claim)) else { return Ok(()) };
        if phase != Some("Available") {
            return Ok(());
        }
        // Before the PersistentVolume is there: once it is, its policy decides, though it may be deleted at any time.
        let volumes: Api<Volume> = self.context.cluster(&key.tenant);
        let mark = json!({"metadata": {"uid": volume.metadata.uid, "annotations": {HANDED_OVER: key.name}}});
        let marked = self.context.merge(&volumes, &key.name, "marking a Volume", mark).await?;
        self.context.informers.of::<Volume>().observe(&key.tenant, marked);

        let api: Api<PersistentVolume> = self.context.cluster(&key.tenant);
        let object = persistent_volume(volume, claim_key, claim, &class);
        let known = self.context.informers.of::<PersistentVolume>();
        if self.context.ensure(&known, &key.tenant, &api, "making a persistent volume", object).await? {
            let message = format!("Successfully provisioned volume {}", key.name);
            let subject = Subject::of(&key.tenant, claim);
            self.context.events.say(&subject, Severity::Normal, "ProvisioningSucceeded", message).await;
        }
        Ok(())
    }

    /// The claim went before its volume was there.
    async fn drop_unused(&self, key: &Key, volume: &Volume, claim_key: &Key) -> Result<(), Error> {
        let expected = volume.spec.claim.as_ref().is_some_and(|claim| format!("pvc-{}", claim.uid) == key.name);
        if !expected || volume.annotations().contains_key(HANDED_OVER) {
            return Ok(());
        }
        let claims: Api<PersistentVolumeClaim> = self.context.namespaced(&key.tenant, &claim_key.namespace);
        let live = claims.get_opt(&claim_key.name).await.during("looking for a Volume's claim")?;
        if live.is_some_and(|claim| is_made_for(volume, &claim)) {
            return Err(Error::Waiting(format!("the claim {claim_key} is not in the cache yet")));
        }
        let api: Api<Volume> = self.context.cluster(&key.tenant);
        // The version, lest it has been handed over meanwhile.
        let preconditions = Preconditions { uid: volume.uid(), resource_version: volume.resource_version() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        match api.delete(&key.name, &parameters).await.during("deleting a Volume that nobody claims") {
            Err(error) if error.code() == Some(404) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn persistent_volume(
    volume: &Volume,
    claim_key: &Key,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
) -> serde_json::Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let mode = spec.volume_mode.unwrap_or_else(|| "Filesystem".into());
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into());
    let mut finalizers = vec![protection::VOLUME];
    if policy == "Delete" {
        finalizers.push(persistent::FINALIZER);
    }
    let size = volume.status.as_ref().map_or(0, |status| status.size_bytes).max(volume.spec.size_bytes);
    let mut csi = json!({"driver": VOLUME_DRIVER, "volumeHandle": volume.name_any()});
    if mode == "Filesystem" {
        csi["fsType"] = "ext4".into();
    }
    let mut object = json!({
        "metadata": {
            "name": volume.name_any(), "finalizers": finalizers, "annotations": {PROVISIONED_BY: VOLUME_DRIVER},
        },
        "spec": {
            "capacity": {"storage": format!("{}Gi", size.div_ceil(1 << 30))},
            "accessModes": spec.access_modes.unwrap_or_default(),
            "persistentVolumeReclaimPolicy": policy, "storageClassName": class.name_any(), "volumeMode": mode,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim_key.namespace,
                "name": claim_key.name, "uid": claim.metadata.uid,
            },
            "csi": csi,
        },
    });
    if let Some(options) = class.mount_options.as_ref().filter(|options| !options.is_empty()) {
        object["spec"]["mountOptions"] = json!(options);
    }
    object
}
