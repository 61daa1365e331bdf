//! `componentstatuses`: made when they are asked for. What the server itself can tell of is its store.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use hypernetes_api::ApiError;
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    answer::json_response,
    health,
    read::{Reading, Wanted, form::Form, shape::bare_metadata},
};

/// The store, on any engine: the name that monitoring knows.
const STORE: &str = "etcd-0";

pub async fn get(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    if name != STORE {
        // Upstream says its kind in the singular here.
        return Err(ApiError::not_found("", "componentstatus", name));
    }
    let store = store(server).await;
    Ok(deprecated(match Wanted::of(call, Reading::One)?.form {
        Form::Object => json_response(StatusCode::OK, &typed(&store)),
        Form::Metadata => json_response(StatusCode::OK, &bare_metadata(&store)),
        Form::Table(_) => json_response(StatusCode::OK, &table(call, &store)?),
    }))
}

pub async fn list(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let store = store(server).await;
    let list = |version: &str, kind: &str, item: &Value| json!({"kind": kind, "apiVersion": version, "metadata": {}, "items": [item]});
    Ok(deprecated(match Wanted::of(call, Reading::List)?.form {
        Form::Object => json_response(StatusCode::OK, &list("v1", "ComponentStatusList", &store)),
        Form::Metadata => {
            let one = bare_metadata(&store);
            json_response(StatusCode::OK, &list("meta.k8s.io/v1", "PartialObjectMetadataList", &one))
        }
        Form::Table(_) => json_response(StatusCode::OK, &table(call, &store)?),
    }))
}

async fn store(server: &Inner) -> Value {
    let condition = match health::store(server.store.stored()).await {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(error) => json!({"type": "Healthy", "status": "False", "message": error.to_string()}),
    };
    json!({"metadata": {"name": STORE}, "conditions": [condition]})
}

fn typed(component: &Value) -> Value {
    let mut typed = component.clone();
    typed["kind"] = "ComponentStatus".into();
    typed["apiVersion"] = "v1".into();
    typed
}

fn table(call: &Call, component: &Value) -> Result<Value, ApiError> {
    let mut cells = String::new();
    call.resource.cells(component).show(jiff::Timestamp::now(), |piece| cells.push_str(piece));
    let cells: Value = serde_json::from_str(&cells).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": call.resource.column_definitions(),
        "rows": [{"cells": cells, "object": bare_metadata(component)}],
    }))
}

fn deprecated(mut response: Response<Body>) -> Response<Body> {
    let warning = HeaderValue::from_static("299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    response.headers_mut().insert(header::WARNING, warning);
    response
}
