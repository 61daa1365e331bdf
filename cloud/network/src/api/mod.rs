//! The HTTP API: Neutron v2.0. Objects' ids are their uids. Shapes, codes and messages are those of Neutron's API
//! reference; an object is seen with the token of its own project, or with one of the system's scope.

mod attributes;
mod error;
mod extensions;
mod list;
mod networks;
mod object;
mod ports;
mod reach;
mod subnets;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRef, State},
    routing::get,
};
use hypernetes_facade::{Body, Parameters, with_fallbacks};
use serde_json::{Map, Value, json};

use attributes::{Attributes, item};
use error::Error;
use reach::Reach;

use crate::NetworkService;

/// The router's state.
#[derive(Clone)]
pub(crate) struct Server(Arc<NetworkService>);

impl FromRef<Server> for Arc<NetworkService> {
    fn from_ref(server: &Server) -> Self {
        Arc::clone(&server.0)
    }
}

type Service = State<Arc<NetworkService>>;
type Caller = hypernetes_facade::Caller<Reach>;
/// A resource under its name.
type Envelope = Body<Map<String, Value>>;
type Answer = Result<Json<Value>, Error>;

pub(crate) fn router(service: Arc<NetworkService>) -> Router {
    let v2 = Router::new()
        .route("/networks", get(networks::list).post(networks::create))
        .route("/networks/{id}", get(networks::show).put(networks::update).delete(networks::delete))
        .route("/subnets", get(subnets::list).post(subnets::create))
        .route("/subnets/{id}", get(subnets::show).put(subnets::update).delete(subnets::delete))
        .route("/ports", get(ports::list).post(ports::create))
        .route("/ports/{id}", get(ports::show).put(ports::update).delete(ports::delete))
        .merge(extensions::routes());
    let networking = Router::new()
        .route("/", get(versions))
        .route("/v2.0", get(resources))
        .route("/v2.0/", get(resources))
        .nest("/v2.0", v2);
    let networking = with_fallbacks(networking);
    // A nested router does not answer its own prefix with a slash.
    Router::new().nest("/networking", networking).route("/networking/", get(versions)).with_state(Server(service))
}

/// A link to something of the API.
fn link(service: &NetworkService, path: &str) -> String {
    format!("{}/networking/v2.0/{path}", service.config.public_url)
}

async fn versions(State(service): Service) -> Json<Value> {
    let links = json!([{"rel": "self", "href": link(&service, "")}]);
    Json(json!({"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}))
}

async fn resources(State(service): Service) -> Json<Value> {
    let one = |(singular, plural): (&str, &str)| {
        let links = json!([{"rel": "self", "href": link(&service, plural)}]);
        json!({"name": singular, "collection": plural, "links": links})
    };
    let all: Vec<Value> =
        [("network", "networks"), ("subnet", "subnets"), ("port", "ports")].into_iter().map(one).collect();
    Json(json!({"resources": all}))
}
