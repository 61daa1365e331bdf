//! The metadata of volumes, as a whole and by key.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use http::StatusCode;
use hypernetes_facade::Body;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Caller, Error, Server, Shared,
    input::check_metadata,
    object::{change, find},
};

pub(super) fn routes() -> Router<Server> {
    Router::new()
        .route("/volumes/{id}/metadata", get(show_metadata).post(add_metadata).put(replace_metadata))
        .route("/volumes/{id}/metadata/{key}", get(show_item).put(put_item).delete(delete_item))
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
