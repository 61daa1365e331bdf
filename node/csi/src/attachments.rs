//! A volume's Attachment object: who has it may open the volume.

use std::time::Duration;

use futures::StreamExt;
use hypernetes_api::types::volume::{Attachment, AttachmentSpec, Volume};
use hypernetes_client::{Api, Clients, Seen, watch_with};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::watcher::{self, Event},
};
use uuid::Uuid;

use crate::{
    descriptor::FILE_DRIVER,
    error::{During, Failure},
    target::Record,
};

const ATTACHED: &str = "Attached";
/// Phases of a volume that can be attached.
const USABLE: [&str; 2] = ["Available", "InUse"];
/// How often one starts over when an attachment goes or comes in between.
const ATTEMPTS: usize = 5;

pub(crate) struct Attachments {
    pub clients: Clients,
    pub node: String,
    pub patience: Duration,
}

impl Attachments {
    /// Takes the volume for the pod and waits until the volume service has agreed; the volume's uid. Taking what the
    /// pod has already changes nothing.
    ///
    /// # Errors
    /// [`Failure::InUse`] when another pod has it, others where waiting or asking again can help.
    pub(crate) async fn acquire(&self, wanted: &Record, read_only: bool) -> Result<Uuid, Failure> {
        let (attachments, volumes) = self.apis(wanted);
        for _ in 0..ATTEMPTS {
            match attachments.get_opt(&wanted.volume).await.during("getting an attachment")? {
                Some(attachment) if !self.is_ours(&attachment, wanted) => return Err(in_use(attachment)),
                Some(attachment) if is_attached(&attachment) => {}
                found => {
                    if let Err(failure) = usable(&volumes, wanted).await {
                        if found.is_some() {
                            // What will never be attached keeps nobody from deleting the volume.
                            self.release(wanted).await?;
                        }
                        return Err(failure);
                    }
                    if found.is_none() && !self.create(&attachments, wanted, read_only).await? {
                        continue;
                    }
                    self.wait(wanted).await?;
                }
            }
            // Only now: while it is attached the volume is not removed, and so none of the same name comes after it.
            return identify(&volumes, wanted).await;
        }
        Err(Failure::Lost(wanted.volume.clone()))
    }

    /// Gives the volume back, if the pod has it. The attachment of another pod stays.
    pub(crate) async fn release(&self, held: &Record) -> Result<(), Failure> {
        let (attachments, _) = self.apis(held);
        let attachment = match attachments.get_opt(&held.volume).await {
            // Another node's, which is not for this one to see.
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(()),
            other => other.during("getting an attachment")?,
        };
        let Some(attachment) = attachment else { return Ok(()) };
        if !self.is_ours(&attachment, held) {
            return Ok(());
        }
        let preconditions = Preconditions { uid: attachment.uid(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match attachments.delete(&held.volume, &parameters).await {
            // It has gone meanwhile, or another has taken its place.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.during("deleting an attachment").map(drop),
        }
    }

    fn apis(&self, record: &Record) -> (Api<Attachment>, Api<Volume>) {
        let client = self.clients.tenant(&record.tenant);
        (Api::all(client.clone()), Api::all(client))
    }

    /// The uid alone says which pod it is: names come again.
    fn is_ours(&self, attachment: &Attachment, wanted: &Record) -> bool {
        attachment.spec.node == self.node && attachment.spec.pod.uid == wanted.pod.uid
    }

    /// `false` when someone else was faster.
    async fn create(&self, api: &Api<Attachment>, wanted: &Record, read_only: bool) -> Result<bool, Failure> {
        let spec = AttachmentSpec {
            volume: wanted.volume.clone(),
            node: self.node.clone(),
            pod: wanted.pod.clone(),
            read_only,
        };
        match api.create(&PostParams::default(), &Attachment::new(&wanted.volume, spec)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            other => other.during("creating an attachment").map(|_| true),
        }
    }

    async fn wait(&self, wanted: &Record) -> Result<(), Failure> {
        match tokio::time::timeout(self.patience, self.settled(wanted)).await {
            // The attachment stays: the next call finds it, or the pod's end removes it.
            Err(_) => Err(Failure::Slow { volume: wanted.volume.clone(), seconds: self.patience.as_secs() }),
            Ok(None) => Err(Failure::Lost(wanted.volume.clone())),
            Ok(Some(found)) if !self.is_ours(&found, wanted) => Err(in_use(found)),
            Ok(Some(_)) => Ok(()),
        }
    }

    /// The attachment once it is attached or another's; none when it is gone. A watch that breaks begins anew.
    async fn settled(&self, wanted: &Record) -> Option<Attachment> {
        let which = watcher::Config::default().fields(&format!("metadata.name={}", wanted.volume));
        let mut watch = watch_with::<Attachment>(self.clients.tenant(&wanted.tenant), &(), which).boxed();
        let mut is_there = false;
        while let Some(event) = watch.next().await {
            match event {
                Ok(Event::Init) => is_there = false,
                Ok(Event::InitApply(Seen::Object(found)) | Event::Apply(Seen::Object(found))) => {
                    if !self.is_ours(&found, wanted) || is_attached(&found) {
                        return Some(found);
                    }
                    is_there = true;
                }
                Ok(Event::InitDone) if is_there => {}
                Ok(Event::InitDone | Event::Delete(_)) => return None,
                // What has no attachment's form is none yet.
                Ok(Event::InitApply(Seen::Unreadable(_)) | Event::Apply(Seen::Unreadable(_))) => is_there = true,
                Err(error) => tracing::debug!(volume = wanted.volume, %error, "watching an attachment"),
            }
        }
        None
    }
}

fn is_attached(attachment: &Attachment) -> bool {
    attachment.status.as_ref().is_some_and(|status| status.phase == ATTACHED)
}

fn in_use(attachment: Attachment) -> Failure {
    Failure::InUse { pod: attachment.spec.pod, node: attachment.spec.node }
}

async fn get(api: &Api<Volume>, wanted: &Record) -> Result<Volume, Failure> {
    let found = api.get_opt(&wanted.volume).await.during("getting a volume")?;
    found.ok_or_else(|| Failure::NotFound { tenant: wanted.tenant.clone(), volume: wanted.volume.clone() })
}

/// Whether the volume can be attached at all.
async fn usable(api: &Api<Volume>, wanted: &Record) -> Result<(), Failure> {
    let volume = get(api, wanted).await?;
    let status = volume.status.clone().unwrap_or_default();
    let not_ready = |phase: &str, message: String| Failure::NotReady {
        volume: wanted.volume.clone(),
        phase: phase.to_owned(),
        message,
    };
    if volume.meta().deletion_timestamp.is_some() {
        return Err(not_ready("being deleted", String::new()));
    }
    if !USABLE.contains(&status.phase.as_str()) {
        let phase = if status.phase.is_empty() { "not made yet" } else { &status.phase };
        return Err(not_ready(phase, status.message));
    }
    if status.driver != FILE_DRIVER {
        return Err(Failure::UnknownBackend { volume: wanted.volume.clone(), driver: status.driver });
    }
    Ok(())
}

async fn identify(api: &Api<Volume>, wanted: &Record) -> Result<Uuid, Failure> {
    let uid = get(api, wanted).await?.uid();
    uid.and_then(|uid| uid.parse().ok()).ok_or_else(|| Failure::NotReady {
        volume: wanted.volume.clone(),
        phase: "without a uid".into(),
        message: String::new(),
    })
}
