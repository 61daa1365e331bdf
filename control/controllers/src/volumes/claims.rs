//! Claims: bound to the volume that suits, or waiting for one (upstream's `syncClaim`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hypernetes_api::TenantId;
use hypernetes_client::Api;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus},
    storage::v1::StorageClass,
};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONERS, SELECTED_NODE, claim_key, claim_reference, class, class_of,
    default_class, is_for,
    matching::{self, Choice},
    volume_of, waits_for_consumer,
};
use crate::{
    Wiring, refused_today,
    runtime::{Context, During, Error, Informers, Key, Reconciler, Recorder, Severity, Subject, write_status},
    template,
};

/// Of volumes that are made by hand; nobody provisions for it.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

pub fn start(wiring: &Wiring<'_>) {
    let informers = wiring.informers;
    let context = Context::new(informers, "persistentvolume-controller");
    let queue = wiring.queue();
    let claims = informers.of::<PersistentVolumeClaim>();
    claims.feed(&queue, |key, _| vec![key.clone()]);
    let of_tenant = claims.clone();
    informers.of::<PersistentVolume>().feed(&queue, move |key, volume| match claim_reference(volume) {
        Some(reference) => vec![claim_key(&key.tenant, reference)],
        // A free one: whoever waits may have it.
        None => waiting(&key.tenant, of_tenant.list_tenant(&key.tenant)),
    });
    informers.of::<StorageClass>().feed(&queue, move |key, class| {
        let waits = |claim: &PersistentVolumeClaim| class_of(claim).is_empty() || class_of(claim) == class.name_any();
        let all = claims.all().into_iter().filter(|(_, claim)| !is_bound(claim) && waits(claim));
        if key.tenant.is_system() { all.map(|(key, _)| key).collect() } else { vec![] }
    });
    wiring.drive(Claims { context }, queue);
}

fn waiting(tenant: &TenantId, claims: Vec<Arc<PersistentVolumeClaim>>) -> Vec<Key> {
    let unbound = claims.into_iter().filter(|claim| !is_bound(claim));
    unbound.map(|claim| Key::new(tenant, &claim.namespace().unwrap_or_default(), &claim.name_any())).collect()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.annotations().contains_key(BIND_COMPLETED)
}

struct Claims {
    context: Context,
}

/// A claim's wait, as its user is told of it.
struct Wait {
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl Wait {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

#[async_trait]
impl Reconciler for Claims {
    const NAME: &'static str = "claims";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let claims = self.context.informers.of::<PersistentVolumeClaim>();
        let Some(claim) = claims.get(key).filter(|claim| claim.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        if is_bound(&claim) {
            self.check_bound(key, &claim).await?;
        } else {
            self.find_volume(key, claim).await?;
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<PersistentVolumeClaim>(key)
    }
}

impl Claims {
    fn informers(&self) -> &Informers {
        &self.context.informers
    }

    fn volume(&self, key: &Key, name: &str) -> Option<Arc<PersistentVolume>> {
        self.informers().of::<PersistentVolume>().get(&Key::new(&key.tenant, "", name))
    }

    /// A claim that was bound once stays so, or is lost for ever.
    async fn check_bound(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let Some(name) = volume_of(claim) else {
            let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return self.lose(key, claim, Wait::warning("ClaimLost", message)).await;
        };
        let Some(volume) = self.volume(key, name) else {
            let api: Api<PersistentVolume> = self.context.cluster(&key.tenant);
            if api.get_metadata_opt(name).await.during("looking for a claim's volume")?.is_some() {
                return Err(Error::Waiting(format!("the volume {name} is not in the cache yet")));
            }
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            return self.lose(key, claim, Wait::warning("ClaimLost", message)).await;
        };
        match claim_reference(&volume) {
            Some(reference) if !is_for(reference, claim) => {
                let message = "Two claims are bound to the same volume, this one is bound incorrectly";
                self.lose(key, claim, Wait::warning("ClaimMisbound", message)).await
            }
            _ => self.bind(key, claim, &volume).await,
        }
    }

    async fn lose(&self, key: &Key, claim: &PersistentVolumeClaim, why: Wait) -> Result<(), Error> {
        let status = PersistentVolumeClaimStatus { phase: Some("Lost".into()), ..Default::default() };
        if self.write_status(key, claim, status).await? {
            self.say(key, claim, why).await;
        }
        Ok(())
    }

    async fn find_volume(&self, key: &Key, claim: Arc<PersistentVolumeClaim>) -> Result<(), Error> {
        if let Some(why) = refused_today(&*claim) {
            self.say(key, &claim, Wait::warning(template::REASON, why)).await;
            return Ok(());
        }
        let outcome = match volume_of(&claim) {
            Some(name) => self.named(key, &claim, name),
            None => self.chosen(key, &claim),
        };
        match outcome {
            Ok(Some(volume)) => self.bind(key, &claim, &volume).await,
            Ok(None) => Ok(()),
            Err(wait) => {
                let undecided = claim.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none());
                // A class may have become the default one since the claim was made (KEP-3333).
                if undecided
                    && volume_of(&claim).is_none()
                    && let Some(class) = default_class(self.informers())
                {
                    let patch = json!({"spec": {"storageClassName": class.name_any()}});
                    // This change sends the claim here again.
                    return self.patch_claim(key, &claim, "giving a claim the default class", patch).await.map(drop);
                }
                if wait.reason == "ExternalProvisioning" {
                    self.ask_provisioner(key, &claim).await?;
                }
                self.say(key, &claim, wait).await;
                Ok(())
            }
        }
    }

    /// The volume that the claim asks for by name, when it can have it.
    fn named(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        name: &str,
    ) -> Result<Option<Arc<PersistentVolume>>, Wait> {
        let Some(volume) = self.volume(key, name) else { return Ok(None) };
        match claim_reference(&volume) {
            Some(reference) if is_for(reference, claim) => Ok(Some(volume)),
            Some(_) => {
                let message = format!("volume {name:?} already bound to a different claim.");
                Err(Wait::warning("FailedBinding", message))
            }
            None => match matching::objection(&volume, claim) {
                Some(why) => {
                    Err(Wait::warning("VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}")))
                }
                None => Ok((volume.metadata.deletion_timestamp.is_none()).then_some(volume)),
            },
        }
    }

    /// The volume that suits best, or what the claim waits for.
    fn chosen(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<Option<Arc<PersistentVolume>>, Wait> {
        let name = class_of(claim);
        let class = class(self.informers(), name);
        let delayed = class.as_deref().is_some_and(waits_for_consumer);
        let node_chosen = claim.annotations().contains_key(SELECTED_NODE);
        let choice = if delayed && !node_chosen { Choice::Named } else { Choice::Free { node_chosen: delayed } };
        let volumes = self.informers().of::<PersistentVolume>().list(&key.tenant, "");
        if let Some(volume) = matching::best(claim, volumes, choice) {
            return Ok(Some(volume));
        }
        if choice == Choice::Named {
            let message = "waiting for first consumer to be created before binding";
            return Err(Wait::normal("WaitForFirstConsumer", message));
        }
        let Some(class) = class else {
            return Err(if name.is_empty() {
                let message = "no persistent volumes available for this claim and no storage class is set";
                Wait::normal("FailedBinding", message)
            } else {
                Wait::warning("ProvisioningFailed", format!("storageclass.storage.k8s.io {name:?} not found"))
            });
        };
        if class.provisioner == NO_PROVISIONER {
            let message = format!("no volume plugin matched name: {NO_PROVISIONER}");
            return Err(Wait::warning("ProvisioningFailed", message));
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
             registered.",
            class.provisioner
        );
        Err(Wait::normal("ExternalProvisioning", message))
    }

    /// Marks the claim for its class's provisioner, which waits for that: a volume that is there would come first.
    async fn ask_provisioner(&self, key: &Key, claim: &Arc<PersistentVolumeClaim>) -> Result<(), Error> {
        let Some(class) = class(self.informers(), class_of(claim)) else { return Ok(()) };
        let asked = |name: &&str| claim.annotations().get(*name) == Some(&class.provisioner);
        if PROVISIONERS.iter().all(asked) {
            return Ok(());
        }
        let annotations: serde_json::Map<String, Value> =
            PROVISIONERS.iter().map(|name| ((*name).to_owned(), json!(class.provisioner))).collect();
        let patch = json!({"metadata": {"annotations": annotations}});
        self.patch_claim(key, claim, "asking a provisioner", patch).await.map(drop)
    }

    /// Binds both sides, from whatever step an earlier attempt came to. The volume comes first: it is what two claims
    /// may want at once, and the version that the write names lets one of them have it.
    async fn bind(&self, key: &Key, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Error> {
        let volume = self.bind_volume(key, claim, volume).await?;
        let claim = self.bind_claim(key, claim, &volume).await?;
        let spec = volume.spec.clone().unwrap_or_default();
        let old = claim.status.clone().unwrap_or_default();
        let status = PersistentVolumeClaimStatus {
            phase: Some("Bound".into()),
            access_modes: spec.access_modes,
            capacity: old.capacity.clone().filter(|_| old.phase.as_deref() == Some("Bound")).or(spec.capacity),
            ..old
        };
        self.write_status(key, &claim, status).await.map(drop)
    }

    async fn bind_volume(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<PersistentVolume, Error> {
        let volumes = self.informers().of::<PersistentVolume>();
        let api: Api<PersistentVolume> = self.context.cluster(&key.tenant);
        let mut volume = volume.clone();
        let reference = claim_reference(&volume);
        if reference.and_then(|reference| reference.uid.as_ref()).is_none_or(String::is_empty) {
            let mut patch = json!({
                "metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version},
                "spec": {"claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": key.namespace, "name": key.name,
                    "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                }},
            });
            // What a user has bound is not for us to unbind again.
            if reference.is_none() {
                patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
            }
            volume = self.context.merge(&api, &volume.name_any(), "binding a volume to a claim", patch).await?;
            volumes.observe(&key.tenant, volume.clone());
        }
        if super::phase_of(&volume) != "Bound" {
            let status = super::persistent::phase("Bound");
            let old: PersistentVolumeStatus = volume.status.clone().unwrap_or_default();
            if let Some(written) = write_status(&self.context, &api, &volume, &old, &status).await? {
                volumes.observe(&key.tenant, written.clone());
                volume = written;
            }
        }
        Ok(volume)
    }

    async fn bind_claim(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<Arc<PersistentVolumeClaim>, Error> {
        if is_bound(claim) && volume_of(claim).is_some() {
            return Ok(Arc::new(claim.clone()));
        }
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if volume_of(claim).is_none() {
            annotations[BOUND_BY_CONTROLLER] = "yes".into();
        }
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume.name_any()}});
        self.patch_claim(key, claim, "binding a claim to a volume", patch).await
    }

    async fn patch_claim(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        doing: &'static str,
        mut patch: Value,
    ) -> Result<Arc<PersistentVolumeClaim>, Error> {
        patch["metadata"]["uid"] = json!(claim.metadata.uid);
        patch["metadata"]["resourceVersion"] = json!(claim.meta().resource_version);
        let api: Api<PersistentVolumeClaim> = self.context.namespaced(&key.tenant, &key.namespace);
        let written = self.context.merge(&api, &key.name, doing, patch).await?;
        self.informers().of::<PersistentVolumeClaim>().observe(&key.tenant, written.clone());
        Ok(Arc::new(written))
    }

    /// True when something was to be written.
    async fn write_status(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        status: PersistentVolumeClaimStatus,
    ) -> Result<bool, Error> {
        let api: Api<PersistentVolumeClaim> = self.context.namespaced(&key.tenant, &key.namespace);
        let old = claim.status.clone().unwrap_or_default();
        let written = write_status(&self.context, &api, claim, &old, &status).await?;
        let changed = written.is_some();
        written
            .into_iter()
            .for_each(|claim| self.informers().of::<PersistentVolumeClaim>().observe(&key.tenant, claim));
        Ok(changed)
    }

    async fn say(&self, key: &Key, claim: &PersistentVolumeClaim, wait: Wait) {
        let subject = Subject::of(&key.tenant, claim);
        self.context.events.say(&subject, wait.severity, wait.reason, wait.message).await;
    }
}
