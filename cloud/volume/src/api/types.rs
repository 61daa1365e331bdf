//! Volume types: the StorageClasses whose provisioner is this service.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use hypernetes_api::{TenantId, names::VOLUME_DRIVER};
use hypernetes_client::Api;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use super::{Caller, Error, Server, Shared};
use crate::Volumes;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn routes() -> Router<Server> {
    Router::new().route("/types", get(list)).route("/types/{id}", get(show))
}

pub(super) async fn classes(volumes: &Volumes, tenant: &TenantId) -> Result<Vec<StorageClass>, Error> {
    let api: Api<StorageClass> = Api::all(volumes.clients.tenant(tenant));
    let mut classes = api.list(&ListParams::default()).await?.items;
    classes.retain(|class| class.provisioner == VOLUME_DRIVER);
    Ok(classes)
}

/// By id or by name.
pub(super) fn find<'a>(classes: &'a [StorageClass], id: &str) -> Option<&'a StorageClass> {
    classes.iter().find(|class| class.uid().as_deref() == Some(id) || class.name_any() == id)
}

pub(super) fn default(classes: &[StorageClass]) -> Option<&StorageClass> {
    classes.iter().find(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true"))
}

fn to_json(class: &StorageClass) -> Value {
    json!({
        "id": class.uid(), "name": class.name_any(), "description": null, "is_public": true,
        "os-volume-type-access:is_public": true, "qos_specs_id": null, "extra_specs": class.parameters.clone().unwrap_or_default(),
    })
}

async fn list(State(volumes): Shared, caller: Caller) -> Result<Json<Value>, Error> {
    caller.reader("volume_extension:type_get_all")?;
    let classes = classes(&volumes, caller.tenant()).await?;
    Ok(Json(json!({"volume_types": classes.iter().map(to_json).collect::<Vec<_>>()})))
}

async fn show(
    State(volumes): Shared,
    caller: Caller,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    caller.reader("volume_extension:type_get")?;
    let classes = classes(&volumes, caller.tenant()).await?;
    let found = if id == "default" { default(&classes) } else { find(&classes, &id) };
    let class = found.ok_or_else(|| Error::not_found("Volume type", &id))?;
    Ok(Json(json!({"volume_type": to_json(class)})))
}
