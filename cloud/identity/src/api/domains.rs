//! `/v3/domains`

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use hypernetes_api::types::identity::{Domain, DomainSpec, Role};
use hypernetes_facade::{Body, Parameters};
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Shared,
    caller::Caller,
    fields::{check_name, nullable},
    groups, many, one, projects, users,
};
use crate::{
    Error, Identity,
    catalog::link,
    directory::key,
    ids::{DEFAULT_DOMAIN, new_id},
};

const MAX_NAME_CHARS: usize = 64;

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/domains", get(list).post(create))
        .route("/domains/{id}", get(show).patch(update).delete(delete))
}

pub(super) fn to_json(identity: &Identity, domain: &Domain) -> Value {
    let (id, spec) = (domain.name_any(), &domain.spec);
    json!({
        "links": {"self": link(&identity.config, &format!("domains/{id}"))},
        "id": id, "name": spec.display_name, "description": spec.description, "enabled": spec.enabled,
        "tags": [], "options": {},
    })
}

#[derive(Deserialize)]
struct Envelope {
    domain: Input,
}

#[derive(Deserialize)]
struct Input {
    name: Option<String>,
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
}

impl Input {
    fn apply(&self, spec: &mut DomainSpec) {
        if let Some(name) = &self.name {
            spec.display_name.clone_from(name);
        }
        if let Some(description) = &self.description {
            spec.description = description.clone().unwrap_or_default();
        }
        if let Some(enabled) = self.enabled {
            spec.enabled = enabled;
        }
    }
}

async fn list(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_domains")?;
    let passing = identity.directory.domains.all().into_iter().filter(|domain| {
        filters.passes("name", &domain.spec.display_name) && filters.passes_flag("enabled", domain.spec.enabled)
    });
    Ok(many(&identity, "domains", "domains", passing.map(|d| to_json(&identity, &d)).collect()))
}

async fn create(State(identity): Shared, caller: Caller, Body(body): Body<Envelope>) -> Result<Response, Error> {
    caller.admin("identity:create_domain")?;
    let name = body.domain.name.clone().ok_or_else(|| Error::BadRequest("'name' is a required property".into()))?;
    check_name(&name, MAX_NAME_CHARS)?;
    let _naming = identity.directory.naming.lock().await;
    identity.directory.check_name_free::<Domain>("", &name, None)?;
    let mut spec = DomainSpec { enabled: true, ..DomainSpec::default() };
    body.domain.apply(&mut spec);
    let created = identity.directory.create(&Domain::new(&new_id(), spec)).await?;
    Ok((StatusCode::CREATED, one("domain", to_json(&identity, &created))).into_response())
}

async fn show(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader_or(caller.0.user.spec.domain == id, "identity:get_domain")?;
    Ok(one("domain", to_json(&identity, &*identity.directory.get::<Domain>(&id)?)))
}

async fn update(
    State(identity): Shared,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<Envelope>,
) -> Result<Json<Value>, Error> {
    caller.admin("identity:update_domain")?;
    let (directory, input) = (&identity.directory, body.domain);
    directory.get::<Domain>(&id)?;
    if input.enabled == Some(false) && id == DEFAULT_DOMAIN {
        return Err(Error::forbidden("disabling the default domain"));
    }
    let _naming = directory.naming.lock().await;
    if let Some(name) = &input.name {
        check_name(name, MAX_NAME_CHARS)?;
        directory.check_name_free::<Domain>("", name, Some(&id))?;
    }
    let changed = directory.update::<Domain>(&id, |domain| input.apply(&mut domain.spec)).await?;
    Ok(one("domain", to_json(&identity, &changed)))
}

/// With all that is in it; it must be disabled before.
async fn delete(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Error> {
    caller.admin("identity:delete_domain")?;
    let directory = &identity.directory;
    if directory.get::<Domain>(&id)?.spec.enabled {
        return Err(Error::forbidden("deleting a domain that is enabled, please disable it first"));
    }
    for user in directory.users.find(&key("domain", &id)) {
        users::remove(&identity, &user.name_any()).await?;
    }
    for group in directory.groups.find(&key("domain", &id)) {
        groups::remove(&identity, &group.name_any()).await?;
    }
    for project in directory.projects.find(&key("domain", &id)) {
        projects::remove(&identity, &project.name_any()).await?;
    }
    let own_roles = directory.roles.all().into_iter().filter(|role| role.spec.domain.as_deref() == Some(&id));
    for role in own_roles {
        directory.delete_assignments("role", &role.name_any()).await?;
        directory.delete::<Role>(&role.name_any()).await?;
    }
    directory.delete_assignments("domain", &id).await?;
    directory.delete::<Domain>(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
