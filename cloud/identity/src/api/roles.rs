//! `/v3/roles` and what they imply. `admin`, `member` and `reader` cannot be changed: the API server's rights hang on
//! their names.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use hypernetes_api::types::identity::{Domain, Role, RoleSpec};
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
use crate::{
    Error, Identity,
    catalog::link,
    ids::new_id,
    roles::{ROLES, role_id, with_implied},
};

const MAX_NAME_CHARS: usize = 255;

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/roles", get(list).post(create))
        .route("/roles/{id}", get(show).patch(update).delete(delete))
        .route("/roles/{id}/implies", get(list_implied))
        .route("/roles/{id}/implies/{implied}", get(implies).put(not_changeable).delete(not_changeable))
        .route("/role_inferences", get(list_inferences))
}

fn is_immutable(id: &str) -> bool {
    ROLES.iter().any(|name| role_id(name) == id)
}

pub(super) fn to_json(identity: &Identity, role: &Role) -> Value {
    let (id, spec) = (role.name_any(), &role.spec);
    let options = if is_immutable(&id) { json!({"immutable": true}) } else { json!({}) };
    json!({
        "links": {"self": link(&identity.config, &format!("roles/{id}"))},
        "id": id, "name": spec.display_name, "domain_id": spec.domain, "options": options,
        "description": if spec.description.is_empty() { Value::Null } else { json!(spec.description) },
    })
}

#[derive(Deserialize)]
struct Envelope {
    role: Input,
}

#[derive(Deserialize)]
struct Input {
    name: Option<String>,
    domain_id: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
}

impl Input {
    fn apply(&self, spec: &mut RoleSpec) {
        if let Some(name) = &self.name {
            spec.display_name.clone_from(name);
        }
        if let Some(description) = &self.description {
            spec.description = description.clone().unwrap_or_default();
        }
    }
}

async fn list(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_roles")?;
    // Without the filter, only the roles of no domain, as Keystone has it.
    let passing = identity.directory.roles.all().into_iter().filter(|role| {
        filters.passes("name", &role.spec.display_name) && filters.get("domain_id") == role.spec.domain.as_deref()
    });
    Ok(many(&identity, "roles", "roles", passing.map(|r| to_json(&identity, &r)).collect()))
}

async fn create(State(identity): Shared, caller: Caller, Body(body): Body<Envelope>) -> Result<Response, Error> {
    caller.admin("identity:create_role")?;
    let (directory, input) = (&identity.directory, body.role);
    let name = input.name.clone().ok_or_else(|| Error::BadRequest("'name' is a required property".into()))?;
    check_name(&name, MAX_NAME_CHARS)?;
    if let Some(domain) = &input.domain_id {
        directory.get::<Domain>(domain)?;
    }
    let _naming = directory.naming.lock().await;
    directory.check_name_free::<Role>(input.domain_id.as_deref().unwrap_or(""), &name, None)?;
    let mut spec = RoleSpec { domain: input.domain_id.clone(), ..RoleSpec::default() };
    input.apply(&mut spec);
    let created = directory.create(&Role::new(&new_id(), spec)).await?;
    Ok((StatusCode::CREATED, one("role", to_json(&identity, &created))).into_response())
}

async fn show(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader("identity:get_role")?;
    Ok(one("role", to_json(&identity, &*identity.directory.get::<Role>(&id)?)))
}

async fn update(
    State(identity): Shared,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<Envelope>,
) -> Result<Json<Value>, Error> {
    caller.admin("identity:update_role")?;
    let (directory, input) = (&identity.directory, body.role);
    let domain = directory.get::<Role>(&id)?.spec.domain.clone().unwrap_or_default();
    if is_immutable(&id) {
        return Err(Error::forbidden("changing an immutable role"));
    }
    check_unchanged("domain_id", input.domain_id.as_deref(), &domain)?;
    let _naming = directory.naming.lock().await;
    if let Some(name) = &input.name {
        check_name(name, MAX_NAME_CHARS)?;
        directory.check_name_free::<Role>(&domain, name, Some(&id))?;
    }
    let changed = directory.update::<Role>(&id, |role| input.apply(&mut role.spec)).await?;
    Ok(one("role", to_json(&identity, &changed)))
}

async fn delete(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Error> {
    caller.admin("identity:delete_role")?;
    identity.directory.get::<Role>(&id)?;
    if is_immutable(&id) {
        return Err(Error::forbidden("deleting an immutable role"));
    }
    identity.directory.delete_assignments("role", &id).await?;
    identity.directory.delete::<Role>(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn brief(identity: &Identity, role: &Role) -> Value {
    let id = role.name_any();
    let url = link(&identity.config, &format!("roles/{id}"));
    json!({"id": id, "name": role.spec.display_name, "links": {"self": url}})
}

fn inference(identity: &Identity, prior: &Role) -> (Value, Vec<Value>) {
    let id = prior.name_any();
    let implied = with_implied(&id).into_iter().filter(|implied| *implied != id);
    let implied = implied.filter_map(|id| identity.directory.roles.get(&id)).map(|role| brief(identity, &role));
    (brief(identity, prior), implied.collect())
}

async fn list_implied(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_implied_roles")?;
    let (prior, implies) = inference(&identity, &*identity.directory.get::<Role>(&id)?);
    let url = link(&identity.config, &format!("roles/{id}/implies"));
    Ok(Json(json!({"role_inference": {"prior_role": prior, "implies": implies}, "links": {"self": url}})))
}

async fn implies(
    State(identity): Shared,
    caller: Caller,
    Path((id, implied)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    caller.reader("identity:get_implied_role")?;
    let prior = identity.directory.get::<Role>(&id)?;
    let role = identity.directory.get::<Role>(&implied)?;
    if id == implied || !with_implied(&id).contains(&implied) {
        return Err(Error::not_found("implied role", implied));
    }
    Ok(one("role_inference", json!({"prior_role": brief(&identity, &prior), "implies": brief(&identity, &role)})))
}

async fn not_changeable(_: Caller) -> Error {
    Error::NotSupported("Changing which roles imply which")
}

async fn list_inferences(State(identity): Shared, caller: Caller) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_role_inference_rules")?;
    let all = identity.directory.roles.all().into_iter().map(|role| inference(&identity, &role));
    let some = all.filter(|(_, implies)| !implies.is_empty());
    let values = some.map(|(prior, implies)| json!({"prior_role": prior, "implies": implies})).collect();
    Ok(many(&identity, "role_inferences", "role_inferences", values))
}
