//! Volumes and their metadata.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use hypernetes_api::{
    TenantId,
    types::volume::{Attachment, Volume, VolumeSpec},
};
use hypernetes_client::Api;
use hypernetes_facade::{Body, NotUpdated, Page, Parameters, number};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Caller, Error, Server, Shared, services::ZONE, types};
use crate::{Volumes, controller::phase};

const GIB: u64 = 1 << 30;
const MAX_TEXT_CHARS: usize = 255;
const MAX_METADATA: usize = 128;
/// Cinder's default for `limit`.
const MAX_PAGE: usize = 1000;

pub(super) fn routes() -> Router<Server> {
    Router::new()
        .route("/volumes", get(list).post(create))
        .route("/volumes/detail", get(list_detail))
        .route("/volumes/{id}", get(show).put(update).delete(delete))
        .route("/volumes/{id}/action", post(action))
        .route("/volumes/{id}/metadata", get(show_metadata).post(add_metadata).put(replace_metadata))
        .route("/volumes/{id}/metadata/{key}", get(show_item).put(put_item).delete(delete_item))
}

/// Rounded up: what the tenant sees is never less than what it has.
pub(super) fn gibibytes(bytes: u64) -> u64 {
    bytes.div_ceil(GIB)
}

fn openstack_name(volume: &Volume) -> String {
    if volume.spec.display_name.is_empty() { volume.name_any() } else { volume.spec.display_name.clone() }
}

fn status(volume: &Volume) -> &'static str {
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
struct Catalog<'a> {
    volumes: &'a Volumes,
    tenant: &'a TenantId,
    attachments: Vec<Attachment>,
    default_type: Option<String>,
}

impl<'a> Catalog<'a> {
    async fn read(volumes: &'a Volumes, tenant: &'a TenantId) -> Result<Self, Error> {
        let api: Api<Attachment> = Api::all(volumes.clients.tenant(tenant));
        let attachments = api.list(&ListParams::default()).await?.items;
        let classes = types::classes(volumes, tenant).await?;
        Ok(Self { volumes, tenant, attachments, default_type: types::default(&classes).map(ResourceExt::name_any) })
    }

    fn brief(&self, volume: &Volume) -> Value {
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

    fn detail(&self, volume: &Volume) -> Value {
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

fn api(volumes: &Volumes, tenant: &TenantId) -> Api<Volume> {
    Api::all(volumes.clients.tenant(tenant))
}

/// A volume of the caller's own tenant by its id.
async fn find(volumes: &Volumes, caller: &Caller, id: &str) -> Result<Volume, Error> {
    let all = api(volumes, caller.tenant()).list(&ListParams::default()).await?;
    all.items
        .into_iter()
        .find(|volume| volume.uid().as_deref() == Some(id))
        .ok_or_else(|| Error::not_found("Volume", id))
}

#[derive(Deserialize)]
struct Envelope {
    volume: Input,
}

#[derive(Deserialize)]
struct Input {
    name: Option<String>,
    description: Option<String>,
    /// In GiB.
    size: Option<Value>,
    volume_type: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    multiattach: Option<bool>,
    snapshot_id: Option<String>,
    source_volid: Option<String>,
    #[serde(rename = "imageRef")]
    image: Option<String>,
    backup_id: Option<String>,
}

impl Input {
    fn check(&self) -> Result<(), Error> {
        for (field, text) in [("name", &self.name), ("description", &self.description)] {
            if text.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT_CHARS) {
                let message = format!("Invalid input for field {field}: longer than {MAX_TEXT_CHARS} characters.");
                return Err(Error::BadRequest(message));
            }
        }
        for (what, source) in [
            ("A volume from a snapshot", &self.snapshot_id),
            ("A volume from another", &self.source_volid),
            ("A volume from an image", &self.image),
            ("A volume from a backup", &self.backup_id),
        ] {
            if source.is_some() {
                return Err(Error::not_supported(what));
            }
        }
        if self.multiattach == Some(true) {
            return Err(Error::not_supported("A volume for several servers"));
        }
        self.metadata.as_ref().map_or(Ok(()), check_metadata)
    }

    fn size_bytes(&self, max: u64) -> Result<u64, Error> {
        // A number, or its text: Cinder takes both.
        let gibibytes = match &self.size {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        let bytes = gibibytes.filter(|size| *size > 0).and_then(|size| size.checked_mul(GIB));
        let bytes = bytes
            .ok_or_else(|| Error::BadRequest("Invalid input for field size: want a whole number of GiB.".into()))?;
        if bytes > max {
            let message = format!("Invalid input for field size: more than {} GiB.", max / GIB);
            return Err(Error::BadRequest(message));
        }
        Ok(bytes)
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    let fits = |text: &str| text.chars().count() <= MAX_TEXT_CHARS;
    if metadata.len() > MAX_METADATA {
        return Err(Error::BadRequest(format!("Invalid volume metadata: more than {MAX_METADATA} entries.")));
    }
    if metadata.iter().any(|(key, value)| key.is_empty() || !fits(key) || !fits(value)) {
        return Err(Error::BadRequest("Invalid volume metadata: a key or value is empty or too long.".into()));
    }
    Ok(())
}

async fn list(State(volumes): Shared, caller: Caller, parameters: Parameters) -> Result<Json<Value>, Error> {
    page(&volumes, &caller, &parameters, |catalog, volume| catalog.brief(volume)).await
}

async fn list_detail(State(volumes): Shared, caller: Caller, parameters: Parameters) -> Result<Json<Value>, Error> {
    page(&volumes, &caller, &parameters, |catalog, volume| catalog.detail(volume)).await
}

async fn page(
    volumes: &Volumes,
    caller: &Caller,
    parameters: &Parameters,
    render: impl Fn(&Catalog<'_>, &Volume) -> Value,
) -> Result<Json<Value>, Error> {
    caller.reader("volume:get_all")?;
    let page = Page::wanted(parameters)?;
    let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let offset = number(parameters, "offset")?.unwrap_or(0);
    let mut all = api(volumes, caller.tenant()).list(&ListParams::default()).await?.items;
    // Newest first, as Cinder has it.
    all.sort_by_key(|volume| (std::cmp::Reverse(volume.creation_timestamp()), volume.uid()));
    let start = page.start(&all, |volume, id| volume.uid().as_deref() == Some(id))?;
    let catalog = Catalog::read(volumes, caller.tenant()).await?;
    let passing = all[start..].iter().filter(|volume| {
        parameters.passes("name", &openstack_name(volume)) && parameters.passes("status", status(volume))
    });
    let shown = passing.skip(offset).take(limit).map(|volume| render(&catalog, volume));
    Ok(Json(json!({"volumes": shown.collect::<Vec<_>>()})))
}

async fn create(State(volumes): Shared, caller: Caller, Body(body): Body<Envelope>) -> Result<Response, Error> {
    caller.member("volume:create")?;
    let input = body.volume;
    input.check()?;
    let size_bytes = input.size_bytes(volumes.config.max_bytes)?;
    let mut spec = VolumeSpec {
        description: input.description.unwrap_or_default(),
        size_bytes,
        metadata: input.metadata.unwrap_or_default(),
        ..VolumeSpec::default()
    };
    if let Some(wanted) = input.volume_type.filter(|wanted| !wanted.is_empty()) {
        let classes = types::classes(&volumes, caller.tenant()).await?;
        let class = types::find(&classes, &wanted).ok_or_else(|| Error::not_found("Volume type", &wanted))?;
        spec.volume_type = class.name_any();
    }
    let created = insert(&api(&volumes, caller.tenant()), input.name.as_deref().unwrap_or_default(), spec).await?;
    let catalog = Catalog::read(&volumes, caller.tenant()).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"volume": catalog.detail(&created)}))).into_response())
}

/// Cinder's names may be anything, and several volumes may have the same.
async fn insert(api: &Api<Volume>, name: &str, spec: VolumeSpec) -> Result<Volume, Error> {
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

async fn show(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    caller.reader("volume:get")?;
    let volume = find(&volumes, &caller, &id).await?;
    let catalog = Catalog::read(&volumes, caller.tenant()).await?;
    Ok(Json(json!({"volume": catalog.detail(&volume)})))
}

/// Changes the specification of a volume; starts over when someone else has changed it meanwhile.
async fn change(
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

async fn update(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body<Envelope>,
) -> Result<Json<Value>, Error> {
    caller.member("volume:update")?;
    let input = body.volume;
    input.check()?;
    let changed = change(&volumes, &caller, &id, |spec| {
        if let Some(name) = &input.name {
            spec.display_name.clone_from(name);
        }
        if let Some(description) = &input.description {
            spec.description.clone_from(description);
        }
        if let Some(metadata) = &input.metadata {
            spec.metadata.clone_from(metadata);
        }
        Ok(())
    })
    .await?;
    let catalog = Catalog::read(&volumes, caller.tenant()).await?;
    Ok(Json(json!({"volume": catalog.detail(&changed)})))
}

async fn delete(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    caller.member("volume:delete")?;
    let volume = find(&volumes, &caller, &id).await?;
    let attachments: Api<Attachment> = Api::all(volumes.clients.tenant(caller.tenant()));
    if attachments.get_opt(&volume.name_any()).await?.is_some() {
        return Err(Error::BadRequest(
            "Invalid volume: Volume status must be available or error, and not in-use.".into(),
        ));
    }
    match api(&volumes, caller.tenant()).delete(&volume.name_any(), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::not_found("Volume", &id)),
        other => other.map(|_| StatusCode::ACCEPTED).map_err(Error::from),
    }
}

async fn action(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body<BTreeMap<String, Value>>,
) -> Result<StatusCode, Error> {
    caller.member("volume:action")?;
    find(&volumes, &caller, &id).await?;
    let action = body.keys().next().map_or("none", String::as_str);
    Err(Error::not_supported(&format!("The action {action:.64}")))
}

#[derive(Deserialize)]
struct Metadata {
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Item {
    meta: BTreeMap<String, String>,
}

async fn show_metadata(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    caller.reader("volume:get_volume_metadata")?;
    Ok(Json(json!({"metadata": find(&volumes, &caller, &id).await?.spec.metadata})))
}

/// Adds to the metadata what is given.
async fn add_metadata(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body<Metadata>,
) -> Result<Json<Value>, Error> {
    caller.member("volume:create_volume_metadata")?;
    let changed = change(&volumes, &caller, &id, |spec| {
        spec.metadata.extend(body.metadata.clone());
        check_metadata(&spec.metadata)
    });
    Ok(Json(json!({"metadata": changed.await?.spec.metadata})))
}

async fn replace_metadata(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
    Body(body): Body<Metadata>,
) -> Result<Json<Value>, Error> {
    caller.member("volume:update_volume_metadata")?;
    check_metadata(&body.metadata)?;
    let changed = change(&volumes, &caller, &id, |spec| {
        spec.metadata.clone_from(&body.metadata);
        Ok(())
    });
    Ok(Json(json!({"metadata": changed.await?.spec.metadata})))
}

async fn show_item(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id, key)): Path<(String, String, String)>,
) -> Result<Json<Value>, Error> {
    caller.reader("volume:get_volume_metadata")?;
    let metadata = find(&volumes, &caller, &id).await?.spec.metadata;
    let value = metadata.get(&key).ok_or_else(|| Error::not_found("Metadata", &key))?;
    Ok(Json(json!({"meta": {key: value}})))
}

async fn put_item(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id, key)): Path<(String, String, String)>,
    Body(body): Body<Item>,
) -> Result<Json<Value>, Error> {
    caller.member("volume:update_volume_metadata")?;
    let Some(value) = body.meta.get(&key).filter(|_| body.meta.len() == 1) else {
        return Err(Error::BadRequest("Request body and URI mismatch".into()));
    };
    change(&volumes, &caller, &id, |spec| {
        spec.metadata.insert(key.clone(), value.clone());
        check_metadata(&spec.metadata)
    })
    .await?;
    Ok(Json(json!({"meta": {key: value}})))
}

async fn delete_item(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id, key)): Path<(String, String, String)>,
) -> Result<StatusCode, Error> {
    caller.member("volume:delete_volume_metadata")?;
    change(&volumes, &caller, &id, |spec| {
        spec.metadata.remove(&key).map(|_| ()).ok_or_else(|| Error::not_found("Metadata", &key))
    })
    .await?;
    Ok(StatusCode::OK)
}
