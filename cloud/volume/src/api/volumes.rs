//! Volumes.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use hypernetes_api::types::volume::{Attachment, Volume, VolumeSpec};
use hypernetes_client::Api;
use hypernetes_facade::{Body, Page, Parameters, number};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use super::{
    Caller, Error, Server, Shared,
    input::Envelope,
    object::{api, change, find, insert},
    types,
    view::{View, openstack_name, status},
};
use crate::Volumes;

/// Cinder's default for `limit`.
const MAX_PAGE: usize = 1000;

pub(super) fn routes() -> Router<Server> {
    Router::new()
        .route("/volumes", get(list).post(create))
        .route("/volumes/detail", get(list_detail))
        .route("/volumes/{id}", get(show).put(update).delete(delete))
        .route("/volumes/{id}/action", post(action))
}

async fn list(State(volumes): Shared, caller: Caller, parameters: Parameters) -> Result<Json<Value>, Error> {
    page(&volumes, &caller, &parameters, |view, volume| view.brief(volume)).await
}

async fn list_detail(State(volumes): Shared, caller: Caller, parameters: Parameters) -> Result<Json<Value>, Error> {
    page(&volumes, &caller, &parameters, |view, volume| view.detail(volume)).await
}

async fn page(
    volumes: &Volumes,
    caller: &Caller,
    parameters: &Parameters,
    render: impl Fn(&View<'_>, &Volume) -> Value,
) -> Result<Json<Value>, Error> {
    caller.reader("volume:get_all")?;
    let page = Page::wanted(parameters)?;
    let limit = page.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let offset = number(parameters, "offset")?.unwrap_or(0);
    let mut all = api(volumes, caller.tenant()).list(&ListParams::default()).await?.items;
    // Newest first, as Cinder has it.
    all.sort_by_key(|volume| (std::cmp::Reverse(volume.creation_timestamp()), volume.uid()));
    let start = page.start(&all, |volume, id| volume.uid().as_deref() == Some(id))?;
    let view = View::read(volumes, caller.tenant()).await?;
    let passing = all[start..].iter().filter(|volume| {
        parameters.passes("name", &openstack_name(volume)) && parameters.passes("status", status(volume))
    });
    let shown = passing.skip(offset).take(limit).map(|volume| render(&view, volume));
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
    let view = View::read(&volumes, caller.tenant()).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"volume": view.detail(&created)}))).into_response())
}

async fn show(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    caller.reader("volume:get")?;
    let volume = find(&volumes, &caller, &id).await?;
    let view = View::read(&volumes, caller.tenant()).await?;
    Ok(Json(json!({"volume": view.detail(&volume)})))
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
    let view = View::read(&volumes, caller.tenant()).await?;
    Ok(Json(json!({"volume": view.detail(&changed)})))
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
