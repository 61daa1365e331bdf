//! The HTTP API. Shapes and codes are those of Keystone's API reference, policies those of its defaults, with one
//! exception: `admin` of a project or domain administers that alone; the installation is administered by whoever is
//! `admin` in the system scope or in the project `admin`.

mod assignments;
mod auth;
mod caller;
mod catalog;
mod domains;
mod fields;
mod groups;
mod membership;
mod projects;
mod roles;
mod users;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use hypernetes_facade::{Facade, with_fallbacks};
use serde_json::{Value, json};

use crate::{Error, Identity, catalog::link};

type Shared = State<Arc<Identity>>;

impl Facade for Identity {
    type Error = Error;

    /// Keystone's default limit.
    const MAX_BODY_BYTES: usize = 114_688;
}

pub(crate) fn router(identity: Arc<Identity>) -> Router {
    let v3 = Router::new()
        .merge(auth::routes())
        .merge(projects::routes())
        .merge(users::routes())
        .merge(domains::routes())
        .merge(groups::routes())
        .merge(membership::routes())
        .merge(roles::routes())
        .merge(assignments::routes())
        .merge(catalog::routes());
    let router =
        Router::new().route("/", get(versions)).route("/v3", get(version)).route("/v3/", get(version)).nest("/v3", v3);
    with_fallbacks(router).with_state(identity)
}

fn v3(identity: &Identity) -> Value {
    json!({
        "id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": link(&identity.config, "")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    })
}

async fn versions(State(identity): Shared) -> Response {
    (StatusCode::MULTIPLE_CHOICES, Json(json!({"versions": {"values": [v3(&identity)]}}))).into_response()
}

async fn version(State(identity): Shared) -> Json<Value> {
    Json(json!({"version": v3(&identity)}))
}

/// One resource, under its name.
fn one(name: &str, value: Value) -> Json<Value> {
    Json(json!({name: value}))
}

/// A list, under its name; lists are never cut into pages.
fn many(identity: &Identity, name: &str, path: &str, values: Vec<Value>) -> Json<Value> {
    Json(json!({name: values, "links": {"self": link(&identity.config, path), "previous": null, "next": null}}))
}
