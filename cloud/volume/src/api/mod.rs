//! The HTTP API. Shapes and codes are those of Cinder's API reference at microversion 3.0, the only one offered.
//! `reader` looks, `member` and `admin` change; nobody sees more than the token's own project.

mod error;
mod input;
mod metadata;
mod object;
mod services;
mod types;
mod view;
mod volumes;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{FromRef, FromRequestParts, Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, request::Parts};
use hypernetes_api::{
    TenantId,
    auth::{TokenAuthority, TokenInfo, TokenScope},
};
use hypernetes_facade::{Facade, Guarded, with_fallbacks};
use serde_json::{Value, json};

use crate::Volumes;
use error::Error;

/// The router's state.
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

impl Facade for Server {
    type Error = Error;

    /// Cinder's default limit.
    const MAX_BODY_BYTES: usize = 114_688;
}

impl Guarded for Server {
    /// The project in the path, whose the token must be.
    type Scope = TenantId;

    fn authority(&self) -> &dyn TokenAuthority {
        &*self.authority
    }

    async fn scope(&self, token: &TokenInfo, parts: &mut Parts) -> Result<TenantId, Error> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, self).await;
        let named = path.ok().and_then(|Path(mut segments)| segments.remove("project")).unwrap_or_default();
        match &token.scope {
            TokenScope::Project { id, .. } if id.as_str() == named => Ok(id.clone()),
            // As Cinder has it, whether there is such a project or not.
            _ => Err(Error::BadRequest("Malformed request url".into())),
        }
    }
}

type Shared = State<Arc<Volumes>>;
type Caller = hypernetes_facade::Caller<TenantId>;

pub(crate) fn router(volumes: Arc<Volumes>, authority: Arc<dyn TokenAuthority>) -> Router {
    let project = Router::new()
        .merge(volumes::routes())
        .merge(metadata::routes())
        .merge(types::routes())
        .merge(services::routes());
    let router = Router::new()
        .route("/", get(versions))
        .route("/v3", get(version))
        .route("/v3/", get(version))
        .nest("/v3/{project}", project);
    with_fallbacks(router).with_state(Server { volumes, authority })
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
