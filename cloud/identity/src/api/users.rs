//! `/v3/users`

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use hypernetes_api::{
    auth::{Source, Spent},
    types::identity::{Domain, Group, User, UserSpec},
};
use hypernetes_facade::{Body, Parameters};
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Shared,
    caller::Caller,
    fields::{check_name, check_unchanged, nullable},
    many, one, projects,
};
use crate::{Error, Identity, authentication::UserRef, catalog::link, ids::new_id, passwords::Passwords};

const MAX_NAME_CHARS: usize = 255;

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{id}", get(show).patch(update).delete(delete))
        .route("/users/{id}/password", post(change_password))
        .route("/users/{id}/projects", get(list_projects))
}

pub(super) fn to_json(identity: &Identity, user: &User) -> Value {
    let (id, spec) = (user.name_any(), &user.spec);
    let mut value = json!({
        "links": {"self": link(&identity.config, &format!("users/{id}"))},
        "id": id, "name": spec.display_name, "domain_id": spec.domain, "enabled": spec.enabled,
        "password_expires_at": null, "options": {},
    });
    // Keystone shows these only where they are set.
    if !spec.description.is_empty() {
        value["description"] = json!(spec.description);
    }
    if !spec.email.is_empty() {
        value["email"] = json!(spec.email);
    }
    if let Some(project) = &spec.default_project {
        value["default_project_id"] = json!(project);
    }
    value
}

#[derive(Deserialize)]
struct Envelope {
    user: Input,
}

#[derive(Deserialize)]
struct Input {
    name: Option<String>,
    domain_id: Option<String>,
    enabled: Option<bool>,
    password: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    email: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    default_project_id: Option<Option<String>>,
}

impl Input {
    fn check(&self) -> Result<(), Error> {
        if let Some(name) = &self.name {
            check_name(name, MAX_NAME_CHARS)?;
        }
        if let Some(password) = &self.password {
            Passwords::check_form(password)?;
        }
        Ok(())
    }

    fn apply(&self, spec: &mut UserSpec) {
        if let Some(name) = &self.name {
            spec.display_name.clone_from(name);
        }
        if let Some(enabled) = self.enabled {
            spec.enabled = enabled;
        }
        if let Some(description) = &self.description {
            spec.description = description.clone().unwrap_or_default();
        }
        if let Some(email) = &self.email {
            spec.email = email.clone().unwrap_or_default();
        }
        if let Some(project) = &self.default_project_id {
            spec.default_project.clone_from(project);
        }
    }
}

async fn list(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_users")?;
    let passing = identity.directory.users.all().into_iter().filter(|user| {
        filters.passes("name", &user.spec.display_name)
            && filters.passes("domain_id", &user.spec.domain)
            && filters.passes_flag("enabled", user.spec.enabled)
    });
    Ok(many(&identity, "users", "users", passing.map(|u| to_json(&identity, &u)).collect()))
}

async fn create(State(identity): Shared, caller: Caller, Body(body): Body<Envelope>) -> Result<Response, Error> {
    caller.admin("identity:create_user")?;
    let (directory, input) = (&identity.directory, body.user);
    input.check()?;
    let domain = input.domain_id.clone().unwrap_or_else(|| caller.0.user.spec.domain.clone());
    directory.get::<Domain>(&domain).map_err(|_| Error::BadRequest(format!("There is no domain {domain:.64}.")))?;
    let name = input.name.clone().ok_or_else(|| Error::BadRequest("'name' is a required property".into()))?;
    directory.check_name_free::<User>(&domain, &name, None)?;
    let id = new_id();
    // The password first: the user is never seen without it. It takes a while, so not while others wait for names.
    if let Some(password) = &input.password {
        identity.passwords.set(&id, password.clone()).await?;
    }
    let mut spec = UserSpec { domain: domain.clone(), enabled: true, ..UserSpec::default() };
    input.apply(&mut spec);
    let created = {
        let _naming = directory.naming.lock().await;
        match directory.check_name_free::<User>(&domain, &name, None) {
            Ok(()) => directory.create(&User::new(&id, spec)).await,
            Err(error) => Err(error),
        }
    };
    if created.is_err() && input.password.is_some() {
        identity.passwords.remove(&id).await?;
    }
    Ok((StatusCode::CREATED, one("user", to_json(&identity, &*created?))).into_response())
}

async fn show(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader_or(caller.is_user(&id), "identity:get_user")?;
    Ok(one("user", to_json(&identity, &*identity.directory.get::<User>(&id)?)))
}

async fn update(
    State(identity): Shared,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<Envelope>,
) -> Result<Json<Value>, Error> {
    caller.admin("identity:update_user")?;
    let (directory, input) = (&identity.directory, body.user);
    input.check()?;
    let domain = directory.get::<User>(&id)?.spec.domain.clone();
    check_unchanged("domain_id", input.domain_id.as_deref(), &domain)?;
    if let Some(password) = &input.password {
        identity.passwords.set(&id, password.clone()).await?;
    }
    let _naming = directory.naming.lock().await;
    if let Some(name) = &input.name {
        directory.check_name_free::<User>(&domain, name, Some(&id))?;
    }
    let changed = directory.update::<User>(&id, |user| input.apply(&mut user.spec)).await?;
    if input.password.is_some() || input.enabled == Some(false) {
        identity.revoke_user(&id).await?;
    }
    Ok(one("user", to_json(&identity, &changed)))
}

async fn delete(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Error> {
    caller.admin("identity:delete_user")?;
    identity.directory.get::<User>(&id)?;
    remove(&identity, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(identity: &Identity, id: &str) -> Result<(), Error> {
    let directory = &identity.directory;
    // The object last: whatever fails before can be tried again.
    directory.delete_assignments("user", id).await?;
    for group in directory.groups_of(id) {
        directory.update::<Group>(&group.name_any(), |group| group.spec.members.retain(|member| member != id)).await?;
    }
    identity.passwords.remove(id).await?;
    directory.delete::<User>(id).await
}

#[derive(Deserialize)]
struct PasswordEnvelope {
    user: PasswordInput,
}

#[derive(Deserialize)]
struct PasswordInput {
    password: String,
    original_password: String,
}

/// A user changes its own password. Needs no token: knowing the old password is as good.
async fn change_password(
    State(identity): Shared,
    source: Option<Extension<Source>>,
    Path(id): Path<String>,
    Body(body): Body<PasswordEnvelope>,
) -> Result<Response, Error> {
    identity.ready().await?;
    Passwords::check_form(&body.user.password)?;
    let (id, cost) = identity
        .check_password(source.map(|Extension(source)| source), &UserRef::Id(id), body.user.original_password)
        .await?;
    let changed = async {
        identity.passwords.set(&id, body.user.password).await?;
        identity.revoke_user(&id).await
    };
    let mut response = changed.await.map(|()| StatusCode::NO_CONTENT).into_response();
    // To make a hash costs as much as to check one.
    response.extensions_mut().insert(Spent { cost: cost * 2, tenant: None });
    Ok(response)
}

async fn list_projects(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader_or(caller.is_user(&id), "identity:list_user_projects")?;
    identity.directory.get::<User>(&id)?;
    let own = projects::of_user(&identity, &id);
    let path = format!("users/{id}/projects");
    Ok(many(&identity, "projects", &path, own.iter().map(|p| projects::to_json(&identity, p)).collect()))
}
