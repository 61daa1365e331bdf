//! Brings volumes about: what the objects say becomes bytes in the backend, and status.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hypernetes_api::{
    AllTenants,
    types::volume::{Attachment, AttachmentStatus, Volume, VolumeStatus},
};
use hypernetes_client::{Api, Clients};
use hypernetes_runtime::{Error, Informers, Key, Queue, Reconciler, Recorder, Subject, work};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, BackendError, VolumeId};

/// Keeps a Volume until its bytes are gone.
pub(crate) const FINALIZER: &str = "volume.hypernetes.io/backend";
/// Volumes that are worked on at the same time; half of that of one tenant.
const WORKERS: usize = 8;
/// Whose events they are.
pub(crate) const NAME: &str = "volume-controller";

pub(crate) mod phase {
    pub const CREATING: &str = "Creating";
    pub const AVAILABLE: &str = "Available";
    pub const IN_USE: &str = "InUse";
    pub const DELETING: &str = "Deleting";
    pub const ERROR: &str = "Error";
    pub const ATTACHED: &str = "Attached";
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("asking the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("backend: {0}")]
    Backend(#[from] BackendError),
}

pub(crate) struct Controller {
    pub clients: Clients,
    pub backend: Arc<dyn Backend>,
    pub max_bytes: u64,
    pub events: Recorder,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Api(source) => Self::Api { doing: "asking the API server", source: Box::new(source) },
            Failure::Backend(source) => Self::Outside(Box::new(source)),
        }
    }
}

/// Volumes; and attachments, each of which has its volume's name.
#[async_trait]
impl Reconciler for Controller {
    const NAME: &'static str = NAME;
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        self.bring_about(key).await?;
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        let subject = Subject {
            tenant: key.tenant.clone(),
            api_version: "volume.hypernetes.io/v1alpha1".into(),
            kind: "Volume".into(),
            namespace: String::new(),
            name: key.name.clone(),
            uid: String::new(),
        };
        Some((&self.events, subject))
    }
}

impl Controller {
    /// Works until the future is dropped.
    pub async fn run(self: Arc<Self>, all: AllTenants) {
        let (queue, stop) = (Queue::default(), CancellationToken::new());
        let informers = Informers::new(self.clients.clone(), all, stop.clone());
        let _stop = stop.drop_guard();
        informers.of::<Volume>().feed(&queue, |key, _| vec![key.clone()]);
        informers.of::<Attachment>().feed(&queue, |key, _| vec![key.clone()]);
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(Arc::clone(&self), queue.clone()));
        }
        while workers.join_next().await.is_some() {}
    }

    /// Every write names the version it has seen, so that of several servers one alone acts on a volume's state.
    async fn bring_about(&self, key: &Key) -> Result<(), Failure> {
        let client = self.clients.tenant(&key.tenant);
        let volumes: Api<Volume> = Api::all(client.clone());
        let attachments: Api<Attachment> = Api::all(client);
        let Some(mut volume) = volumes.get_opt(&key.name).await? else { return Ok(()) };
        let attachment = attachments.get_opt(&key.name).await?;
        let Some(id) = identify(key, &volume) else { return Ok(()) };
        if volume.metadata.deletion_timestamp.is_some() {
            return self.remove(&volumes, volume, &id, attachment.is_some()).await;
        }
        if !volume.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            let mut finalizers = volume.finalizers().to_vec();
            finalizers.push(FINALIZER.into());
            volume = set_finalizers(&volumes, &volume, finalizers).await?;
        }
        let status = volume.status.clone().unwrap_or_default();
        if ![phase::AVAILABLE, phase::IN_USE].contains(&status.phase.as_str()) {
            match self.create(&volume, &id).await {
                Ok(()) => {}
                Err(error) => {
                    let status = VolumeStatus { phase: phase::ERROR.into(), message: error.message(), ..status };
                    set_status(&volumes, volume, status).await?;
                    return if error.is_final() { Ok(()) } else { Err(error.into()) };
                }
            }
        }
        let size_bytes = if status.size_bytes == 0 { volume.spec.size_bytes } else { status.size_bytes };
        let phase = if attachment.is_some() { phase::IN_USE } else { phase::AVAILABLE };
        let wanted = VolumeStatus {
            phase: phase.into(),
            message: String::new(),
            driver: self.backend.driver().into(),
            size_bytes,
        };
        set_status(&volumes, volume, wanted).await?;
        // After the volume: whoever sees the attachment Attached finds the volume InUse.
        if let Some(mut attachment) = attachment
            && attachment.metadata.deletion_timestamp.is_none()
            && attachment.status.as_ref().is_none_or(|status| status.phase != phase::ATTACHED)
        {
            attachment.status = Some(AttachmentStatus { phase: phase::ATTACHED.into() });
            attachments.replace_status(&key.name, &PostParams::default(), &attachment).await?;
        }
        Ok(())
    }

    async fn create(&self, volume: &Volume, id: &VolumeId) -> Result<(), BackendError> {
        let size = volume.spec.size_bytes;
        if size == 0 || size > self.max_bytes {
            return Err(BackendError::TooLarge(size));
        }
        self.backend.create(id, size).await
    }

    /// Once nobody uses it: the data first, then the object.
    async fn remove(&self, api: &Api<Volume>, volume: Volume, id: &VolumeId, in_use: bool) -> Result<(), Failure> {
        if in_use || !volume.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        let status = volume.status.clone().unwrap_or_default();
        // From here on it is attached to nothing any more, by no server.
        let volume = set_status(api, volume, VolumeStatus { phase: phase::DELETING.into(), ..status }).await?;
        self.backend.delete(id).await?;
        let rest = volume.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
        set_finalizers(api, &volume, rest).await?;
        Ok(())
    }
}

/// `None` for what cannot be a stored object.
fn identify(key: &Key, volume: &Volume) -> Option<VolumeId> {
    Some(VolumeId { tenant: key.tenant.clone(), uid: volume.uid()?.parse().ok()? })
}

async fn set_finalizers(api: &Api<Volume>, volume: &Volume, finalizers: Vec<String>) -> Result<Volume, kube::Error> {
    let patch = json!({"metadata": {"resourceVersion": volume.resource_version(), "finalizers": finalizers}});
    api.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await
}

/// Writes the status if it is another.
async fn set_status(api: &Api<Volume>, mut volume: Volume, status: VolumeStatus) -> Result<Volume, kube::Error> {
    if volume.status.as_ref() == Some(&status) {
        return Ok(volume);
    }
    volume.status = Some(status);
    api.replace_status(&volume.name_any(), &PostParams::default(), &volume).await
}
