//! `/v3/regions`, `/v3/services` and `/v3/endpoints`: read-only, because they follow from where the server listens.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use hypernetes_facade::Parameters;
use serde_json::Value;

use super::{Shared, caller::Caller, many, one};
use crate::{
    Error, Identity,
    catalog::{SERVICES, region},
};

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/regions", get(list_regions).post(fixed))
        .route("/regions/{id}", get(show_region).patch(fixed).delete(fixed))
        .route("/services", get(list_services).post(fixed))
        .route("/services/{id}", get(show_service).patch(fixed).delete(fixed))
        .route("/endpoints", get(list_endpoints).post(fixed))
        .route("/endpoints/{id}", get(show_endpoint).patch(fixed).delete(fixed))
}

async fn fixed(_: Caller) -> Error {
    Error::NotSupported("Changing the catalogue")
}

async fn list_regions(State(identity): Shared, _: Caller) -> Json<Value> {
    many(&identity, "regions", "regions", vec![region(&identity.config)])
}

async fn show_region(State(identity): Shared, _: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    if id == identity.config.region {
        Ok(one("region", region(&identity.config)))
    } else {
        Err(Error::not_found("region", id))
    }
}

async fn list_services(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_services")?;
    let passing = SERVICES.iter().filter(|s| filters.passes("type", s.kind) && filters.passes("name", s.name));
    Ok(many(&identity, "services", "services", passing.map(|s| s.to_json(&identity.config)).collect()))
}

async fn show_service(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader("identity:get_service")?;
    let service = SERVICES.iter().find(|s| s.id() == id).ok_or_else(|| Error::not_found("service", id))?;
    Ok(one("service", service.to_json(&identity.config)))
}

fn endpoints(identity: &Identity) -> impl Iterator<Item = Value> {
    SERVICES.iter().flat_map(|service| service.endpoints(&identity.config))
}

async fn list_endpoints(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_endpoints")?;
    let passing = endpoints(&identity).filter(|endpoint| {
        ["interface", "service_id", "region_id"]
            .iter()
            .all(|field| filters.passes(field, endpoint[field].as_str().unwrap_or_default()))
    });
    Ok(many(&identity, "endpoints", "endpoints", passing.collect()))
}

async fn show_endpoint(State(identity): Shared, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    caller.reader("identity:get_endpoint")?;
    let endpoint = endpoints(&identity).find(|e| e["id"] == id).ok_or_else(|| Error::not_found("endpoint", id))?;
    Ok(one("endpoint", endpoint))
}
