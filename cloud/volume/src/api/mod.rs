//! The HTTP API. Shapes and codes are those of Cinder's API reference at microversion 3.0, the only one offered.
//! `reader` looks, `member` and `admin` change; nobody sees more than the token's own project.

mod error;
mod request;
mod services;
mod types;
mod volumes;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRef, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use hypernetes_api::auth::TokenAuthority;
use serde_json::{Value, json};

use crate::Volumes;
use error::Error;

#[derive(Clone)]
struct Server {
    volumes: Arc<Volumes>,
    authority: Arc<dyn TokenAuthority>,
}

impl FromRef<Server> for Arc<Volumes> {
    fn from_ref(server: &Server) -> Self {
        Arc::clone(&server.volumes)
    }
}

type Shared = State<Arc<Volumes>>;

pub(crate) fn router(volumes: Arc<Volumes>, authority: Arc<dyn TokenAuthority>) -> Router {
    let project = Router::new().merge(volumes::routes()).merge(types::routes()).merge(services::routes());
    Router::new()
        .route("/", get(versions))
        .route("/v3", get(version))
        .route("/v3/", get(version))
        .nest("/v3/{project}", project)
        .fallback(|| async { Error::NoSuchPath })
        .method_not_allowed_fallback(|| async { Error::MethodNotAllowed })
        .with_state(Server { volumes, authority })
}

fn document(volumes: &Volumes) -> Value {
    json!({"versions": [{
        "id": "v3.0", "status": "CURRENT", "version": "3.0", "min_version": "3.0", "updated": "2016-02-08T12:20:21Z",
        "links": [{"rel": "self", "href": format!("{}/volume/v3/", volumes.config.public_url)}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    }]})
}

async fn versions(State(volumes): Shared) -> Response {
    (StatusCode::MULTIPLE_CHOICES, Json(document(&volumes))).into_response()
}

async fn version(State(volumes): Shared) -> Json<Value> {
    Json(document(&volumes))
}
