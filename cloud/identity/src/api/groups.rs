//! `/v3/groups` of users.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use hypernetes_api::types::identity::{Domain, Group, GroupSpec};
use hypernetes_facade::{Body, Parameters};
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Shared,
    caller::Caller,
    fields::{check_name, check_unchanged, nullable},
    many, one,
};
use crate::{Error, Identity, catalog::link, ids::new_id};

const MAX_NAME_CHARS: usize = 64;

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new().route("/groups", get(list).post(create)).route("/groups/{id}", get(show).patch(update).delete(delete))
}

pub(super) fn to_json(identity: &Identity, group: &Group) -> Value {
    let (id, spec) = (group.name_any(), &group.spec);
    json!({
        "links": {"self": link(&identity.config, &format!("groups/{id}"))},
        "id": id, "name": spec.display_name, "domain_id": spec.domain, "description": spec.description,
    })
}

#[derive(Deserialize)]
struct Envelope {
    group: Input,
}

#[derive(Deserialize)]
struct Input {
    name: Option<String>,
    domain_id: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
}

impl Input {
    fn apply(&self, spec: &mut GroupSpec) {
        if let Some(name) = &self.name {
            spec.display_name.clone_from(name);
        }
        if let Some(description) = &self.description {
            spec.description = description.clone().unwrap_or_default();
        }
    }
}

async fn list(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_groups")?;
    let passing = identity.directory.groups.all().into_iter().filter(|group| {
        filters.passes("name", &group.spec.display_name) && filters.passes("domain_id", &group.spec.domain)
    });
    Ok(many(&identity, "groups", "groups", passing.map(|g| to_json(&identity, &g)).collect()))
}

async fn create(State(identity): Shared, caller: Caller, Body(body): Body<Envelope>) -> Result<Response, Error> {
    caller.admin("identity:create_group")?;
    let (directory, input) = (&identity.directory, body.group);
    let name = input.name.clone().ok_or_else(|| Error::BadRequest("'name' is a required property".into()))?;
    check_name(&name, MAX_NAME_CHARS)?;
    let domain = input.domain_id.clone().unwrap_or_else(|| caller.0.user.spec.domain.clone());
    directory.get::<Domain>(&domain).map_err(|_| Error::BadRequest(format!("There is no domain {domain:.64}.")))?;
    let _naming = directory.naming.lock().await;
    directory.check_name_free::<Group>(&domain, &name, None)?;
    let mut spec = GroupSpec { domain, ..GroupSpec::default() };
    input.apply(&mut spec);
    let created = directory.create(&Group::new(&new_id(), spec)).await?;
    Ok((StatusCode::CREATED, one("group", to_json(&identity, &created))).into_response())
}

async fn show(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader("identity:get_group")?;
    Ok(one("group", to_json(&identity, &*identity.directory.get::<Group>(&id)?)))
}

async fn update(
    State(identity): Shared,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<Envelope>,
) -> Result<Json<Value>, Error> {
    caller.admin("identity:update_group")?;
    let (directory, input) = (&identity.directory, body.group);
    let domain = directory.get::<Group>(&id)?.spec.domain.clone();
    check_unchanged("domain_id", input.domain_id.as_deref(), &domain)?;
    let _naming = directory.naming.lock().await;
    if let Some(name) = &input.name {
        check_name(name, MAX_NAME_CHARS)?;
        directory.check_name_free::<Group>(&domain, name, Some(&id))?;
    }
    let changed = directory.update::<Group>(&id, |group| input.apply(&mut group.spec)).await?;
    Ok(one("group", to_json(&identity, &changed)))
}

async fn delete(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Error> {
    caller.admin("identity:delete_group")?;
    identity.directory.get::<Group>(&id)?;
    remove(&identity, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(identity: &Identity, id: &str) -> Result<(), Error> {
    identity.directory.delete_assignments("group", id).await?;
    identity.directory.delete::<Group>(id).await
}
