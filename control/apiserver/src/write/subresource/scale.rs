//! `scale`: how many pods a workload wants, as `autoscaling/v1` has it for all of them.

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, error::Cause};
use hypernetes_kinds::Subresource;
use hypernetes_schema::{FieldValidation, managed};
use serde_json::{Value, json};

use super::{super::patch::Language, kind_of};
use crate::{
    Call, Inner,
    answer::json_response,
    request::options::{OptionsOf, WriteOptions},
    stored_form,
    write::{Operation, Proposal, Write, check_name, fields, now, text, transact},
};

pub(crate) async fn get(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    let entry = server.store.get(&call.key(name)?).await?;
    let object = stored_form::decode(&entry.ok_or_else(|| call.not_found(name))?)?;
    Ok(json_response(StatusCode::OK, &scale_of(&object)))
}

/// A workload's `Scale`.
fn scale_of(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let selector: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    let metadata = &object["metadata"];
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")},
    })
}

pub(crate) async fn update(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, OptionsOf::Update)?;
    let scale = kind_of(call, Subresource::Scale)?.decode(&call.body, options.validation)?.object;
    let once = !text(&scale, &["metadata", "resourceVersion"]).is_empty();
    write(server, call, &options, |_, old| scaled(call, old, &scale, once)).await
}

pub(crate) async fn patch(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let language = Language::of(call)?;
    let options = language.options(call)?;
    let ty = kind_of(call, Subresource::Scale)?;
    if language == Language::Apply {
        let applied = ty.decode(&call.body, options.validation)?.object;
        return write(server, call, &options, |write, old| apply(write, old, &applied)).await;
    }
    let propose = |_: &Write<'_>, old: &Value| {
        let scale = language.patched(&ty, scale_of(old), &call.body, &options)?.object;
        scaled(call, old, &scale, false)
    };
    write(server, call, &options, propose).await
}

async fn write(
    server: &Inner,
    call: &Call,
    options: &WriteOptions,
    propose: impl Fn(&Write<'_>, &Value) -> Result<Proposal, ApiError> + Send + Sync,
) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    let write = Write { server, call, subresource: Some(Subresource::Scale), options };
    let of_old = |old: Option<&Value>| propose(&write, old.ok_or_else(|| call.not_found(name))?);
    let written = transact(&write, Some(name), of_old).await?;
    Ok(json_response(StatusCode::OK, &scale_of(&written.object)))
}

fn replicas(call: &Call, scale: &Value) -> Result<i64, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    check_name(name, scale)?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let cause = Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            field: "spec.replicas".into(),
        };
        return Err(ApiError::invalid("autoscaling", "Scale", name, vec![cause]));
    }
    Ok(replicas)
}

/// The workload with a scale's replicas, for the version and uid that the scale names.
fn scaled(call: &Call, old: &Value, scale: &Value, once: bool) -> Result<Proposal, ApiError> {
    let replicas = replicas(call, scale)?;
    let mut object = old.clone();
    fields(&mut object, &["spec"]).insert("replicas".into(), replicas.into());
    for precondition in ["resourceVersion", "uid"] {
        if let Some(wanted) = scale["metadata"].get(precondition) {
            fields(&mut object, &["metadata"]).insert(precondition.into(), wanted.clone());
        }
    }
    Ok(Proposal { operation: Operation::Update, object, warnings: Vec::new(), managed: false, once })
}

/// Server-side apply of a scale: what it owns of the workload is the number of replicas.
fn apply(write: &Write<'_>, old: &Value, applied: &Value) -> Result<Proposal, ApiError> {
    let replicas = replicas(write.call, applied)?;
    let ty = &write.call.resource.ty;
    let configuration = json!({
        "apiVersion": ty.api_version(), "kind": ty.kind,
        "metadata": {"name": old["metadata"]["name"], "namespace": old["metadata"]["namespace"]},
        "spec": {"replicas": replicas},
    });
    let configuration = ty.check(configuration, FieldValidation::Ignore)?.object;
    let now = now();
    let mut object = managed::apply(ty, Some(old), &configuration, write.writer(&now), write.options.force)?;
    let version = old["metadata"]["resourceVersion"].clone();
    fields(&mut object, &["metadata"]).insert("resourceVersion".into(), version);
    Ok(Proposal { operation: Operation::Update, object, warnings: Vec::new(), managed: true, once: false })
}
