//! `/v3/projects`: each is a tenant. What is in its logical cluster comes and goes after the Project object, by the
//! controllers.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use hypernetes_api::{
    TenantId,
    types::identity::{Domain, Project, ProjectSpec, RoleAssignment},
};
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
    ids::{DEFAULT_DOMAIN, admin_project_id, new_id},
    roles::Target,
};

const MAX_NAME_CHARS: usize = 64;
const MAX_TAGS: usize = 80;

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/projects", get(list).post(create))
        .route("/projects/{id}", get(show).patch(update).delete(delete))
}

pub(super) fn to_json(identity: &Identity, project: &Project) -> Value {
    let (id, spec) = (project.name_any(), &project.spec);
    json!({
        "links": {"self": link(&identity.config, &format!("projects/{id}"))},
        "id": id, "name": spec.display_name, "domain_id": spec.domain, "description": spec.description,
        "enabled": spec.enabled, "parent_id": spec.domain, "is_domain": false, "tags": spec.tags, "options": {},
    })
}

/// The enabled projects that a user has a role in.
pub(super) fn of_user(identity: &Identity, user: &str) -> Vec<Arc<Project>> {
    let directory = &identity.directory;
    let assignments = directory.assignments_of(user);
    let mut ids: BTreeSet<String> = assignments.iter().filter_map(|a| a.spec.project.clone()).collect();
    let inherited = |a: &&Arc<RoleAssignment>| a.spec.inherited;
    for domain in assignments.iter().filter(inherited).filter_map(|a| a.spec.domain.as_deref()) {
        let projects = directory.projects.find(&crate::directory::key("domain", domain));
        ids.extend(projects.iter().map(|project| project.name_any()));
    }
    ids.iter().filter_map(|id| directory.projects.get(id)).filter(|project| project.spec.enabled).collect()
}

#[derive(Deserialize)]
struct Envelope {
    project: Input,
}

#[derive(Deserialize)]
struct Input {
    name: Option<String>,
    domain_id: Option<String>,
    parent_id: Option<String>,
    is_domain: Option<bool>,
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    tags: Option<Vec<String>>,
}

impl Input {
    fn check(&self, domain: &str) -> Result<(), Error> {
        if self.is_domain == Some(true) {
            return Err(Error::NotSupported("A project that acts as a domain"));
        }
        if self.parent_id.as_deref().is_some_and(|parent| parent != domain) {
            return Err(Error::NotSupported("A project within a project"));
        }
        if self.tags.as_ref().is_some_and(|tags| tags.len() > MAX_TAGS) {
            return Err(Error::BadRequest(format!("Invalid input for field 'tags': more than {MAX_TAGS}.")));
        }
        if let Some(name) = &self.name {
            check_name(name, MAX_NAME_CHARS)?;
            // `/clusters/<name>` takes the names of the default domain's projects.
            if domain == DEFAULT_DOMAIN && name == TenantId::SYSTEM {
                return Err(Error::Conflict { kind: "project", why: "the name system is reserved".into() });
            }
        }
        Ok(())
    }

    fn apply(&self, spec: &mut ProjectSpec) {
        if let Some(name) = &self.name {
            spec.display_name.clone_from(name);
        }
        if let Some(description) = &self.description {
            spec.description = description.clone().unwrap_or_default();
        }
        if let Some(enabled) = self.enabled {
            spec.enabled = enabled;
        }
        if let Some(tags) = &self.tags {
            spec.tags.clone_from(tags);
        }
    }
}

async fn list(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_projects")?;
    // Every project is below its domain alone, and none acts as one.
    let none = filters.flag("is_domain") == Some(true);
    let passing = identity.directory.projects.all().into_iter().filter(|project| {
        let spec = &project.spec;
        !none
            && filters.passes("name", &spec.display_name)
            && filters.passes("domain_id", &spec.domain)
            && filters.passes("parent_id", &spec.domain)
            && filters.passes_flag("enabled", spec.enabled)
    });
    Ok(many(&identity, "projects", "projects", passing.map(|p| to_json(&identity, &p)).collect()))
}

async fn create(State(identity): Shared, caller: Caller, Body(body): Body<Envelope>) -> Result<Response, Error> {
    caller.admin("identity:create_project")?;
    let input = body.project;
    let domain = input.domain_id.clone().unwrap_or_else(|| caller.0.user.spec.domain.clone());
    identity
        .directory
        .get::<Domain>(&domain)
        .map_err(|_| Error::BadRequest(format!("There is no domain {domain:.64}.")))?;
    input.check(&domain)?;
    let name = input.name.clone().ok_or_else(|| Error::BadRequest("'name' is a required property".into()))?;
    let _naming = identity.directory.naming.lock().await;
    identity.directory.check_name_free::<Project>(&domain, &name, None)?;
    let mut spec = ProjectSpec { domain, enabled: true, ..ProjectSpec::default() };
    input.apply(&mut spec);
    let created = identity.directory.create(&Project::new(&new_id(), spec)).await?;
    Ok((StatusCode::CREATED, one("project", to_json(&identity, &created))).into_response())
}

async fn show(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    let own = caller.0.project_id() == Some(id.as_str())
        || !identity.directory.roles_in(caller.0.user_id(), &Target::Project(id.clone())).is_empty();
    caller.reader_or(own, "identity:get_project")?;
    Ok(one("project", to_json(&identity, &*identity.directory.get::<Project>(&id)?)))
}

async fn update(
    State(identity): Shared,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<Envelope>,
) -> Result<Json<Value>, Error> {
    caller.admin("identity:update_project")?;
    let (directory, input) = (&identity.directory, body.project);
    let domain = directory.get::<Project>(&id)?.spec.domain.clone();
    check_unchanged("domain_id", input.domain_id.as_deref(), &domain)?;
    input.check(&domain)?;
    if input.enabled == Some(false) && id == admin_project_id() {
        return Err(Error::forbidden("disabling the project that administers the installation"));
    }
    let _naming = directory.naming.lock().await;
    if let Some(name) = &input.name {
        directory.check_name_free::<Project>(&domain, name, Some(&id))?;
    }
    let changed = directory.update::<Project>(&id, |project| input.apply(&mut project.spec)).await?;
    if input.enabled == Some(false) {
        identity.revoke_project(&id).await?;
    }
    Ok(one("project", to_json(&identity, &changed)))
}

async fn delete(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Error> {
    caller.admin("identity:delete_project")?;
    identity.directory.get::<Project>(&id)?;
    if id == admin_project_id() {
        return Err(Error::forbidden("deleting the project that administers the installation"));
    }
    remove(&identity, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(identity: &Identity, id: &str) -> Result<(), Error> {
    identity.directory.delete_assignments("project", id).await?;
    identity.directory.delete::<Project>(id).await
}
