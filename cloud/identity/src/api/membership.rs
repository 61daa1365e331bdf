//! Who is in which group.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use http::StatusCode;
use hypernetes_api::types::identity::{Group, User};
use serde_json::Value;

use super::{Shared, caller::Caller, groups, many, users};
use crate::{Error, Identity};

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/groups/{id}/users", get(list_users))
        .route("/groups/{id}/users/{user}", get(is_member).put(add).delete(drop_member))
        .route("/users/{id}/groups", get(list_groups))
}

async fn list_users(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_users_in_group")?;
    let group = identity.directory.get::<Group>(&id)?;
    let members = group.spec.members.iter().filter_map(|user| identity.directory.users.get(user));
    let path = format!("groups/{id}/users");
    Ok(many(&identity, "users", &path, members.map(|user| users::to_json(&identity, &user)).collect()))
}

/// Both must exist; whether the user is in the group.
fn membership(identity: &Identity, group: &str, user: &str) -> Result<bool, Error> {
    let group = identity.directory.get::<Group>(group)?;
    identity.directory.get::<User>(user)?;
    Ok(group.spec.members.iter().any(|member| member == user))
}

async fn is_member(
    State(identity): Shared,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    caller.reader_or(caller.is_user(&user), "identity:check_user_in_group")?;
    if membership(&identity, &id, &user)? { Ok(StatusCode::NO_CONTENT) } else { Err(Error::not_found("user", user)) }
}

async fn add(
    State(identity): Shared,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    caller.admin("identity:add_user_to_group")?;
    if !membership(&identity, &id, &user)? {
        let join = |group: &mut Group| {
            if !group.spec.members.contains(&user) {
                group.spec.members.push(user.clone());
            }
        };
        identity.directory.update::<Group>(&id, join).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn drop_member(
    State(identity): Shared,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    caller.admin("identity:remove_user_from_group")?;
    if !membership(&identity, &id, &user)? {
        return Err(Error::not_found("user", user));
    }
    identity.directory.update::<Group>(&id, |group| group.spec.members.retain(|member| *member != user)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_groups(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader_or(caller.is_user(&id), "identity:list_groups_for_user")?;
    identity.directory.get::<User>(&id)?;
    let own = identity.directory.groups_of(&id);
    let path = format!("users/{id}/groups");
    Ok(many(&identity, "groups", &path, own.iter().map(|g| groups::to_json(&identity, g)).collect()))
}
