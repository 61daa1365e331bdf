//! The objects of one's own volumes: found by id, made under a client's name, changed beside others.

use hypernetes_api::{
    TenantId,
    types::volume::{Volume, VolumeSpec},
};
use hypernetes_client::Api;
use hypernetes_facade::NotUpdated;
use kube::{ResourceExt, api::ListParams};

use super::{Caller, Error};
use crate::Volumes;

pub(super) fn api(volumes: &Volumes, tenant: &TenantId) -> Api<Volume> {
    Api::all(volumes.clients.tenant(tenant))
}

/// A volume of the caller's own tenant by its id.
pub(super) async fn find(volumes: &Volumes, caller: &Caller, id: &str) -> Result<Volume, Error> {
    let all = api(volumes, caller.tenant()).list(&ListParams::default()).await?;
    all.items
        .into_iter()
        .find(|volume| volume.uid().as_deref() == Some(id))
        .ok_or_else(|| Error::not_found("Volume", id))
}

/// Under the client's own name where it can be an object's name and is free, else under a made one.
pub(super) async fn insert(api: &Api<Volume>, name: &str, spec: VolumeSpec) -> Result<Volume, Error> {
    let generated = format!("volume-{}", uuid::Uuid::new_v4());
    let named = |name: &str, display: &str| {
        Ok(Volume::new(name, VolumeSpec { display_name: display.to_owned(), ..spec.clone() }))
    };
    hypernetes_facade::create(api, name, is_object_name(name), &generated, named).await
}

/// RFC 1123 subdomain, as Kubernetes wants names.
fn is_object_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.iter().all(|b| plain(*b) || *b == b'-')
            && bytes.first().is_some_and(|b| plain(*b))
            && bytes.last().is_some_and(|b| plain(*b))
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Changes the specification of a volume; starts over when someone else has changed it meanwhile.
pub(super) async fn change(
    volumes: &Volumes,
    caller: &Caller,
    id: &str,
    change: impl Fn(&mut VolumeSpec) -> Result<(), Error>,
) -> Result<Volume, Error> {
    let volume = find(volumes, caller, id).await?;
    let uid = volume.uid();
    let same = |other: &Volume| other.uid() == uid;
    let changed =
        hypernetes_facade::update(&api(volumes, caller.tenant()), volume, same, |volume| change(&mut volume.spec))
            .await;
    changed.map_err(|error| match error {
        NotUpdated::Gone => Error::not_found("Volume", id),
        NotUpdated::Contended => Error::Conflict("The volume is being changed all the time.".into()),
        NotUpdated::Refused(error) => error,
        NotUpdated::Api(error) => error.into(),
    })
}
