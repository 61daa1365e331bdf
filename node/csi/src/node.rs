//! CSI's Node service: a volume is published for a pod, and given back.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use hypernetes_api::{TenantId, types::network::PodReference};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use crate::{
    attachments::Attachments,
    context,
    descriptor::{Descriptor, EXT4, Mode},
    error::Failure,
    target::{Pods, Record, Target},
    v1::{
        self,
        volume_capability::{AccessType, access_mode},
    },
};

pub(crate) struct Node {
    pub attachments: Attachments,
    pub pods: Pods,
    /// Targets that a call is working on.
    pub under_way: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A target is one call's until this is dropped, however the call ends.
struct Turn {
    under_way: Arc<Mutex<HashSet<PathBuf>>>,
    path: PathBuf,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.path);
    }
}

/// What a publishing is about, checked.
struct Wanted {
    record: Record,
    target: Target,
    mode: Mode,
    read_only: bool,
}

impl Node {
    fn turn(&self, target: &Target) -> Result<Turn, Failure> {
        let path = target.path().to_owned();
        if !self.under_way.lock().insert(path.clone()) {
            return Err(Failure::UnderWay);
        }
        Ok(Turn { under_way: self.under_way.clone(), path })
    }

    async fn publish(&self, request: v1::NodePublishVolumeRequest) -> Result<(), Failure> {
        let Wanted { record, target, mode, read_only } = Wanted::of(request, &self.pods)?;
        let _turn = self.turn(&target)?;
        let (place, begun) = (target.clone(), record.clone());
        blocking(move || match place.record()? {
            Some(held) if held != begun => Err(Failure::Occupied { held: held.volume }),
            _ => place.begin(&begun),
        })
        .await?;
        let id = self.attachments.acquire(&record, read_only).await?;
        let descriptor = Descriptor::file(&record.tenant, id, mode, read_only);
        blocking(move || target.publish(&descriptor)).await?;
        tracing::info!(tenant = %record.tenant, volume = record.volume, pod = record.pod.uid, "published");
        Ok(())
    }

    async fn unpublish(&self, request: v1::NodeUnpublishVolumeRequest) -> Result<(), Failure> {
        let volume = volume_id(request.volume_id)?;
        let target = self.pods.target(&request.target_path)?;
        let _turn = self.turn(&target)?;
        let place = target.clone();
        let held = blocking(move || {
            let held = place.record()?;
            if let Some(held) = &held
                && held.volume != volume
            {
                return Err(Failure::Occupied { held: held.volume.clone() });
            }
            place.withdraw()?;
            Ok(held)
        })
        .await?;
        if let Some(held) = held {
            self.attachments.release(&held).await?;
            tracing::info!(tenant = %held.tenant, volume = held.volume, pod = held.pod.uid, "given back");
        }
        blocking(move || target.end()).await
    }
}

impl Wanted {
    fn of(request: v1::NodePublishVolumeRequest, pods: &Pods) -> Result<Self, Failure> {
        let volume = volume_id(request.volume_id)?;
        let target = pods.target(&request.target_path)?;
        let about = |key: &str| of_context(&request.volume_context, key);
        let tenant: TenantId =
            about(context::TENANT)?.parse().map_err(|e| Failure::Invalid(format!("{}: {e}", context::TENANT)))?;
        let pod = PodReference {
            namespace: about(context::POD_NAMESPACE)?,
            name: about(context::POD_NAME)?,
            uid: about(context::POD_UID)?,
        };
        let capability =
            request.volume_capability.ok_or_else(|| Failure::Invalid("volume_capability is missing".into()))?;
        let mode = mode_of(capability.access_type)?;
        let reader = |mode: i32| {
            [access_mode::Mode::SingleNodeReaderOnly as i32, access_mode::Mode::MultiNodeReaderOnly as i32]
                .contains(&mode)
        };
        let read_only = request.readonly || capability.access_mode.is_some_and(|access| reader(access.mode));
        Ok(Self { record: Record { tenant, volume, pod }, target, mode, read_only })
    }
}

fn of_context(context: &HashMap<String, String>, key: &str) -> Result<String, Failure> {
    let value = context.get(key).filter(|value| !value.is_empty());
    value.cloned().ok_or_else(|| Failure::Invalid(format!("volume_context has no {key}")))
}

/// The name of an object: it becomes part of a URL.
fn volume_id(id: String) -> Result<String, Failure> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let (bytes, ends) = (label.as_bytes(), [label.as_bytes().first(), label.as_bytes().last()]);
        bytes.iter().all(|b| plain(*b) || *b == b'-') && ends.into_iter().all(|end| end.is_some_and(|b| plain(*b)))
    };
    if id.len() <= 253 && id.split('.').all(label) {
        return Ok(id);
    }
    let shown: String = id.chars().take(64).collect();
    Err(Failure::Invalid(format!("volume_id {shown:?} is not the name of a Volume")))
}

fn mode_of(access: Option<AccessType>) -> Result<Mode, Failure> {
    match access {
        Some(AccessType::Block(_)) => Ok(Mode::Block),
        Some(AccessType::Mount(mount)) => {
            if !matches!(mount.fs_type.as_str(), "" | EXT4) {
                let message = format!("the file system {:?} is not supported, only {EXT4}", mount.fs_type);
                return Err(Failure::Invalid(message));
            }
            if !mount.mount_flags.is_empty() {
                return Err(Failure::Invalid(format!("mount options are not supported: {:?}", mount.mount_flags)));
            }
            Ok(Mode::Filesystem)
        }
        None => Err(Failure::Invalid("volume_capability has no access type".into())),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::Task)?
}

#[tonic::async_trait]
impl v1::node_server::Node for Node {
    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Result<Response<v1::NodePublishVolumeResponse>, Status> {
        self.publish(request.into_inner()).await?;
        Ok(Response::new(v1::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<v1::NodeUnpublishVolumeResponse>, Status> {
        self.unpublish(request.into_inner()).await?;
        Ok(Response::new(v1::NodeUnpublishVolumeResponse {}))
    }

    /// None beyond what every driver has: nothing is staged on the node.
    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<v1::NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(v1::NodeGetCapabilitiesResponse::default()))
    }

    async fn node_get_info(
        &self,
        _: Request<v1::NodeGetInfoRequest>,
    ) -> Result<Response<v1::NodeGetInfoResponse>, Status> {
        Ok(Response::new(v1::NodeGetInfoResponse {
            node_id: self.attachments.node.clone(),
            // No limit of the node's: each VM has its own disks.
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_volumes_go_into_urls() {
        for good in ["data", "pvc-0a", "a.b", "0"] {
            assert!(volume_id(good.into()).is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "..", "../pods", "a/b", "A", "a?x=1", "-a", "a-", "a..b", "a%2fb", &long] {
            assert!(matches!(volume_id(bad.into()), Err(Failure::Invalid(_))), "{bad}");
        }
    }
}
