//! Volumes as the API shows them.

use hypernetes_api::{
    TenantId,
    types::volume::{Attachment, Volume},
};
use hypernetes_client::Api;
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use super::{Error, types};
use crate::{Volumes, controller::phase};

pub(super) const GIB: u64 = 1 << 30;
/// There is one zone, as in an OpenStack that was told nothing about zones.
pub(super) const ZONE: &str = "nova";

/// Rounded up: what the tenant sees is never less than what it has.
pub(super) fn gibibytes(bytes: u64) -> u64 {
    bytes.div_ceil(GIB)
}

/// The client's own name for it, which need not be the object's.
pub(super) fn openstack_name(volume: &Volume) -> String {
    if volume.spec.display_name.is_empty() { volume.name_any() } else { volume.spec.display_name.clone() }
}

/// In Cinder's words.
pub(super) fn status(volume: &Volume) -> &'static str {
    if volume.metadata.deletion_timestamp.is_some() {
        return "deleting";
    }
    match volume.status.as_ref().map_or("", |status| status.phase.as_str()) {
        phase::AVAILABLE => "available",
        phase::IN_USE => "in-use",
        phase::DELETING => "deleting",
        phase::ERROR => "error",
        "" | phase::CREATING => "creating",
        _ => "error",
    }
}

/// A tenant's volumes, with what the API shows about them.
pub(super) struct View<'a> {
    volumes: &'a Volumes,
    tenant: &'a TenantId,
    attachments: Vec<Attachment>,
    default_type: Option<String>,
}

impl<'a> View<'a> {
    pub async fn read(volumes: &'a Volumes, tenant: &'a TenantId) -> Result<Self, Error> {
        let api: Api<Attachment> = Api::all(volumes.clients.tenant(tenant));
        let attachments = api.list(&ListParams::default()).await?.items;
        let classes = types::classes(volumes, tenant).await?;
        Ok(Self { volumes, tenant, attachments, default_type: types::default(&classes).map(ResourceExt::name_any) })
    }

    /// As lists have it.
    pub fn brief(&self, volume: &Volume) -> Value {
        let id = volume.uid().unwrap_or_default();
        let (base, tenant) = (&self.volumes.config.public_url, self.tenant);
        json!({
            "id": id, "name": openstack_name(volume),
            "links": [
                {"rel": "self", "href": format!("{base}/volume/v3/{tenant}/volumes/{id}")},
                {"rel": "bookmark", "href": format!("{base}/volume/{tenant}/volumes/{id}")},
            ],
        })
    }

    pub fn detail(&self, volume: &Volume) -> Value {
        let id = volume.uid().unwrap_or_default();
        let spec = &volume.spec;
        let own = self.attachments.iter().filter(|attachment| attachment.name_any() == volume.name_any());
        let attachments: Vec<Value> = own
            .map(|attachment| {
                json!({
                    "id": id, "volume_id": id, "attachment_id": attachment.uid(), "device": null,
                    "server_id": attachment.spec.pod.uid, "host_name": attachment.spec.node,
                    "attached_at": time(attachment),
                })
            })
            .collect();
        let kind = if spec.volume_type.is_empty() { self.default_type.clone() } else { Some(spec.volume_type.clone()) };
        let mut value = self.brief(volume);
        let details = json!({
            "description": spec.description, "size": gibibytes(spec.size_bytes), "status": status(volume),
            "created_at": time(volume), "updated_at": null, "volume_type": kind, "metadata": spec.metadata,
            "attachments": attachments, "availability_zone": ZONE, "bootable": "false", "encrypted": false,
            "multiattach": false, "snapshot_id": null, "source_volid": null, "consistencygroup_id": null,
            "replication_status": null, "user_id": null, "os-vol-tenant-attr:tenant_id": self.tenant,
        });
        if let (Some(value), Value::Object(details)) = (value.as_object_mut(), details) {
            value.extend(details);
        }
        value
    }
}

/// Cinder's times have no zone and mean UTC.
fn time(object: &impl ResourceExt) -> Option<String> {
    let created = object.creation_timestamp()?;
    Some(created.0.strftime("%Y-%m-%dT%H:%M:%S.000000").to_string())
}
